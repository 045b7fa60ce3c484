"""What runs with nothing installed, each a supervised OS process."""
