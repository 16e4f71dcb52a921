"""Translation of images of any size and number with trained generators."""
