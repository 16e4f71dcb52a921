"""Settings, the training loop, run folders and callbacks."""
