"""Measures of translations, and images of them side by side."""
