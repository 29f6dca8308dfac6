"""The training flags of the installed transformers, read from its source as syntax.

    training_flags()["learning_rate"]      # TrainingFlag("float", "The initial learning rate ...", "5e-05")

Nothing is executed: `import transformers` takes seconds, and a misspelt option is to be answered at once.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from carellama.config.options import OptionType, default_text, switch_of
from carellama.errors import UserError

KINDS = {"int": int, "float": float, "bool": bool, "str": str}
UNBOUNDED = "max_grad_norm"  # inf: the norm is measured and never cut


class TrainingFlag(NamedTuple):
    """One training flag: its type as it is annotated, its help, its default and choices where those are plain."""

    annotation: str
    help: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """int, float, bool or str, by `int | None`; "": what only transformers can read."""
        kinds = [part for part in re.split(r" *\| *", self.annotation) if part != "None"]
        return kinds[0] if len(kinds) == 1 and kinds[0] in KINDS else ""

    def check_words(self, name: str, words: Sequence[str]) -> list[str]:
        """Return the words for transformers' own parser. Raises `UserError` for what it would not read."""
        if self.choices:
            if words and "no" in self.choices and switch_of(words[0]) is False:
                words = ["no"]
            OptionType(str, choices=self.choices).value(name, words)
        elif self.kind == "bool":
            return ["true" if OptionType(bool).value(name, words) else "false"]
        elif self.kind and not (name == UNBOUNDED and words == ["inf"]):
            OptionType(KINDS[self.kind]).value(name, words)
        elif not words and "bool" not in self.annotation:
            raise UserError(f"--{name} takes a value")
        return list(words) or ["true"]


@cache
def training_flags() -> Mapping[str, TrainingFlag]:
    """Return all flags of transformers' `Seq2SeqTrainingArguments` by name, in the order of the source."""
    package = importlib.util.find_spec("transformers")
    assert package and package.origin, "transformers is not installed"
    names = ("trainer_utils.py", "training_args.py", "training_args_seq2seq.py")
    files = [Path(package.origin).with_name(name) for name in names]
    classes = {
        node.name: node
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8"), str(file)).body
        if isinstance(node, ast.ClassDef)
    }
    enums = {
        name: _values(node)
        for name, node in classes.items()
        if [ast.unparse(base) for base in node.bases] == ["ExplicitEnum"]
    }
    flags = dict[str, TrainingFlag]()
    for name in ("TrainingArguments", "Seq2SeqTrainingArguments"):
        flags |= _flags(classes[name], enums)
    return flags


def _values(enum: ast.ClassDef) -> tuple[str, ...]:
    """The values of an enum of texts."""
    values = [_literal(node.value) for node in enum.body if isinstance(node, ast.Assign)]
    return tuple(value for value in values if isinstance(value, str))


def _flags(node: ast.ClassDef, enums: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, TrainingFlag]]:
    """The annotated fields of a class."""
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.target.id != "_n_gpu":
            yield one.target.id, _flag(one, enums)


def _flag(node: ast.AnnAssign, enums: Mapping[str, tuple[str, ...]]) -> TrainingFlag:
    annotation = ast.unparse(node.annotation)
    choices = enums.get(annotation.removesuffix(" | str"), ())
    if not isinstance(node.value, ast.Call):
        return TrainingFlag(annotation, "", default_text(_literal(node.value)), choices)
    words = {word.arg: word.value for word in node.value.keywords}
    metadata = _literal(words.get("metadata"))
    text = metadata.get("help") if isinstance(metadata, dict) else ""
    default = default_text(_literal(words.get("default")))
    return TrainingFlag(annotation, " ".join(str(text or "").split()), default, choices)


def _literal(node: ast.expr | None) -> object:
    """The value of a literal; None for what would have to be computed."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError):
        return None
