"""Answers by transformers, with continuous batching."""
