"""Reference texts for answers: embeddings, and the passages that are found by them."""
