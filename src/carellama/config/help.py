"""`--help`: the options of a command in groups, a line or two each, without loading a library.

    print(format_help((ModelArguments, DataArguments), "carellama chat"))
    print(training_help(groups, "carellama train", stage="dpo"))     # its own options, and the usual training flags

The training flags of transformers are read from its source as syntax: importing it takes seconds.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from carellama.config.objectives import READ_BY
from carellama.config.option import default_of, default_text
from carellama.config.transformers_source import TrainingField, training_fields
from carellama.stages import STAGES

WIDTH = 100  # columns of the widest help
INDENT = 30  # columns before the text of an option
# in place of what transformers says of its flags
OWN_TEXTS = {
    "do_train": "Train; `carellama train` does unless another --do_ is given.",
    "do_eval": "Measure the loss on --eval_dataset or --val_size, or on --dataset where nothing is trained.",
    "do_predict": "Answer the questions of the dataset, and score the answers; needs --predict_with_generate.",
    "output_dir": "Folder of the checkpoint, the log and the results.",
    "gradient_checkpointing": "Compute activations again in the backward pass: less memory, more time.",
    "predict_with_generate": "Generate the answers of --do_predict.",
    "neftune_noise_alpha": "Strength of NEFTune noise on the embeddings; usual: 5 to 15. Default: none.",
}
METAVARS = {"int": "N", "float": "X", "bool": "", "str": "TEXT"}
# training flags that the documentation uses; all others with `--help all`
USUAL_FLAGS = (
    "do_train", "do_eval", "do_predict", "output_dir", "overwrite_output_dir", "num_train_epochs", "max_steps",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "row_tokens", "bf16", "fp16", "optim", "weight_decay",
    "max_grad_norm", "neftune_noise_alpha", "logging_steps", "eval_strategy", "eval_steps", "save_strategy",
    "save_steps", "save_total_limit", "load_best_model_at_end", "metric_for_best_model", "predict_with_generate",
    "report_to", "seed", "resume_changed", "skip_plan",
)  # fmt: skip


class OptionHelp(NamedTuple):
    """What `--help` says of one option; `default` is "" where there is none to show."""

    name: str
    value: str  # what stands behind the name: N, TEXT, a|b
    text: str
    default: str = ""
    required: bool = False


def format_help(groups: Sequence[type], prog: str) -> str:
    """Return the help of a command with these options."""
    return "\n".join([_usage(prog), *(line for group in groups for line in _section(group))])


def training_help(groups: Sequence[type], prog: str, stage: str, *, every: bool = False) -> str:
    """Return the help of a training command: the options that a stage reads, and the usual training flags.

    `every`: the options of all stages and all training flags.
    """
    lines = [_usage(prog)]
    for group in groups:
        lines += _section(group, lambda name: every or stage in READ_BY.get(name, (stage,)))
    flags = training_fields()
    names = list(dict.fromkeys([*USUAL_FLAGS, *flags])) if every else USUAL_FLAGS
    shown = [_flag(name, flags[name]) for name in names]
    lines += _lines("Training: flags of transformers' trainer, and ours beside them", shown)
    if not every:
        others = ", ".join(name for name in STAGES if name != stage)
        left = len(flags) - len(shown)
        lines += [
            "",
            f"These are the options of --stage {stage}; with --stage NAME --help shows those of that stage.",
            f"Other stages: {others}. The {left} further flags of transformers: {prog} --help all",
        ]
    return "\n".join(lines)


def _usage(prog: str) -> str:
    command, _, words = prog.partition(" ")
    return f"usage: {command} {words} [options]   (a YAML file of options may stand before them)"


def _section(group: type, is_shown: Callable[[str], bool] = lambda name: True) -> list[str]:
    """The options of one dataclass under its title, none where no option is shown."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", group.__name__.removesuffix("Arguments"))
    about = (group.__doc__ or "").split("\n")[0].rstrip(".")
    hints = get_type_hints(group)
    rows = [_row(field, hints[field.name]) for field in dataclasses.fields(group) if field.init]
    return _lines(
        f"{name[:1]}{name[1:].lower()}: {about[:1].lower()}{about[1:]}", [r for r in rows if is_shown(r.name)]
    )


def _row(field: dataclasses.Field[Any], hint: Any) -> OptionHelp:
    value = default_of(field)
    required = value is dataclasses.MISSING
    default = "" if required else default_text(value)
    return OptionHelp(field.name, _value(hint), field.metadata.get("help", ""), default, required)


def _value(hint: Any) -> str:
    """`Optional[int]` -> N, `Literal["a", "b"]` -> a|b, a list of them with ..., a bool -> ""."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) in (list, tuple):
        return f"{_value(get_args(hint)[0])} ..."
    return METAVARS.get(getattr(hint, "__name__", ""), "TEXT")


def _flag(name: str, field: TrainingField) -> OptionHelp:
    """The row of a training flag, by its annotation: `float`, `Optional[bool]`, `SchedulerType | str`."""
    kinds = re.findall(r"\w+", field.annotation.replace("Optional", "").replace("None", ""))
    return OptionHelp(
        name,
        METAVARS.get(kinds[0] if len(kinds) == 1 else "", "TEXT"),
        OWN_TEXTS.get(name, field.help),
        field.default,
    )


def _lines(title: str, rows: Iterable[OptionHelp]) -> list[str]:
    lines = [line for row in rows for line in _option(row)]
    return ["", title, *lines] if lines else []


def _option(row: OptionHelp) -> list[str]:
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    name = f"  --{row.name}"
    values = row.value.split("|")
    text = row.text if len(values) < 2 else f"{row.text} One of {', '.join(values)}."
    text += " Required." if row.required else f" Default: {row.default}." if row.default else ""
    head = name if len(values) > 1 or not row.value else f"{name} {row.value}"
    wrapped = textwrap.wrap(text, width - INDENT, break_on_hyphens=False) or [""]
    first = [head, f"{'':{INDENT}}{wrapped[0]}"] if len(head) > INDENT - 2 else [f"{head:<{INDENT}}{wrapped[0]}"]
    return [line.rstrip() for line in (*first, *(f"{'':{INDENT}}{line}" for line in wrapped[1:]))]
