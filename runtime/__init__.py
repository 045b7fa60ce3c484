"""Seams and primitives of the pipeline: no markets, vendors, databases or supervisors in here."""
