"""Instruction data from documents and conversations, written by a model: `carellama data synthesize`."""
