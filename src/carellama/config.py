"""Every option of CareLlama: the seed's argument groups as dataclasses, read from flags or one YAML file.

The only module that reads the command line or the environment. A default exists once, here; `--help` and the docs
are made from it. Flags and YAML keys have the same names, and a flag beats the file:

    carellama train examples/sft.yaml --learning_rate 1e-4
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Optional

import yaml
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from carellama.errors import UserError, nearest
from carellama.model.machine import best_dtype, has_gpu

log = logging.getLogger(__name__)

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


def _help(text: str, **kwargs: Any) -> dict[str, Any]:
    return {"help": text, **kwargs}


@dataclass
class ModelArguments:
    """Which model, in which precision, with which checkpoints on top."""

    model_name_or_path: str = field(
        metadata=_help("Model folder, hub id, .gguf file, or embedded name (smollm2-135m, gemma3-270m).")
    )
    checkpoint_dir: Optional[str] = field(
        default=None,
        metadata=_help("Folder(s) of earlier training, comma separated; adapters are merged in this order."),
    )
    model_revision: str = field(default="main", metadata=_help("Branch, tag or commit of a hub model."))
    cache_dir: Optional[str] = field(default=None, metadata=_help("Where hub downloads are kept."))
    hf_auth_token: Optional[str] = field(default=None, metadata=_help("Token for gated hub models."))
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata=_help("Precision of the weights; auto takes the best this machine computes in."),
    )
    quantization_bit: Optional[int] = field(
        default=None, metadata=_help("Load the base in 4 or 8 bit (QLoRA).", choices=[4, 8])
    )
    quantization_type: Literal["nf4", "fp4"] = field(default="nf4", metadata=_help("4-bit number format."))
    double_quantization: bool = field(default=True, metadata=_help("Quantise the 4-bit scales as well."))
    rope_scaling: Optional[str] = field(
        default=None,
        metadata=_help("Stretch the position encoding.", choices=["linear", "dynamic", "yarn"]),
    )
    rope_factor: float = field(default=2.0, metadata=_help("By how much --rope_scaling stretches."))
    attention: Literal["auto", "packed", "padded", "eager", "sdpa", "flash_attention_2", "flex_attention"] = field(
        default="auto",
        metadata=_help("Attention in training; auto: packed on CPU, flash on GPU; padded: no padding-free rows."),
    )
    trust_remote_code: bool = field(default=False, metadata=_help("Run Python code that comes with the model."))
    allow_pickle: bool = field(
        default=False,
        metadata=_help("Read .bin weights, which can run code; default: safetensors and GGUF only."),
    )
    accept_licence: bool = field(
        default=False, metadata=_help("Accept the terms of an embedded model that has any (gemma3-270m).")
    )

    @property
    def checkpoints(self) -> list[str]:
        """The folders of `checkpoint_dir`, in order."""
        return [part.strip() for part in (self.checkpoint_dir or "").split(",") if part.strip()]

    def __post_init__(self) -> None:
        if self.rope_factor < 1:
            raise UserError(f"--rope_factor is {self.rope_factor}; it must be at least 1")


@dataclass
class DataArguments:
    """Which data, how it is mixed, cut and checked."""

    dataset: Optional[str] = field(
        default=None, metadata=_help("Name(s) in dataset_info.json, or files, comma separated.")
    )
    dataset_dir: str = field(default="data", metadata=_help("Folder with dataset_info.json."))
    split: str = field(default="train", metadata=_help("Split of hub datasets."))
    template: Optional[str] = field(
        default=None, metadata=_help("Chat format by name; default: the tokenizer's own, else 'default'.")
    )
    system_prompt: Optional[str] = field(
        default=None, metadata=_help("System message for records without one; beats the template's.")
    )
    max_source_length: Optional[int] = field(
        default=None, metadata=_help("Most prompt tokens of a turn (512 unless --cutoff_len is given).")
    )
    max_target_length: Optional[int] = field(
        default=None, metadata=_help("Most answer tokens of a turn (512 unless --cutoff_len is given).")
    )
    cutoff_len: Optional[int] = field(
        default=None, metadata=_help("Most tokens of a whole record, instead of the two lengths above.")
    )
    max_samples: Optional[int] = field(default=None, metadata=_help("Use this many records of each dataset."))
    eval_dataset: Optional[str] = field(
        default=None,
        metadata=_help("Name(s) or files to evaluate on, comma separated, instead of --val_size."),
    )
    val_size: float = field(default=0.0, metadata=_help("Held-out records: a share below 1, or a number of records."))
    mix_strategy: Literal["concat", "interleave_under", "interleave_over"] = field(
        default="concat",
        metadata=_help("Several datasets: one after the other, or in turn until the first / the last is used up."),
    )
    interleave_probs: Optional[str] = field(
        default=None, metadata=_help("Shares of the datasets when interleaving, comma separated.")
    )
    streaming: bool = field(default=False, metadata=_help("Encode while training; needs --max_steps."))
    buffer_size: int = field(default=1024, metadata=_help("Records shuffled together when streaming."))
    packing: Optional[bool] = field(
        default=None, metadata=_help("Fill windows of --cutoff_len whole; default: only for plain text.")
    )
    overwrite_cache: bool = field(default=False, metadata=_help("Encode anew even if the token cache has it."))
    data_cache_dir: Optional[str] = field(
        default=None, metadata=_help("Folder of the token cache; default: the user's cache folder.")
    )
    preprocessing_num_workers: Optional[int] = field(
        default=None, metadata=_help("Processes that encode; default: threads, one a core.")
    )
    on_bad_record: Literal["error", "skip"] = field(
        default="error", metadata=_help("A record that can not be used: stop, or skip and count it.")
    )
    trust_dataset_script: bool = field(
        default=False, metadata=_help("Run the Python script of a dataset with script_url.")
    )
    show_example: bool = field(default=False, metadata=_help("Print one encoded record, trained tokens in green."))

    @property
    def datasets(self) -> list[str]:
        """The names of `dataset`, in order."""
        return [part.strip() for part in (self.dataset or "").split(",") if part.strip()]

    @property
    def eval_datasets(self) -> list[str]:
        """The names of `eval_dataset`, in order."""
        return [part.strip() for part in (self.eval_dataset or "").split(",") if part.strip()]

    @property
    def probabilities(self) -> list[float] | None:
        """`interleave_probs` as numbers."""
        if self.interleave_probs is None:
            return None
        try:
            return [float(part) for part in self.interleave_probs.split(",")]
        except ValueError:
            raise UserError(f"--interleave_probs takes numbers as in 0.7,0.3, not {self.interleave_probs!r}") from None

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Most tokens of (a turn's prompt, a turn's answer, the whole record)."""
        if self.cutoff_len is not None:
            whole = self.cutoff_len
            return self.max_source_length or whole, self.max_target_length or whole, whole
        source, target = self.max_source_length or 512, self.max_target_length or 512
        return source, target, source + target

    def __post_init__(self) -> None:
        for name in ("max_source_length", "max_target_length", "cutoff_len", "max_samples", "buffer_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; it must be at least 1")
        if self.val_size < 0 or (self.val_size >= 1 and self.val_size != int(self.val_size)):
            raise UserError(f"--val_size is {self.val_size}; give a share below 1 or a whole number of records")
        shares = self.probabilities
        if shares is not None:
            if self.mix_strategy == "concat":
                raise UserError("--interleave_probs needs --mix_strategy interleave_under or interleave_over")
            if len(shares) != len(self.datasets) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise UserError(
                    f"--interleave_probs has {shares} for {len(self.datasets)} datasets; "
                    "give one share each, adding up to 1"
                )


