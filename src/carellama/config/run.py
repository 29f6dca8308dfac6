"""The options of a run: the argument groups of 2023 as dataclasses, and transformers' training flags.

config = run_config(["--do_train", "--model_name_or_path", "smollm2-135m", ...])
"""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from transformers import Seq2SeqTrainingArguments

from carellama.config.data import DataArguments
from carellama.config.distributed import after_devices, before_devices, check_engine
from carellama.config.environment import world
from carellama.config.finetuning import FinetuningArguments
from carellama.config.generating import GeneratingArguments
from carellama.config.grpo import GRPOArguments, check_grpo
from carellama.config.model import ModelArguments
from carellama.config.no_effect import options_without_effect, without_effect
from carellama.config.objectives import PreferenceArguments, RewardArguments
from carellama.config.parse import about, at_least, parse_asked
from carellama.config.ppo import PPOArguments, check_ppo
from carellama.config.training_flags import check_training_flags, greater_is_better
from carellama.errors import UserError, lookup
from carellama.hardware import default_training_dtype, fastest_dtype, has_gpu
from carellama.stages import STAGES, Stage

log = logging.getLogger(__name__)

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

LIGER = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
ROW_TOKENS = 768  # whose products are about as fast as those of more


@dataclass
class TrainingArguments(Seq2SeqTrainingArguments):
    """All of transformers' training flags, plus the one that version 5 dropped."""

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
    bf16: Optional[bool] = field(
        default=None, metadata=about("Compute in bfloat16; default: where this machine is fast at it.")
    )

    use_liger_kernel: Optional[bool] = field(
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


def run_config(argv: Sequence[str], prog: str = "carellama train", **extra: Any) -> RunConfig:
    """Read and cross-check the options of one run."""
    groups, asked = parse_asked(RUN_GROUPS, argv, prog, extra)
    return checked(RunConfig(*groups), asked)


def shared_config(argv: Sequence[str], shared: Collection[str], prog: str, **extra: Any) -> tuple[RunConfig, set[str]]:
    """Read and cross-check as `run_config` does; `shared` options are those of several runs, which need not use all.

    Returns with the options the shared ones that have no effect on this run. A line names the others of that kind.
    """
    groups, asked = parse_asked(RUN_GROUPS, argv, prog, extra)
    config = checked(RunConfig(*groups), asked, shared)
    return config, {name for names, _ in without_effect(config, asked) for name in names if name in shared}


def checked(config: RunConfig, asked: Mapping[str, str], shared: Collection[str] = ()) -> RunConfig:
    """Return the options with what was asked, cross-checked; a line names those that have no effect, but `shared`."""
    config = dataclasses.replace(config, asked={name: asked[name] for name in asked if not name.endswith("_token")})
    check_run(config)
    if world()[0] == 0:
        own = {name: value for name, value in asked.items() if name not in shared}
        for line in options_without_effect(config, own):
            log.warning("%s", line)
    return config


def check_run(config: RunConfig) -> None:
    """Raise `UserError` for options that contradict each other, before anything is loaded."""
    model, data, finetuning, training = config.model, config.data, config.finetuning, config.training
    stage = config.stage
    doing = [name for name in ("do_train", "do_eval", "do_predict") if getattr(training, name)]
    if not doing:
        raise UserError("nothing to do: give --do_train, --do_eval or --do_predict")
    if not data.datasets:
        raise UserError("no data: give --dataset NAME (a name of dataset_info.json) or a file")
    if model.quantization_bit and finetuning.finetuning_type in ("full", "freeze"):
        raise UserError(
            f"--quantization_bit works with --finetuning_type lora, not {finetuning.finetuning_type}: "
            "quantised weights cannot be trained"
        )
    if model.quantization_bit and training.do_train:
        if finetuning.pissa_init:
            raise UserError("--pissa_init takes directions out of the weights, which --quantization_bit rounds: choose")
        if finetuning.peft_type in ("loha", "lokr", "hra"):
            raise UserError(f"--peft_type {finetuning.peft_type} does not go with --quantization_bit; lora does")
    if training.do_train and finetuning.finetuning_type != "lora":
        for name in ("use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio"):
            if getattr(finetuning, name):
                raise UserError(f"--{name} is for --finetuning_type lora, not {finetuning.finetuning_type}")
    if finetuning.add_tokens and not training.do_train:
        raise UserError("--add_tokens is for --do_train; --checkpoint_dir brings the tokens that were trained")
    if training.do_train and finetuning.finetuning_type == "none":
        raise UserError("--finetuning_type none trains nothing: choose lora, freeze or full")
    if data.streaming:
        if training.do_train and training.max_steps <= 0:
            raise UserError("--streaming has no known length: give --max_steps")
        if 0 < data.val_size < 1:
            raise UserError("--streaming needs --val_size as a number of records, not a share")
    if data.max_eval_samples and training.do_train and not data.eval_dataset:
        raise UserError("--max_eval_samples is for --eval_dataset; with --val_size it says how many are held out")
    if data.eval_dataset and data.val_size:
        raise UserError("--eval_dataset and --val_size both hold out data: give one of them")
    if training.do_train and training.do_eval and not (data.eval_dataset or data.val_size):
        raise UserError("--do_train with --do_eval needs held-out data: give --val_size or --eval_dataset")
    if training.do_predict and not training.predict_with_generate:
        raise UserError("--do_predict needs --predict_with_generate")
    if training.do_predict and not stage.predicts:
        raise UserError(f"--do_predict answers conversations; --stage {stage.name} is evaluated by --do_eval")
    if data.packing and not stage.can_pack:
        able = " and ".join(one.name for one in STAGES.values() if one.can_pack)
        raise UserError(f"--packing is for --stage {able}, not {stage.name}")
    if training.do_train and 1 <= training.per_device_train_batch_size < stage.min_batch:
        raise UserError(
            f"--stage {stage.name} compares the answers of a batch: --per_device_train_batch_size at least "
            f"{stage.min_batch}"
        )
    if training.row_tokens and stage.loss_unit is None:
        raise UserError(f"--row_tokens: --stage {stage.name} learns from a batch as a whole")
    if training.row_tokens and world()[1] > 1:
        raise UserError("--row_tokens is for one process: several learn from their batches as a whole")
    check_ppo(config)
    check_grpo(config)
    check_training_flags(config)
    check_engine(config)
    if len(model.checkpoints) > 1 and finetuning.finetuning_type != "lora":
        raise UserError(
            f"--checkpoint_dir has {len(model.checkpoints)} folders; only lora adapters can be merged in turn"
        )


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All settings as plain values, for run.json; tokens are left out."""
    names = [group.name for group in dataclasses.fields(RunConfig) if group.name not in ("training", "asked")]
    values = {name: dataclasses.asdict(getattr(config, name)) for name in names}
    values["model"].pop("hf_auth_token")
    values["data"].pop("window")
    values["training"] = {key: value for key, value in config.training.to_dict().items() if not key.endswith("_token")}
    return values
