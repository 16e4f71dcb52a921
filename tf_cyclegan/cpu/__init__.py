"""What only makes training on a CPU faster: convolutions, normalization, memory."""
