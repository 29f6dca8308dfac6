"""Whether what was written is the model that was trained: every form is opened again and compared."""
