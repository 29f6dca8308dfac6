"""The options of a run: our groups as dataclasses, and transformers' training flags beside them.

    from carellama.train.options import run_options
    options = run_options(["--do_train", "--model_name_or_path", "smollm2-135m", ...])

The flags of transformers are words here; `carellama.train.arguments` makes its arguments of them. Loads no library.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from carellama.config.data import DataOptions
from carellama.config.engine import GenerationOptions
from carellama.config.environment import world
from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import TrainedModelOptions
from carellama.config.objectives import GRPOOptions, PPOOptions, PreferenceOptions, RewardOptions
from carellama.config.options import Options, field_names, option, split_commas
from carellama.hardware import has_gpu
from carellama.stages import STAGES, Stage

if TYPE_CHECKING:
    from transformers import Seq2SeqTrainingArguments

    class Training(Seq2SeqTrainingArguments):
        """What transformers has made of its flags: these are None, or JSON as text, only until then."""

        output_dir: str = ""
        gradient_checkpointing_kwargs: dict[str, Any] | None = None


ROW_TOKENS = 768  # whose products are about as fast as those of more


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Training flags of our own, and those of transformers that have another default here."""

    overwrite_output_dir: bool = option("Replace the run that the output folder holds.", default=False)
    resume_changed: str | None = option(
        "Options, comma separated, that may differ from those of the run that is resumed, as in max_steps.",
        None,
        commas=True,
    )
    skip_plan: bool = option("Do not estimate the memory, and train even if there is too little.", default=False)
    row_tokens: int | None = option(
        "Learn from a batch of more tokens in parts of at most so many: the same outcome with less memory; 0: never; "
        "default: 768 on a CPU.",
        None,
        at_least=0,
    )
    report_to: str | None = option(
        "Trackers, comma separated: none, tensorboard, wandb, swanlab, trackio, mlflow, ...; default: tensorboard "
        "where it is installed.",
        None,
        commas=True,
    )
    log_level: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"] = option(
        "transformers' log level.", "warning"
    )
    fp16: bool = option("Compute in float16 (GPU).", default=False)
    bf16: bool | None = option("Compute in bfloat16; default: where this machine is fast at it.", None)
    use_liger_kernel: bool | None = option(
        "Liger's kernels for norms, rotation and gates; default: on a GPU where they are installed.", None
    )

    @property
    def changed(self) -> list[str]:
        """The options of `resume_changed`, with or without their dashes."""
        return [name.removeprefix("--").replace("-", "_") for name in split_commas(self.resume_changed)]


OWN = ("overwrite_output_dir", "resume_changed", "skip_plan", "row_tokens")  # which transformers does not have


@dataclass(frozen=True)
class RunOptions:
    """All groups of one run of `train`, `predict` or `eval`."""

    model: TrainedModelOptions
    data: DataOptions
    finetuning: FinetuningOptions
    generating: GenerationOptions
    preference: PreferenceOptions
    reward: RewardOptions
    ppo: PPOOptions
    grpo: GRPOOptions
    own: TrainingOptions  # training flags of our own
    training: Training
    asked: Mapping[str, str] = field(default_factory=dict)  # what was given, as it was written

    @classmethod
    def of(cls, groups: Sequence[Any], training: Training, asked: Mapping[str, str]) -> RunOptions:
        """Put the instances of `RUN_OPTIONS` and transformers' arguments together."""
        names = [group.name for group in dataclasses.fields(cls)]
        return cls(**dict(zip(names, groups, strict=False)), training=training, asked=asked)

    def with_training(self, **changes: object) -> RunOptions:
        """Return the options with other training flags; transformers' own checks do not run again."""
        training = copy.copy(self.training)
        for name, value in changes.items():
            setattr(training, name, value)
        return dataclasses.replace(self, training=training)

    @property
    def stage(self) -> Stage:
        """The stage of training."""
        return STAGES[self.finetuning.stage]

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares with the model that the training begins from."""
        free = {"dpo": self.preference.is_reference_free, "grpo": not self.grpo.grpo_beta}
        return self.stage.starts_from_reference and not free.get(self.stage.name, False)

    @property
    def compute_dtype(self) -> str:
        """The precision that is computed in."""
        return "bfloat16" if self.training.bf16 else "float16" if self.training.fp16 else "float32"

    @property
    def frozen_dtype(self) -> str:
        """The precision that frozen weights are loaded in: what the machine computes in, unless --dtype says."""
        return self.compute_dtype if self.model.dtype == "auto" else self.model.dtype

    @property
    def row_limit(self) -> int:
        """The most tokens that are learned from at once, 0: all of a batch.

        Several processes, which share their gradients after each part, would wait for one that has fewer.
        """
        if self.stage.loss_unit is None or world()[1] > 1:
            return 0
        asked = self.own.row_tokens
        return (0 if has_gpu() else ROW_TOKENS) if asked is None else asked


LEARNING = (  # read by a training alone
    "learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "gradient_accumulation_steps", "per_device_train_batch_size", "max_grad_norm", "save_strategy", "save_steps",
    "save_total_limit", "gradient_checkpointing", "activation_checkpointing", "neftune_noise_alpha", "row_tokens",
    "loraplus_lr_ratio", "plot_loss", "overwrite_output_dir", "resume_changed", "report_to",
    "load_best_model_at_end", "metric_for_best_model", "streaming", "mix_strategy", "skip_plan",
)  # fmt: skip
ENCODING = (  # read where tokens are learned from or measured, not where questions are answered
    "mask_history", "max_source_length", "max_target_length", "cutoff_len", "packing", "overwrite_cache",
    "data_cache_dir", "preprocessing_num_workers", "val_size", "show_example",
)  # fmt: skip
OF_TRAINING = frozenset({  # neither of an evaluation nor of a prediction, whose verbs say what is done
    *LEARNING, *(name for name in field_names(FinetuningOptions) if name not in ("stage", "finetuning_type")),
    "mix_strategy", "interleave_probs", "buffer_size", "logging_steps", "eval_strategy", "eval_steps", "do_train",
    "do_eval", "do_predict", "predict_with_generate",
})  # fmt: skip
UNREAD = {"eval": OF_TRAINING, "predict": OF_TRAINING | set(ENCODING)}  # options that a command does not read
OUTPUT = {"train": "trainer_output", "eval": "eval_output", "predict": "predict_output"}  # default of --output_dir

RUN_OPTIONS = (
    TrainedModelOptions, DataOptions, FinetuningOptions, GenerationOptions, PreferenceOptions,
    RewardOptions, PPOOptions, GRPOOptions, TrainingOptions,
)  # fmt: skip


@dataclass(frozen=True)
class PlanOptions(Options):
    """What is measured, and where it is written."""

    plan_steps: int = option("Steps that are made and timed where the memory is enough; 0: none.", 3, at_least=0)
    report: str | None = option("JSON file to write the plan to.", None)
    overwrite: bool = option("Replace the report if it is there.", default=False)


def settings_of(options: RunOptions) -> dict[str, Any]:
    """All settings as plain values, for run.json; tokens are left out."""
    names = [group.name for group in dataclasses.fields(RunOptions) if group.name not in ("own", "training", "asked")]
    values = {name: dataclasses.asdict(getattr(options, name)) for name in names}
    values["model"].pop("hf_auth_token")
    values["data"].pop("window")
    training = options.training.to_dict() | {name: getattr(options.own, name) for name in OWN}
    values["training"] = {key: value for key, value in training.items() if not key.endswith("_token")}
    return values
