"""A model over many records: `carellama data synthesize`."""
