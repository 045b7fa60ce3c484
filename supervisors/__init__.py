"""The supervision engine, the tree, the command line."""
