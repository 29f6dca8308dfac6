"""GGUF files: read, written, adapters."""
