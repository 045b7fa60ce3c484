"""Ticks to candles: a deterministic function of the log."""
