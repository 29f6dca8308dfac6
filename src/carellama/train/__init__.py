"""Training: one module a kind of loss, each a `PackedTrainer`; what they share lies in `trainer` and `loop`."""

TRAINERS = {  # by the names of `carellama.stages.STAGES`
    "pt": "carellama.train.causal:CausalTrainer",
    "sft": "carellama.train.causal:CausalTrainer",
    "rm": "carellama.train.reward_model:RewardTrainer",
    "dpo": "carellama.train.dpo:DPOTrainer",
    "kto": "carellama.train.kto:KTOTrainer",
    "ppo": "carellama.train.ppo:PPOTrainer",
    "grpo": "carellama.train.grpo:GRPOTrainer",
}
# what reads the data of a stage, where it is not `carellama.data.encoding.prepare:prepare`
PREPARE = {"ppo": "carellama.train.ppo:prepare", "grpo": "carellama.train.grpo:prepare"}
NEEDS = {"grpo": "trl"}  # packages of the extra `rl`
