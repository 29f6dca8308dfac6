"""Names of models: released weights and embedded ones, with base, licence and template."""
