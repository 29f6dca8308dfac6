"""Requests that must not be answered."""
