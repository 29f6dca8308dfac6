"""Training: one module a kind of loss, each with `run(config, trainer, checkpoint)`."""

STAGES = {"pt": "carellama.train.causal:run", "sft": "carellama.train.causal:run"}
