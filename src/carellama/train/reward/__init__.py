"""Rewards of a model's own answers."""
