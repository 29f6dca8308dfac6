"""A model as a folder that a browser runs without a network."""
