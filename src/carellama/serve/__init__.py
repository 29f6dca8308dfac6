"""Ways to talk to an engine; they are handed one and load none."""
