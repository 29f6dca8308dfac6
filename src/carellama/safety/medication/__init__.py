"""Medicines that do not go with what a person said."""
