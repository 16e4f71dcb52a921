"""Implements the commands of `tf-cyclegan`, with one module for each."""
