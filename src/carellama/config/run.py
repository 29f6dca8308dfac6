"""The options of a run: the argument groups of 2023 as dataclasses, and transformers' training flags.

config = run_config(["--do_train", "--model_name_or_path", "smollm2-135m", ...])
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from transformers import Seq2SeqTrainingArguments

from carellama.config.data import DataArguments
from carellama.config.devices import after_devices, before_devices
from carellama.config.environment import world
from carellama.config.finetuning import FinetuningArguments
from carellama.config.generating import GeneratingArguments
from carellama.config.model import ModelArguments
from carellama.config.objectives import GRPOArguments, PPOArguments, PreferenceArguments, RewardArguments
from carellama.config.option import about, at_least
from carellama.errors import UserError, lookup
from carellama.hardware import default_training_dtype, fastest_dtype, has_gpu
from carellama.stages import STAGES, Stage, greater_is_better

log = logging.getLogger(__name__)

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

LIGER = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
ROW_TOKENS = 768  # whose products are about as fast as those of more


@dataclass
class TrainingArguments(Seq2SeqTrainingArguments):
    """All of transformers' training flags, plus the one that version 5 dropped."""

    if TYPE_CHECKING:
        # None, or JSON as text, only until transformers has read them
        output_dir: str = ""
        gradient_checkpointing_kwargs: dict[str, Any] | None = None

    overwrite_output_dir: bool = field(
        default=False, metadata=about("Write into an output folder that already holds a finished run.")
    )
    resume_changed: Optional[str] = field(
        default=None,
        metadata=about(
            "Options, comma separated, that may differ from those of the run that is resumed, as in max_steps."
        ),
    )
    skip_plan: bool = field(
        default=False, metadata=about("Do not estimate the memory, and train even if there is too little.")
    )
    row_tokens: Optional[int] = field(
        default=None,
        metadata=about(
            "Learn from a batch of more tokens in parts of at most so many: the same outcome with less memory; 0: "
            "never; default: 768 on a CPU."
        ),
    )
    report_to: Optional[str] = field(
        default=None,
        metadata=about(
            "Trackers, comma separated: none, tensorboard, wandb, swanlab, trackio, mlflow, ...; default: tensorboard "
            "where it is installed."
        ),
    )
    log_level: str = field(default="warning", metadata=about("transformers' log level."))

    fp16: bool = field(default=False, metadata=about("Compute in float16 (GPU)."))
    bf16: Optional[bool] = field(  # type: ignore[assignment]  # None until __post_init__ decides
        default=None, metadata=about("Compute in bfloat16; default: where this machine is fast at it.")
    )

    use_liger_kernel: Optional[bool] = field(  # type: ignore[assignment]  # as bf16
        default=None,
        metadata=about("Liger's kernels for norms, rotation and gates; default: on a GPU where they are installed."),
    )

    @property
    def compute_dtype(self) -> str:
        """The precision that is computed in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"

    def __post_init__(self) -> None:
        at_least(self, row_tokens=0)
        given = dict(vars(self))
        if given["greater_is_better"] is None and self.metric_for_best_model:
            self.greater_is_better = greater_is_better(self.metric_for_best_model)
        before_devices(self, gpu=has_gpu())
        fastest = default_training_dtype if self.do_train else fastest_dtype
        if not has_gpu() and self.fp16:
            log.warning("--fp16 needs a GPU: going on in %s on this CPU", "bfloat16" if self.bf16 else fastest())
            self.fp16 = False
            os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and fastest() == "bfloat16"
        _settle_liger(self)
        self.remove_unused_columns = False  # a batch is made of Tokens, which have no columns
        self.label_names = given["label_names"] or ["labels"]
        trackers = _trackers(self.report_to)
        # transformers' TensorBoard writes into the working folder where nothing is trained
        self.report_to = trackers if self.do_train else []  # type: ignore[assignment]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
                super().__post_init__()
        except (ValueError, ImportError) as error:
            raise UserError(str(error).replace("\n", " ")) from error
        after_devices(self)


def _settle_liger(training: Any) -> None:
    """Decide on Liger's kernels, and leave the head and its loss to ours."""
    from transformers.utils import is_liger_kernel_available

    here = has_gpu() and is_liger_kernel_available()
    if training.use_liger_kernel and not here:
        raise UserError("--use_liger_kernel needs a GPU and: pip install liger-kernel")
    if training.use_liger_kernel is None:
        training.use_liger_kernel = here
    if training.use_liger_kernel and training.liger_kernel_config is None:
        training.liger_kernel_config = LIGER


def _trackers(wanted: str | list[str] | None) -> list[str]:
    """The trackers by name. `UserError` for one that transformers does not know, or that is not installed."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    here = get_available_reporting_integrations()
    if wanted is None:
        return ["tensorboard"] if "tensorboard" in here else []
    names = wanted.split(",") if isinstance(wanted, str) else wanted
    names = [name.strip() for name in names if name.strip() not in ("none", "")]
    for name in names:
        if name == "all":
            continue
        lookup(INTEGRATION_TO_CALLBACK, name, "tracker (--report_to)")
        if name not in here:
            raise UserError(f"--report_to {name}: it is not installed; pip install {name}")
    return names


@dataclass(frozen=True)
class RunConfig:
    """All groups of one run of `train`, `predict` or `eval`."""

    model: ModelArguments
    data: DataArguments
    finetuning: FinetuningArguments
    generating: GeneratingArguments
    preference: PreferenceArguments
    reward: RewardArguments
    ppo: PPOArguments
    grpo: GRPOArguments
    training: TrainingArguments
    asked: Mapping[str, str] = field(default_factory=dict)  # what was given, as it was written

    def with_training(self, **changes: Any) -> RunConfig:
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
    def frozen_dtype(self) -> str:
        """The precision that frozen weights are loaded in: what the machine computes in, unless --dtype says."""
        return self.training.compute_dtype if self.model.dtype == "auto" else self.model.dtype

    @property
    def row_limit(self) -> int:
        """The most tokens that are learned from at once, 0: all of a batch.

        Several processes, which share their gradients after each part, would wait for one that has fewer.
        """
        if self.stage.loss_unit is None or world()[1] > 1:
            return 0
        asked = self.training.row_tokens
        return (0 if has_gpu() else ROW_TOKENS) if asked is None else asked


RUN_GROUPS = (
    ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments, PreferenceArguments, RewardArguments,
    PPOArguments, GRPOArguments, TrainingArguments,
)  # fmt: skip


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All settings as plain values, for run.json; tokens are left out."""
    names = [group.name for group in dataclasses.fields(RunConfig) if group.name not in ("training", "asked")]
    values = {name: dataclasses.asdict(getattr(config, name)) for name in names}
    values["model"].pop("hf_auth_token")
    values["data"].pop("window")
    values["training"] = {key: value for key, value in config.training.to_dict().items() if not key.endswith("_token")}
    return values
