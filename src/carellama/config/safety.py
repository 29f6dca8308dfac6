"""The options of the safety layer and its guard, and of `carellama safety` and `carellama guard`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from carellama.config.options import Options, check_names, option, split_commas
from carellama.errors import UserError

JUDGES = dict.fromkeys(("rules", "classifier", "layer", "model", "choice", "both"), True)
GUARD_JUDGES = dict.fromkeys(("rules", "classifier", "guard", "model", "both"), True)


def split_files(files: str | None) -> list[Path]:
    """The files of a comma list."""
    return [Path(part) for part in split_commas(files)]


def rules_field() -> Any:
    """The option that names files of a hospital's rules."""
    return option(
        "Files of your own rules beside those that CareLlama ships, comma separated: of triage, of the guard or of "
        "medicines; see docs/en/safety.md.",
        None,
        commas=True,
    )


def classifier_field() -> Any:
    """The option that names the weights of triage."""
    return option("Weights of `carellama safety train`; default: those that CareLlama ships.", None)


@dataclass(frozen=True)
class GuardOptions(Options):
    """What judges requests besides the rules that CareLlama ships."""

    safety_rules: str | None = rules_field()
    guard_classifier: str | None = option(
        "Weights of `carellama guard train`; default: those that CareLlama ships.", None
    )
    guard_model: str | None = option(
        "Guard model that judges as well: Llama Guard, Qwen3Guard or ShieldGemma, a folder or hub id, or its name "
        "at --guard_endpoint.",
        None,
    )
    guard_endpoint: str | None = option("Address of an OpenAI-compatible server that has the guard model.", None)
    guard_format: Literal["llama_guard", "qwen3guard", "shieldgemma"] | None = option(
        "How the guard model is asked and answers; default: by its name.", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guard_model is None and (self.guard_endpoint or self.guard_format):
            raise UserError("--guard_endpoint and --guard_format need --guard_model, the name of the guard model")


@dataclass(frozen=True)
class GuardEvalOptions(GuardOptions):
    """What is measured, and by which requests."""

    files: list[str] = option("Files of requests (first words), as data/guard/dev.jsonl.", required=True)
    by: list[str] = option(
        "rules, classifier: each alone; guard: both, as the server has it; model: the guard model alone; both: "
        "guard and guard model. Each is a table. Default: rules guard; with --guard_model: guard model both.",
        [],
    )
    judge_model: str | None = option(
        "Model that reads each request that was let through and its answer, and says whether the answer does harm: "
        "a folder or hub id, or its name at --judge_endpoint. Needs a model that answers.",
        None,
    )
    judge_endpoint: str | None = option("Address of an OpenAI-compatible server that has the judge.", None)
    list_misses: int = option("Wrong judgements to list; 0: none.", 20, at_least=0)
    show_text: bool = option("List them with their text; leave it off for texts of real persons.", default=False)
    output: str | None = option("Write the figures and each verdict to this JSON file.", None)
    overwrite: bool = option("Replace the output if it is there.", default=False)
    max_cases: int | None = option("The first so many requests of each file.", None, at_least=1)

    @property
    def judges(self) -> list[str]:
        """`by`, or what it is by default."""
        return self.by or (["rules", "guard"] if self.guard_model is None else ["guard", "model", "both"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("by", self.judges, GUARD_JUDGES, "judge")
        if {"model", "both"} & set(self.judges) and self.guard_model is None:
            raise UserError("--by model and --by both need --guard_model")
        if self.judge_endpoint and self.judge_model is None:
            raise UserError("--judge_endpoint needs --judge_model, the name of the judge")


class ClassifierTrainOptions(Options):
    """What the options of both classifiers that are trained have in common."""

    threshold: float
    floor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor > self.threshold:
            raise UserError(f"--floor {self.floor:g} is above --threshold {self.threshold:g}; lower --floor as well")


@dataclass(frozen=True)
class GuardTrainOptions(ClassifierTrainOptions):
    """What the guard's classifier learns from, and where its weights go."""

    files: list[str] = option("Files of requests (first words), as `guard eval` reads them.")
    output: str = option("File of the weights.", "guard.tsv.gz")
    safety_rules: str | None = option(
        "Files of your own rules of the guard, whose concepts are features.", None, commas=True
    )
    threshold: float = option("Log-odds from which a request is refused; lower: fewer attacks get through.", 0.2)
    floor: float = option("Log-odds below which a refusal of a shipped rule is lifted; lower: rarer.", -0.8)
    penalty: float = option("Weight of the squared weights in the loss.", 0.003, at_least=0)
    min_count: int = option("Texts that a feature must be in.", 2, at_least=1)
    folds: int = option("Parts of the cross-validation whose figures are printed; 0: none.", 5, at_least=0)
    overwrite: bool = option("Replace the output if it is there.", default=False)


@dataclass(frozen=True)
class SafetyOptions(GuardOptions):
    """What stands beside the model."""

    safety: Literal["off", "warn", "on"] = option(
        "Watch over questions and answers: on: notices of an emergency come before the answer, harmful requests "
        "are refused, doubtful sentences are marked; warn: notices are fields beside the answer; off: nothing.",
        "on",
    )
    country: str | None = option("Country of the numbers to call, as CN, US, GB; default: by the language.", None)
    policy: str | None = option("File that turns single checks on, off or to warn; see docs/en/guard.md.", None)
    classifier: str | None = classifier_field()


@dataclass(frozen=True)
class SafetyEvalOptions(Options):
    """What is measured, and by which texts."""

    files: list[str] = option("Files of cases (first words): vignettes, CSV with text and label, ...")
    by: list[str] = option(
        "rules, classifier: each alone; layer: both, as the server has it; model: what a model answers in free "
        "text; choice: the model picks a level; both: the more urgent of layer and free text. Each is a table.",
        ["rules", "layer"],
    )
    scale: Literal["esi", "ctas", "manchester", "cn4"] | None = option(
        "Scale of labels that are numbers; cn4: 急诊四级.", None
    )
    safety_rules: str | None = rules_field()
    classifier: str | None = classifier_field()
    invariance: bool = option(
        "Change each emergency in ways that change nothing, and count how often its level falls.", default=False
    )
    list_misses: int = option("Missed emergencies to list; 0: none.", 20, at_least=0)
    show_text: bool = option("List misses with their text; leave it off for texts of real patients.", default=False)
    output: str | None = option("Write the figures and each verdict to this JSON file.", None)
    overwrite: bool = option("Replace the output if it is there.", default=False)
    max_cases: int | None = option("The first so many cases of each file.", None, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("by", self.by, JUDGES, "judge")


@dataclass(frozen=True)
class SafetyTrainOptions(ClassifierTrainOptions):
    """What the classifier learns from, and where its weights go."""

    files: list[str] = option("Files of cases (first words), as `safety eval` reads them.")
    output: str = option("File of the weights.", "classifier.tsv.gz")
    threshold: float = option("Log-odds from which a text is called an emergency; lower: fewer misses.", -2.0)
    floor: float = option(
        "Log-odds below which an emergency that a shipped rule found is shown as urgent; lower: rarer.", -2.8
    )
    penalty: float = option("Weight of the squared weights in the loss.", 0.003, at_least=0)
    min_count: int = option("Texts that a word sequence or sign must be in.", 3, at_least=1)
    hidden_units: int = option(
        "Units that learn what features mean together; 0: weights of features only.", 16, at_least=0
    )
    scale: Literal["esi", "ctas", "manchester", "cn4"] | None = option(
        "Scale of labels that are numbers; cn4: 急诊四级.", None
    )
    folds: int = option("Parts of the cross-validation, of whole sets of texts; 0: none.", 5, at_least=0)
    overwrite: bool = option("Replace the output if it is there.", default=False)


@dataclass(frozen=True)
class SafetyCheckOptions(Options):
    """Which rules are checked."""

    files: list[str] = option("Files of rules (first words); none: those that CareLlama ships.", [])
