"""The parts of a model card: what is known, its page in two languages, the head of the hub, CHAI's form."""
