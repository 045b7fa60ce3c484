"""Probes, metrics, the HTTP server."""
