"""The commands of `tf-cyclegan`, one module for each."""
