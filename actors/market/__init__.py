"""Pure market knowledge: schemas, symbols, rules, calendar, candles, coverage. No I/O."""
