"""A trained model as one folder that other programs read."""
