"""The only writer of the durable log."""
