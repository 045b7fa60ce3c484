"""One room per actor; a driver is imported only in the file named after it."""
