"""The options of mode consult, and of `carellama consult`. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.guard import classifier_field, rules_field
from carellama.config.option import about, at_least
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass(frozen=True)
class ConsultArguments:
    """Whether the assistant asks before it advises, and how."""

    mode: Literal["answer", "consult"] = field(
        default="answer",
        metadata=about("answer: each message is answered; consult: ask first, one question at a time, then report."),
    )
    max_questions: int = field(default=10, metadata=about("consult: most questions before the report."))
    consult_wording: Literal["rules", "model"] = field(
        default="rules", metadata=about("consult: who words the questions; rules choose them either way.")
    )
    consult_reading: Literal["rules", "model", "both"] = field(
        default="rules",
        metadata=about("consult: who reads the answers; both: the model fills what the rules leave empty."),
    )

    def __post_init__(self) -> None:
        at_least(self, max_questions=1)

    def refuse_unread(self) -> None:
        """Raise `UserError` for an option of mode consult that was given in mode answer, which does not read it."""
        default = type(self)(mode="answer")
        for name in ("max_questions", "consult_wording", "consult_reading"):
            if self.mode == "answer" and getattr(self, name) != getattr(default, name):
                raise UserError(f"--{name} is for --mode consult; give both, or neither")


@dataclass(frozen=True)
class ConsultReportArguments:
    """The conversation, and where its report goes."""

    conversation: list[str] = field(
        metadata=about('File of the conversation (first word): what /save writes, or {"messages": [...]}.')
    )
    output: Optional[str] = field(
        default=None, metadata=about("File to write, by its suffix: .md .html .pdf .json; default: Markdown on stdout.")
    )
    country: Optional[str] = field(
        default=None, metadata=about("Country of the numbers to call, as CN, US, GB; default: by the language.")
    )
    safety_rules: Optional[str] = rules_field()
    classifier: Optional[str] = classifier_field()
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))

    def __post_init__(self) -> None:
        if len(self.conversation) != 1:
            raise UserError(f"carellama consult report takes one file; {len(self.conversation)} were given")
