"""CareLlama: a workshop for medical language models. Importing it loads nothing but the version."""

__version__ = "0.1.0"