@dataclass
class FinetuningArguments:
    """What is trained, and how."""

    stage: Literal["pt", "sft"] = field(
        default="sft", metadata=_help("Training stage: pt (plain text) or sft (conversations).")
    )
    finetuning_type: Literal["lora", "freeze", "full", "none"] = field(
        default="lora", metadata=_help("Train adapters, the last layers, everything, or nothing.")
    )
    lora_rank: int = field(default=8, metadata=_help("Rank of the LoRA matrices."))
    lora_alpha: float = field(default=32.0, metadata=_help("Scale of the LoRA matrices (times 1/rank)."))
    lora_dropout: float = field(default=0.1, metadata=_help("Dropout before the LoRA matrices."))
    lora_target: str = field(
        default="q_proj,v_proj",
        metadata=_help("Names of the adapted layers, comma separated; 'all': every linear."),
    )
    use_rslora: bool = field(default=False, metadata=_help("Scale by 1/sqrt(rank) (rank-stabilised LoRA)."))
    use_dora: bool = field(default=False, metadata=_help("Weight-decomposed LoRA."))
    resume_lora_training: bool = field(
        default=True,
        metadata=_help("Go on training the last adapter of --checkpoint_dir; else merge it, begin anew."),
    )
    num_layer_trainable: int = field(
        default=3, metadata=_help("freeze: the last n layers are trained; negative: the first n.")
    )
    name_module_trainable: str = field(
        default="mlp", metadata=_help("freeze: which part of them: mlp, self_attn, or all.")
    )
    plot_loss: bool = field(default=False, metadata=_help("Draw the loss curve as PNG."))

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise UserError(f"--lora_rank is {self.lora_rank}; it must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout is {self.lora_dropout}; it must be in [0, 1)")


