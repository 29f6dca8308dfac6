"""The options that say what is trained, and how: the stage, the kind of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carellama.config.options import Options, option
from carellama.errors import UserError
from carellama.stages import STAGES


@dataclass(frozen=True)
class FinetuningOptions(Options):
    """What is trained, and how."""

    stage: Literal["pt", "sft", "rm", "dpo", "kto", "ppo", "grpo"] = option(
        "pt: plain text; sft: conversations; rm: reward model; dpo, kto: preferences; "
        "ppo, grpo: reinforcement learning from rewards.",
        "sft",
    )
    finetuning_type: Literal["lora", "freeze", "full", "none"] = option(
        "Train adapters, the last layers, everything, or nothing.", "lora"
    )
    lora_rank: int = option("Rank of the LoRA matrices.", 8, at_least=1)
    lora_alpha: float = option("Scale of the LoRA matrices (times 1/rank).", 32.0, above=0)
    lora_dropout: float = option("Dropout before the LoRA matrices.", 0.1, at_least=0, below=1)
    lora_target: str | None = option(
        "Adapted layers, comma separated; 'all': every linear; default: q_proj,v_proj, or peft's.", None, commas=True
    )
    peft_type: Literal["lora", "vera", "loha", "lokr", "oft", "hra", "ia3"] = option(
        "Kind of the adapters, by peft's name.", "lora"
    )
    use_rslora: bool = option("Scale by 1/sqrt(rank) (rank-stabilised LoRA).", default=False)
    use_dora: bool = option("Weight-decomposed LoRA.", default=False)
    pissa_init: bool = option(
        "Begin with the strongest directions of the weights (PiSSA); saved as LoRA.", default=False
    )
    pissa_iter: int = option("Iterations that find them; -1: exact, slow.", 16, at_least=-1)
    loraplus_lr_ratio: float | None = option(
        "LoRA+: learning rate of the B matrices over that of the A matrices (16 is usual).", None, above=0
    )
    oft_block_size: int = option("oft: values that are turned together.", 32, at_least=1)
    add_tokens: str | None = option(
        "File with a new token a line; begun as the mean of their pieces, and trained.", None
    )
    resume_lora_training: bool | None = option(
        "Train the last adapter of --checkpoint_dir further (default for pt, sft, rm); false: merge it first.", None
    )
    num_layer_trainable: int = option("freeze: the last n layers are trained; negative: the first n.", 3)
    name_module_trainable: str = option("freeze: which part of them: mlp, self_attn, or all.", "mlp")
    plot_loss: bool = option("Draw the loss curve as PNG.", default=False)

    @property
    def goes_on_with_adapter(self) -> bool:
        """Whether the last adapter of --checkpoint_dir is trained further: not where it is the reference."""
        if self.resume_lora_training is not None:
            return self.resume_lora_training
        return not STAGES[self.stage].starts_from_reference

    def __post_init__(self) -> None:
        super().__post_init__()
        compares = STAGES[self.stage].starts_from_reference
        if self.resume_lora_training and compares:
            raise UserError(
                f"--resume_lora_training: --stage {self.stage} compares with the model it begins from, adapters "
                "included, so they are merged and a new one is trained; leave the option out"
            )
        if self.num_layer_trainable == 0:
            raise UserError(
                "--num_layer_trainable is 0; give the last n layers that are trained, or -n for the first n"
            )
        plain = self.peft_type == "lora"
        for name in ("use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio"):
            if getattr(self, name) and not plain:
                raise UserError(f"--{name} is for --peft_type lora, not {self.peft_type}")
        if self.add_tokens and not plain and self.finetuning_type == "lora":
            raise UserError(f"--add_tokens works with --peft_type lora, not {self.peft_type}")
        if self.pissa_init and (self.use_dora or compares):
            other = "--use_dora" if self.use_dora else f"--stage {self.stage}, which compares with the base"
            raise UserError(f"--pissa_init changes the base while it trains and does not go with {other}")
