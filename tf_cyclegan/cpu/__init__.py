"""Faster convolutions and normalization for training on a CPU."""