@dataclass
class GeneratingArguments:
    """How answers are sampled."""

    do_sample: bool = field(default=True, metadata=_help("Sample; false: always the likeliest token."))
    temperature: float = field(default=0.95, metadata=_help("0: always the likeliest token."))
    top_p: float = field(default=0.7, metadata=_help("Sample from the likeliest tokens of this total probability."))
    top_k: int = field(default=50, metadata=_help("Sample from this many likeliest tokens; 0: from all."))
    num_beams: int = field(default=1, metadata=_help("Beam search; 1: none."))
    max_new_tokens: int = field(default=512, metadata=_help("Most tokens of an answer."))
    repetition_penalty: float = field(default=1.0, metadata=_help("Above 1: repeat less."))
    length_penalty: float = field(default=1.0, metadata=_help("Beam search: above 0 favours long answers."))

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise UserError(
                f"sampling: temperature {self.temperature} (at least 0), top_p {self.top_p} (above 0, at most 1), "
                f"top_k {self.top_k} (at least 0), max_new_tokens {self.max_new_tokens} (at least 1)"
            )


@dataclass
class TrainingArguments(Seq2SeqTrainingArguments):
    """All of transformers' training flags, plus the one that version 5 dropped."""

    overwrite_output_dir: bool = field(
        default=False, metadata=_help("Write into an output folder that already holds a finished run.")
    )
    report_to: str = field(default="none", metadata=_help("Trackers: none, tensorboard, wandb, ..., comma separated."))
    log_level: str = field(default="warning", metadata=_help("transformers' log level."))

    fp16: bool = field(default=False, metadata=_help("Compute in float16 (GPU)."))
    bf16: Optional[bool] = field(
        default=None, metadata=_help("Compute in bfloat16; default: where this machine is fast at it.")
    )

    def __post_init__(self) -> None:
        if not has_gpu():
            self.use_cpu = True
            if self.fp16:
                log.warning("--fp16 needs a GPU: going on in %s on this CPU", best_dtype())
                self.fp16 = False
                os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and best_dtype() == "bfloat16"
        self.remove_unused_columns = False  # a batch is made of Tokens, which have no columns
        self.label_names = ["labels"]
        if isinstance(self.report_to, str) and "," in self.report_to:
            self.report_to = self.report_to.split(",")  # type: ignore[assignment]
        try:
            super().__post_init__()
        except (ValueError, ImportError) as error:
            raise UserError(str(error).replace("\n", " ")) from error


@dataclass(frozen=True)
class RunConfig:
    """All groups of one run of `train`, `predict` or `eval`."""

    model: ModelArguments
    data: DataArguments
    finetuning: FinetuningArguments
    generating: GeneratingArguments
    training: TrainingArguments


class _Parser(HfArgumentParser):
    """`HfArgumentParser` whose mistakes are `UserError`s with the nearest value, and that takes no abbreviations."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = nearest(str(value), choices)
            raise argparse.ArgumentError(action, f"{str(value)!r} is not one of {', '.join(choices)}.{hint}")


def parser(groups: Sequence[type], prog: str) -> HfArgumentParser:
    """Return the argument parser of these dataclasses."""
    return _Parser(list(groups), prog=prog, allow_abbrev=False)


def parse(groups: Sequence[type], argv: Sequence[str], prog: str, extra: Mapping[str, Any] | None = None) -> list[Any]:
    """Read `argv` (flags, or a YAML file followed by flags) into one instance of each dataclass.

    `extra` holds values that the verb sets and the user may still override. Raises `UserError` for an unknown
    flag (with the nearest name), a wrong value, or a file that is not a mapping of known keys.
    """
    argv = list(argv)
    settings = dict(extra or {})
    if argv and argv[0].endswith((".yaml", ".yml")):
        settings |= read_yaml(argv.pop(0))
    reader = parser(groups, prog)
    known = [option[2:] for action in reader._actions for option in action.option_strings if option[:2] == "--"]
    for key in settings:
        if key not in known:
            raise UserError(f"unknown key {key!r} in the settings.{nearest(key, known)}")
    given = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
    for word in argv:  # before argparse asks for what the misspelt option should have said
        if word.startswith("--") and word.partition("=")[0][2:] not in known:
            _unknown(word, known)
    words = [word for key, value in settings.items() if key not in given for word in _as_flag(key, value)]
    *parsed, unknown = reader.parse_args_into_dataclasses(
        words + argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        _unknown(unknown[0], known)
    return list(parsed)


def _unknown(word: str, known: Sequence[str]) -> NoReturn:
    name = word.partition("=")[0]
    raise UserError(f"unknown option {name!r}.{nearest(name, ['--' + name for name in known])} See --help.")


def read_yaml(path: str) -> dict[str, Any]:
    """Read one YAML file of settings."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can not read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold 'name: value' lines, one for each option")
    return settings


