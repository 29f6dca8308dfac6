"""Rules as data: patterns of concepts with their context and numbers, read from YAML."""
