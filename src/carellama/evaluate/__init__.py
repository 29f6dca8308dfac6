"""Evaluation: metrics, predictions and tables of results."""
