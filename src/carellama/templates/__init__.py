"""Chat formats: a conversation to text, what of it is learned, where answers end."""
