"""The durable log: segments of checksummed frames, one writer, many readers."""
