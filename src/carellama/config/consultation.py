"""The options of mode consult, and of `carellama consult`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carellama.config.options import Options, check_names, option
from carellama.config.safety import classifier_field, rules_field
from carellama.errors import UserError

DOCTORS = dict.fromkeys(("rules", "consult", "one-shot", "free"), True)


@dataclass(frozen=True)
class ConsultOptions(Options):
    """Whether the assistant asks before it advises, and how."""

    mode: Literal["answer", "consult"] = option(
        "answer: each message is answered; consult: ask first, one question at a time, then report.", "answer"
    )
    max_questions: int = option("consult: most questions before the report.", 10, at_least=1)
    consult_wording: Literal["rules", "model"] = option(
        "consult: who words the questions; rules choose them either way.", "rules"
    )
    consult_reading: Literal["rules", "model", "both"] = option(
        "consult: who reads the answers; both: the model fills what the rules leave empty.", "rules"
    )

    def refuse_unread(self) -> None:
        """Raise `UserError` for an option of mode consult that was given in mode answer, which does not read it."""
        default = type(self)(mode="answer")
        for name in ("max_questions", "consult_wording", "consult_reading"):
            if self.mode == "answer" and getattr(self, name) != getattr(default, name):
                raise UserError(f"--{name} is for --mode consult; give both, or neither")


@dataclass(frozen=True)
class ConsultReportOptions(Options):
    """The conversation, and where its report goes."""

    conversation: list[str] = option(
        'File of the conversation (first word): what /save writes, or {"messages": [...]}.'
    )
    output: str | None = option(
        "File to write, by its suffix: .md .html .pdf .json; default: Markdown on stdout.", None
    )
    country: str | None = option("Country of the numbers to call, as CN, US, GB; default: by the language.", None)
    safety_rules: str | None = rules_field()
    classifier: str | None = classifier_field()
    overwrite: bool = option("Replace the output if it is there.", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.conversation) != 1:
            raise UserError(f"carellama consult report takes one file; {len(self.conversation)} were given")


@dataclass(frozen=True)
class ConsultEvalOptions(Options):
    """Which doctors talk to which patients, and where the figures go."""

    files: list[str] = option("Files of patient cards (first words), as in data/consultation.")
    by: list[str] = option(
        "rules: the interview without a model; consult: with one; one-shot: the model advises at once; free: the "
        "model asks as it likes. Each is a column; differences are of the first two to the last two.",
        ["rules"],
    )
    consult_wording: Literal["rules", "model"] = option(
        "Of consult: who words the questions; which one comes next, rules choose.", "model"
    )
    consult_reading: Literal["rules", "model", "both"] = option(
        "Of consult: who reads answers; both: the model what the rules leave empty.", "both"
    )
    patient: Literal["scripted", "model"] = option(
        "scripted: answers by the words of the card; model: a model plays the patient.", "scripted"
    )
    patient_model: str | None = option("--patient model: its model; default: the same as the doctor's.", None)
    seeds: int = option("Consultations of each doctor with each patient.", 3, at_least=1)
    max_questions: int = option("Most questions of a consultation.", 10, at_least=1)
    max_cards: int | None = option("So many cards of each file, spread evenly over it.", None, at_least=1)
    list_worst: int = option("Cards with the fewest key facts to list; 0: none.", 5, at_least=0)
    output: str | None = option("Write the figures and all scores to this JSON file.", None)
    transcripts: str | None = option("Write all consultations to this file of JSON lines.", None)
    overwrite: bool = option("Replace the files of --output and --transcripts if they are there.", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("by", self.by, DOCTORS, "doctor")
        if self.patient_model and self.patient != "model":
            raise UserError("--patient_model is for --patient model; the scripted patient has no model")
