"""Every option of CareLlama, and the environment: the only part that reads flags, YAML files or variables."""
