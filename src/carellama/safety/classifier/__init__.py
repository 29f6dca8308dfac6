"""A linear classifier of word sequences and signs, with a few hidden units."""
