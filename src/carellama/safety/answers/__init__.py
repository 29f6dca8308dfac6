"""What an answer must not say without a mark."""
