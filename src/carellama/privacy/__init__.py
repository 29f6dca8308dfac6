"""De-identification: identifiers of persons in a text, masked or replaced."""
