"""One exactly-once delivery per sink."""
