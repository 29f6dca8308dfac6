"""The options of the guard, and of `carellama guard`. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError, lookup

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

GUARD_JUDGES = dict.fromkeys(("rules", "classifier", "guard", "model", "both"), True)


def rules_field() -> Any:
    """The option that names files of a hospital's rules."""
    return field(
        default=None,
        metadata=about(
            "Files of your own rules beside those that CareLlama ships, comma separated: of triage, of the guard or "
            "of medicines; see docs/en/safety.md."
        ),
    )


def classifier_field() -> Any:
    """The option that names the weights of triage."""
    return field(
        default=None, metadata=about("Weights of `carellama safety train`; default: those that CareLlama ships.")
    )


@dataclass(frozen=True)
class GuardArguments:
    """What judges requests besides the rules that CareLlama ships."""

    safety_rules: Optional[str] = rules_field()
    guard_classifier: Optional[str] = field(
        default=None, metadata=about("Weights of `carellama guard train`; default: those that CareLlama ships.")
    )
    guard_model: Optional[str] = field(
        default=None,
        metadata=about(
            "Guard model that judges as well: Llama Guard, Qwen3Guard or ShieldGemma, a folder or hub id, or its name "
            "at --guard_endpoint."
        ),
    )
    guard_endpoint: Optional[str] = field(
        default=None, metadata=about("Address of an OpenAI-compatible server that has the guard model.")
    )
    guard_format: Optional[Literal["llama_guard", "qwen3guard", "shieldgemma"]] = field(
        default=None, metadata=about("How the guard model is asked and answers; default: by its name.")
    )

    def __post_init__(self) -> None:
        if self.guard_model is None and (self.guard_endpoint or self.guard_format):
            raise UserError("--guard_endpoint and --guard_format need --guard_model, the name of the guard model")


@dataclass(frozen=True)
class GuardEvalArguments(GuardArguments):
    """What is measured, and by which requests."""

    files: list[str] = field(
        default_factory=list, metadata=about("Files of requests (first words), as data/guard/dev.jsonl.", required=True)
    )
    by: list[str] = field(
        default_factory=list,
        metadata=about(
            "rules, classifier: each alone; guard: both, as the server has it; model: the guard model alone; both: "
            "guard and guard model. Each is a table. Default: rules guard; with --guard_model: guard model both."
        ),
    )
    judge_model: Optional[str] = field(
        default=None,
        metadata=about(
            "Model that reads each request that was let through and its answer, and says whether the answer does harm: "
            "a folder or hub id, or its name at --judge_endpoint. Needs a model that answers."
        ),
    )
    judge_endpoint: Optional[str] = field(
        default=None, metadata=about("Address of an OpenAI-compatible server that has the judge.")
    )
    list_misses: int = field(default=20, metadata=about("Wrong judgements to list; 0: none."))
    show_text: bool = field(
        default=False, metadata=about("List them with their text; leave it off for texts of real persons.")
    )
    output: Optional[str] = field(default=None, metadata=about("Write the figures and each verdict to this JSON file."))
    max_cases: Optional[int] = field(default=None, metadata=about("The first so many requests of each file."))

    @property
    def judges(self) -> list[str]:
        """`by`, or what it is by default."""
        return self.by or (["rules", "guard"] if self.guard_model is None else ["guard", "model", "both"])

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, list_misses=0, max_cases=1)
        for judge in self.judges:
            lookup(GUARD_JUDGES, judge, "judge of --by")
        if len(set(self.by)) < len(self.by):
            raise UserError(f"--by names {' '.join(self.by)}; name each once")
        if {"model", "both"} & set(self.judges) and self.guard_model is None:
            raise UserError("--by model and --by both need --guard_model")
        if self.judge_endpoint and self.judge_model is None:
            raise UserError("--judge_endpoint needs --judge_model, the name of the judge")


@dataclass(frozen=True)
class GuardTrainArguments:
    """What the guard's classifier learns from, and where its weights go."""

    files: list[str] = field(metadata=about("Files of requests (first words), as `guard eval` reads them."))
    output: str = field(default="guard.tsv.gz", metadata=about("File of the weights."))
    safety_rules: Optional[str] = field(
        default=None, metadata=about("Files of your own rules of the guard, whose concepts are features.")
    )
    threshold: float = field(
        default=0.2, metadata=about("Log-odds from which a request is refused; lower: fewer attacks get through.")
    )
    floor: float = field(
        default=-0.8, metadata=about("Log-odds below which a refusal of a shipped rule is lifted; lower: rarer.")
    )
    penalty: float = field(default=0.003, metadata=about("Weight of the squared weights in the loss."))
    min_count: int = field(default=2, metadata=about("Texts that a feature must be in."))
    folds: int = field(default=5, metadata=about("Parts of the cross-validation whose figures are printed; 0: none."))
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))

    def __post_init__(self) -> None:
        at_least(self, penalty=0, min_count=1, folds=0)
        if self.floor > self.threshold:
            raise UserError(f"--floor {self.floor:g} is above --threshold {self.threshold:g}; lower --floor as well")
