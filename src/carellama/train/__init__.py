"""Training: one module a kind of loss, each a `RowTrainer`; what they share lies in `trainer` and `loop`."""

STAGES = {
    "pt": "carellama.train.causal:CausalTrainer",
    "sft": "carellama.train.causal:CausalTrainer",
    "rm": "carellama.train.reward:RewardTrainer",
    "dpo": "carellama.train.preference:PreferenceTrainer",
    "kto": "carellama.train.kto:KTOTrainer",
    "ppo": "carellama.train.ppo:PPOTrainer",
    "grpo": "carellama.train.grpo:RolloutTrainer",
}
