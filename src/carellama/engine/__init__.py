"""Engines: what answers a conversation, behind one protocol."""
