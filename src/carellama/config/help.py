"""`--help`: the options of a command in groups, a line or two each, without loading a library.

    print(format_help((ModelOptions, DataOptions), "carellama chat"))
    print(training_help(groups, "carellama train", stage="dpo"))     # its own options, and the usual training flags

The training flags of transformers are read from its source as syntax: importing it takes seconds.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from carellama.config.engine import GenerationOptions
from carellama.config.objectives import READ_BY
from carellama.config.options import OptionType, default_of, default_text, field_names, option_fields, option_types
from carellama.config.run import OUTPUT, UNREAD
from carellama.config.transformers_options import TrainingFlag, training_flags
from carellama.stages import STAGES

WIDTH = 100  # columns of the widest help
INDENT = 30  # columns before the text of an option
# in place of what transformers says of its flags
OWN_TEXTS = {
    "do_train": "Train; `carellama train` does unless another --do_ is given.",
    "do_eval": "Measure the loss on --eval_dataset or --val_size, or on --dataset where nothing is trained.",
    "do_predict": "Answer the questions of the dataset, and score the answers; needs --predict_with_generate.",
    "output_dir": "Folder of the checkpoint, the log and the results.",  # its default is that of the command
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

    The last group holds our own training flags, which stand among those of transformers. What `eval` and `predict` do
    not read is left out of theirs. `every`: the options of all stages and all training flags.
    """
    *groups, own = groups
    verb, lines = prog.rpartition(" ")[2], [_usage(prog)]
    unread = UNREAD.get(verb, frozenset())
    if unread and not (STAGES[stage].generates or verb == "predict"):
        unread |= set(field_names(GenerationOptions))
    for group in groups:
        lines += _section(group, lambda name: every or (name not in unread and stage in READ_BY.get(name, (stage,))))
    flags = {name: _flag(name, flag) for name, flag in training_flags().items()} | _rows(own)
    flags["output_dir"] = flags["output_dir"]._replace(default=OUTPUT.get(verb, ""))
    usual = [name for name in USUAL_FLAGS if name not in unread]
    names = list(dict.fromkeys([*USUAL_FLAGS, *flags])) if every else usual
    lines += _lines("Training: flags of transformers' trainer, and ours beside them", [flags[name] for name in names])
    if not every:
        others = ", ".join(name for name in STAGES if name != stage)
        left = f"{len(flags) - len(names)} further flags of transformers"
        left = "The options that only a training reads, and all flags of transformers" if unread else f"The {left}"
        lines += [
            "",
            f"These are the options of --stage {stage}; with --stage NAME --help shows those of that stage.",
            f"Other stages: {others}. {left}: {prog} --help all",
        ]
    return "\n".join(lines)


def _usage(prog: str) -> str:
    command, _, words = prog.partition(" ")
    has_words = words != words.lower()  # FILE, of which a YAML file may be one
    file = "" if has_words else "   (a YAML file of options may stand before them)"
    return f"usage: {command} {words} [options]{file}"


def group_name(group: type) -> str:
    """Return what a dataclass of options is of, in words: "Reward" for RewardOptions."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", group.__name__.removesuffix("Options"))
    return name if name.isupper() else name.capitalize()


def _section(group: type, is_shown: Callable[[str], bool] = lambda name: True) -> list[str]:
    """The options of one dataclass under its title, none where no option is shown."""
    about = (group.__doc__ or "").split("\n")[0].rstrip(".")
    title = f"{group_name(group)}: {about[:1].lower()}{about[1:]}"
    return _lines(title, [row for name, row in _rows(group).items() if is_shown(name)])


def _rows(group: type) -> dict[str, OptionHelp]:
    rows = {}
    for field in option_fields(group):
        value = default_of(field)
        required = value is dataclasses.MISSING
        default = "" if required else default_text(value)
        kind = option_types(group)[field.name]
        rows[field.name] = OptionHelp(field.name, _value(kind), field.metadata["help"], default, required)
    return rows


def _value(kind: OptionType) -> str:
    """What stands behind the name: N, a|b, a list of them with ..., nothing for a switch."""
    value = "|".join(map(str, kind.choices)) if kind.choices else METAVARS[kind.kind.__name__]
    return f"{value} ..." if kind.many else value


def _flag(name: str, flag: TrainingFlag) -> OptionHelp:
    """The row of a training flag."""
    return OptionHelp(name, METAVARS.get(flag.kind, "TEXT"), OWN_TEXTS.get(name, flag.help), flag.default)


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
