"""Which chat format a model has: listed, shown, found by its answers, compared between its files."""
