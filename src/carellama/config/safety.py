"""The options of the safety layer, and of `carellama safety`. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

from carellama.config.guard import GuardArguments, classifier_field, rules_field
from carellama.config.option import about, at_least
from carellama.errors import UserError, lookup

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

JUDGES = dict.fromkeys(("rules", "classifier", "layer", "model", "choice", "both"), True)


def split_files(files: Optional[str]) -> list[Path]:
    """The files of a comma list."""
    return [Path(part.strip()) for part in (files or "").split(",") if part.strip()]


@dataclass(frozen=True)
class SafetyArguments(GuardArguments):
    """What stands beside the model."""

    safety: Literal["off", "warn", "on"] = field(
        default="on",
        metadata=about(
            "Watch over questions and answers: on: notices of an emergency come before the answer, harmful requests "
            "are refused, doubtful sentences are marked; warn: notices are fields beside the answer; off: nothing."
        ),
    )
    country: Optional[str] = field(
        default=None, metadata=about("Country of the numbers to call, as CN, US, GB; default: by the language.")
    )
    policy: Optional[str] = field(
        default=None,
        metadata=about("File that turns single checks on, off or to warn; see docs/en/guard.md."),
    )
    classifier: Optional[str] = classifier_field()


@dataclass(frozen=True)
class SafetyEvalArguments:
    """What is measured, and by which texts."""

    files: list[str] = field(metadata=about("Files of cases (first words): vignettes, CSV with text and label, ..."))
    by: list[str] = field(
        default_factory=lambda: ["rules", "layer"],
        metadata=about(
            "rules, classifier: each alone; layer: both, as the server has it; model: what a model answers in free "
            "text; choice: the model picks a level; both: the more urgent of layer and free text. Each is a table."
        ),
    )
    scale: Optional[Literal["esi", "ctas", "manchester", "cn4"]] = field(
        default=None, metadata=about("Scale of labels that are numbers; cn4: 急诊四级.")
    )
    safety_rules: Optional[str] = rules_field()
    classifier: Optional[str] = classifier_field()
    invariance: bool = field(
        default=False,
        metadata=about("Change each emergency in ways that change nothing, and count how often its level falls."),
    )
    list_misses: int = field(default=20, metadata=about("Missed emergencies to list; 0: none."))
    show_text: bool = field(
        default=False, metadata=about("List misses with their text; leave it off for texts of real patients.")
    )
    output: Optional[str] = field(default=None, metadata=about("Write the figures and each verdict to this JSON file."))
    max_cases: Optional[int] = field(default=None, metadata=about("The first so many cases of each file."))

    def __post_init__(self) -> None:
        at_least(self, list_misses=0, max_cases=1)
        for judge in self.by:
            lookup(JUDGES, judge, "judge of --by")
        if len(set(self.by)) < len(self.by):
            raise UserError(f"--by names {' '.join(self.by)}; name each once")


@dataclass(frozen=True)
class SafetyTrainArguments:
    """What the classifier learns from, and where its weights go."""

    files: list[str] = field(metadata=about("Files of cases (first words), as `safety eval` reads them."))
    output: str = field(default="classifier.tsv.gz", metadata=about("File of the weights."))
    threshold: float = field(
        default=-2.0, metadata=about("Log-odds from which a text is called an emergency; lower: fewer misses.")
    )
    floor: float = field(
        default=-2.8,
        metadata=about("Log-odds below which an emergency that a shipped rule found is shown as urgent; lower: rarer."),
    )
    penalty: float = field(default=0.003, metadata=about("Weight of the squared weights in the loss."))
    min_count: int = field(default=3, metadata=about("Texts that a word sequence or sign must be in."))
    hidden_units: int = field(
        default=16, metadata=about("Units that learn what features mean together; 0: weights of features only.")
    )
    scale: Optional[Literal["esi", "ctas", "manchester", "cn4"]] = field(
        default=None, metadata=about("Scale of labels that are numbers; cn4: 急诊四级.")
    )
    folds: int = field(default=5, metadata=about("Parts of the cross-validation, of whole sets of texts; 0: none."))
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))

    def __post_init__(self) -> None:
        at_least(self, penalty=0, min_count=1, hidden_units=0, folds=0)
        if self.floor > self.threshold:
            raise UserError(f"--floor {self.floor:g} is above --threshold {self.threshold:g}; lower --floor as well")


@dataclass(frozen=True)
class SafetyCheckArguments:
    """Which rules are checked."""

    files: list[str] = field(
        default_factory=list, metadata=about("Files of rules (first words); none: those that CareLlama ships.")
    )
