"""Measures translations, and shows them side by side."""
