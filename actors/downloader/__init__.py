"""History (and later the live stream) of the vendors, cut into slices and appended to the log."""
