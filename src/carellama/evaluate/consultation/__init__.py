"""How well a consultation goes: patient cards, patients, doctors and scores; see `run`."""
