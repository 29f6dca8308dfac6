"""Models: found, loaded, adapted."""
