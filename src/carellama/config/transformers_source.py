"""The training flags of the installed transformers, and ours beside them, read from the source as syntax.

    training_fields()["learning_rate"]      # TrainingField("float", "The initial learning rate ...", "5e-05")

Nothing is executed: `import transformers` takes seconds, and a misspelt option is to be answered at once.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from carellama.config.option import default_text


class TrainingField(NamedTuple):
    """One training flag: its type as it is annotated, its help, and its default where that is a plain value."""

    annotation: str
    help: str = ""
    default: str = ""


@cache
def training_fields() -> Mapping[str, TrainingField]:
    """Return all training flags by name, in the order of the source."""
    package = importlib.util.find_spec("transformers")
    assert package and package.origin, "transformers is not installed"
    theirs = Path(package.origin).parent
    return {
        **dict(_fields(theirs / "training_args.py", "TrainingArguments")),
        **dict(_fields(theirs / "training_args_seq2seq.py", "Seq2SeqTrainingArguments")),
        **dict(_fields(Path(__file__).with_name("run.py"), "TrainingArguments")),
    }


def _fields(file: Path, name: str) -> Iterator[tuple[str, TrainingField]]:
    """The annotated fields of a class."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    bodies = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    for node in (one for body in bodies for one in body if isinstance(one, ast.AnnAssign)):
        if isinstance(node.target, ast.Name):
            yield node.target.id, _field(node)


def _field(node: ast.AnnAssign) -> TrainingField:
    annotation = ast.unparse(node.annotation)
    if not isinstance(node.value, ast.Call):
        return TrainingField(annotation, default=default_text(_literal(node.value)))
    words = {word.arg: word.value for word in node.value.keywords}
    metadata = words.get("metadata")
    if isinstance(metadata, ast.Call):  # about("...")
        text = _literal(metadata.args[0])
    else:
        found = _literal(metadata)
        text = found.get("help") if isinstance(found, dict) else ""
    return TrainingField(annotation, " ".join(str(text or "").split()), default_text(_literal(words.get("default"))))


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal; None for what would have to be computed."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError):
        return None
