"""Settings, the training loop, run folders, and what happens beside the steps."""