def _as_flag(key: str, value: Any) -> list[str]:
    """`lora_rank, 8` -> `['--lora_rank', '8']`; lists by comma, None left out."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    return [f"--{key}", str(value)]


@dataclass
class ExportArguments:
    """Where and how a model is exported."""

    output_dir: str = field(metadata=_help("Folder to write the model to."))
    max_shard_size: str = field(default="5GB", metadata=_help("Largest weights file."))
    overwrite_output_dir: bool = field(default=False, metadata=_help("Replace a folder that is not empty."))


TALK_GROUPS = (ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments)
EXPORT_GROUPS = (ModelArguments, DataArguments, FinetuningArguments, ExportArguments)
RUN_GROUPS = (ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments, TrainingArguments)


def run_config(argv: Sequence[str], prog: str = "carellama train", **extra: Any) -> RunConfig:
    """Read and cross-check the options of one run."""
    config = RunConfig(*parse(RUN_GROUPS, argv, prog, extra))
    check_run(config)
    return config


def check_run(config: RunConfig) -> None:
    """Raise `UserError` for options that contradict each other, before anything is loaded."""
    model, data, finetuning, training = config.model, config.data, config.finetuning, config.training
    doing = [name for name in ("do_train", "do_eval", "do_predict") if getattr(training, name)]
    if not doing:
        raise UserError("nothing to do: give --do_train, --do_eval or --do_predict")
    if not data.datasets:
        raise UserError("no data: give --dataset NAME (a name of dataset_info.json) or a file")
    if model.quantization_bit and finetuning.finetuning_type in ("full", "freeze"):
        raise UserError(
            f"--quantization_bit works with --finetuning_type lora, not {finetuning.finetuning_type}: "
            "quantised weights can not be trained"
        )
    if training.do_train and finetuning.finetuning_type == "none":
        raise UserError("--finetuning_type none trains nothing: choose lora, freeze or full")
    if data.streaming:
        if training.do_train and training.max_steps <= 0:
            raise UserError("--streaming has no known length: give --max_steps")
        if 0 < data.val_size < 1:
            raise UserError("--streaming needs --val_size as a number of records, not a share")
    if data.eval_dataset and data.val_size:
        raise UserError("--eval_dataset and --val_size both hold out data: give one of them")
    if training.do_train and training.do_eval and not (data.eval_dataset or data.val_size):
        raise UserError("--do_train with --do_eval needs held-out data: give --val_size or --eval_dataset")
    if training.do_predict and not training.predict_with_generate:
        raise UserError("--do_predict needs --predict_with_generate")
    if finetuning.stage == "pt" and training.do_predict:
        raise UserError("--do_predict needs conversations; --stage pt can be evaluated with --do_eval")
    if len(model.checkpoints) > 1 and finetuning.finetuning_type != "lora":
        raise UserError(
            f"--checkpoint_dir has {len(model.checkpoints)} folders; only lora adapters can be merged in turn"
        )


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All settings as plain values, for run.json; tokens are left out."""
    groups = {
        group.name: getattr(config, group.name) for group in dataclasses.fields(RunConfig) if group.name != "training"
    }
    values = {name: dataclasses.asdict(group) for name, group in groups.items()}
    values["model"].pop("hf_auth_token")
    values["training"] = {key: value for key, value in config.training.to_dict().items() if not key.endswith("_token")}
    return values


def cache_home() -> Path:
    """The user's cache folder of CareLlama: `$CARELLAMA_CACHE`, or `$XDG_CACHE_HOME/carellama`, or ~/.cache."""
    if own := os.environ.get("CARELLAMA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carellama"


@contextlib.contextmanager
def single_threaded_tokenizers() -> Iterator[None]:
    """Within this, `tokenizers` works in the thread that calls it: for callers with threads of their own."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def world() -> tuple[int, int]:
    """(rank, processes) as set by torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
