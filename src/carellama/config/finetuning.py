"""The options that say what is trained, and how: the stage, the kind of adapters. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError
from carellama.stages import STAGES

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass(frozen=True)
class FinetuningArguments:
    """What is trained, and how."""

    stage: Literal["pt", "sft", "rm", "dpo", "kto", "ppo", "grpo"] = field(
        default="sft",
        metadata=about(
            "pt: plain text; sft: conversations; rm: reward model; dpo, kto: preferences; "
            "ppo, grpo: reinforcement learning from rewards."
        ),
    )
    finetuning_type: Literal["lora", "freeze", "full", "none"] = field(
        default="lora", metadata=about("Train adapters, the last layers, everything, or nothing.")
    )
    lora_rank: int = field(default=8, metadata=about("Rank of the LoRA matrices."))
    lora_alpha: float = field(default=32.0, metadata=about("Scale of the LoRA matrices (times 1/rank)."))
    lora_dropout: float = field(default=0.1, metadata=about("Dropout before the LoRA matrices."))
    lora_target: Optional[str] = field(
        default=None,
        metadata=about("Adapted layers, comma separated; 'all': every linear; default: q_proj,v_proj, or peft's."),
    )
    peft_type: Literal["lora", "vera", "loha", "lokr", "oft", "hra", "ia3"] = field(
        default="lora", metadata=about("Kind of the adapters, by peft's name.")
    )
    use_rslora: bool = field(default=False, metadata=about("Scale by 1/sqrt(rank) (rank-stabilised LoRA)."))
    use_dora: bool = field(default=False, metadata=about("Weight-decomposed LoRA."))
    pissa_init: bool = field(
        default=False, metadata=about("Begin with the strongest directions of the weights (PiSSA); saved as LoRA.")
    )
    pissa_iter: int = field(default=16, metadata=about("Iterations that find them; -1: exact, slow."))
    loraplus_lr_ratio: Optional[float] = field(
        default=None, metadata=about("LoRA+: learning rate of the B matrices over that of the A matrices.")
    )
    oft_block_size: int = field(default=32, metadata=about("oft: values that are turned together."))
    add_tokens: Optional[str] = field(
        default=None, metadata=about("File with a new token a line; begun as the mean of their pieces, and trained.")
    )
    resume_lora_training: Optional[bool] = field(
        default=None,
        metadata=about(
            "Train the last adapter of --checkpoint_dir further (default for pt, sft, rm); false: merge it first."
        ),
    )
    num_layer_trainable: int = field(
        default=3, metadata=about("freeze: the last n layers are trained; negative: the first n.")
    )
    name_module_trainable: str = field(
        default="mlp", metadata=about("freeze: which part of them: mlp, self_attn, or all.")
    )
    plot_loss: bool = field(default=False, metadata=about("Draw the loss curve as PNG."))

    @property
    def goes_on_with_adapter(self) -> bool:
        """Whether the last adapter of --checkpoint_dir is trained further: not where it is the reference."""
        if self.resume_lora_training is not None:
            return self.resume_lora_training
        return not STAGES[self.stage].starts_from_reference

    def __post_init__(self) -> None:
        compares = STAGES[self.stage].starts_from_reference
        if self.resume_lora_training and compares:
            raise UserError(
                f"--resume_lora_training: --stage {self.stage} compares with the model it begins from, adapters "
                "included, so they are merged and a new one is trained; leave the option out"
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
        if self.pissa_iter < -1 or self.oft_block_size < 1:
            raise UserError(f"--pissa_iter {self.pissa_iter}, --oft_block_size {self.oft_block_size}: too small")
        if self.loraplus_lr_ratio is not None and self.loraplus_lr_ratio <= 0:
            raise UserError(f"--loraplus_lr_ratio is {self.loraplus_lr_ratio}; it must be above 0 (16 is usual)")
        at_least(self, lora_rank=1)
        if not 0 < self.lora_alpha < float("inf"):
            raise UserError(f"--lora_alpha is {self.lora_alpha}; it must be above 0, or the adapter changes nothing")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout is {self.lora_dropout}; it must be in [0, 1)")
