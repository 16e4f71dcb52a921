"""Trained generators on images of any size and in any number."""
