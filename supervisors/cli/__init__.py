"""One file per command of pipeline."""
