"""From rows to batches: read, convert, mix, encode, pack, collate; each step a module."""
