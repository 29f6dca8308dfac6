"""The datasets of the field: where each lives, under which terms, and how its own layout becomes records."""
