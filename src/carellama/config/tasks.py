"""The options of `carellama task`, besides those of all verbs that answer. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.answering import EngineArguments
from carellama.config.data import DataArguments
from carellama.config.finetuning import FinetuningArguments
from carellama.config.generating import GeneratingArguments
from carellama.config.model import ModelArguments
from carellama.config.option import about, at_least
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass(frozen=True)
class TaskArguments:
    """Which task, on which texts, and where the rows go."""

    words: list[str] = field(metadata=about("NAME FILE: the task and its texts; or list; or show NAME (first words)."))
    text_column: Optional[str] = field(
        default=None,
        metadata=about("Column(s) with the text, comma separated; several are joined under their names."),
    )
    text_unit: Optional[Literal["line", "file"]] = field(
        default=None, metadata=about("Plain text: each line is a text, or the whole file is one.")
    )
    output: Optional[str] = field(
        default=None, metadata=about("JSON Lines file to write; default: FILE.NAME.jsonl; the report is OUTPUT.json.")
    )
    resume: bool = field(
        default=True, metadata=about("Continue an output of the same input and options; false: refuse one that exists.")
    )
    overwrite: bool = field(default=False, metadata=about("Replace an output that exists."))
    max_rows: Optional[int] = field(default=None, metadata=about("Stop after so many rows of the input."))
    batch_size: int = field(default=16, metadata=about("Rows that go to the engine together."))
    language: Literal["auto", "zh", "en"] = field(
        default="auto", metadata=about("Language of the prompt; auto: that of each text.")
    )
    prompt: Optional[str] = field(
        default=None, metadata=about("File with a prompt in place of the task's; {text} in it is the text of a row.")
    )
    task_file: Optional[str] = field(default=None, metadata=about("YAML file with a task of your own."))
    retries: int = field(
        default=2, metadata=about("How often a reply that cannot be used is asked for again, with what was wrong.")
    )
    prefix: str = field(
        default="", metadata=about("Put before the names of the columns result, unsupported, checks and error.")
    )
    reading_length: Optional[int] = field(
        default=None, metadata=about("rewrite: most words (characters in Chinese); default: 150.")
    )
    table: Optional[str] = field(
        default=None, metadata=about("normalize: table with code and name; icd10cm: the package simple-icd-10-cm.")
    )
    code_column: Optional[str] = field(default=None, metadata=about("Column of --table with the codes."))
    name_column: Optional[str] = field(default=None, metadata=about("Column of --table with the names."))
    by: Literal["model", "rules"] = field(
        default="model",
        metadata=about("normalize: the model picks among the nearest entries; rules: no model, near matches only."),
    )
    candidates: int = field(default=5, metadata=about("normalize: nearest entries that the model picks from."))
    min_score: float = field(
        default=0.85, metadata=about("normalize --by rules: similarity (0 to 1) from which an entry is a match.")
    )

    def __post_init__(self) -> None:
        at_least(self, max_rows=1, batch_size=1, retries=0, reading_length=10, candidates=1, min_score=0)
        if self.candidates > 25 or self.min_score > 1:
            raise UserError(
                f"--candidates is {self.candidates} (1 to 25), --min_score {self.min_score:g} (0 to 1): one is above"
            )


@dataclass(frozen=True)
class TaskGeneratingArguments(GeneratingArguments):
    """How answers are sampled: by default the likeliest token, so that a text has one result."""

    temperature: float = field(default=0.0, metadata=about("0: always the likeliest token."))
    top_p: float = field(default=1.0, metadata=about("Sample from the likeliest tokens of this total probability."))
    top_k: int = field(default=0, metadata=about("Sample from this many likeliest tokens; 0: from all."))
    max_new_tokens: int = field(default=1024, metadata=about("Maximum length of an answer in tokens."))


TASK_GROUPS = (
    TaskArguments, ModelArguments, DataArguments, FinetuningArguments, TaskGeneratingArguments, EngineArguments,
)  # fmt: skip
