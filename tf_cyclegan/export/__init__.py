"""Exports generators to files for other runtimes."""
