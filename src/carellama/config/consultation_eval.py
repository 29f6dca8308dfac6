"""The options of `carellama consult eval`. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError, lookup

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

DOCTORS = dict.fromkeys(("rules", "consult", "one-shot", "free"), True)


@dataclass(frozen=True)
class ConsultEvalArguments:
    """Which doctors talk to which patients, and where the figures go."""

    files: list[str] = field(metadata=about("Files of patient cards (first words), as in data/consultation."))
    by: list[str] = field(
        default_factory=lambda: ["rules"],
        metadata=about(
            "rules: the interview without a model; consult: with one; one-shot: the model advises at once; free: the "
            "model asks as it likes. Each is a column; differences are of the first two to the last two."
        ),
    )
    consult_wording: Literal["rules", "model"] = field(
        default="model", metadata=about("Of consult: who words the questions; which one comes next, rules choose.")
    )
    consult_reading: Literal["rules", "model", "both"] = field(
        default="both", metadata=about("Of consult: who reads answers; both: the model what the rules leave empty.")
    )
    patient: Literal["scripted", "model"] = field(
        default="scripted",
        metadata=about("scripted: answers by the words of the card; model: a model plays the patient."),
    )
    patient_model: Optional[str] = field(
        default=None, metadata=about("--patient model: its model; default: the same as the doctor's.")
    )
    seeds: int = field(default=3, metadata=about("Consultations of each doctor with each patient."))
    max_questions: int = field(default=10, metadata=about("Most questions of a consultation."))
    max_cards: Optional[int] = field(default=None, metadata=about("So many cards of each file, spread evenly over it."))
    list_worst: int = field(default=5, metadata=about("Cards with the fewest key facts to list; 0: none."))
    output: Optional[str] = field(default=None, metadata=about("Write the figures and all scores to this JSON file."))
    transcripts: Optional[str] = field(
        default=None, metadata=about("Write all consultations to this file of JSON lines.")
    )

    def __post_init__(self) -> None:
        at_least(self, seeds=1, max_questions=1, max_cards=1, list_worst=0)
        for doctor in self.by:
            lookup(DOCTORS, doctor, "doctor of --by")
        if len(set(self.by)) < len(self.by):
            raise UserError(f"--by names {' '.join(self.by)}; name each once")
        if self.patient_model and self.patient != "model":
            raise UserError("--patient_model is for --patient model; the scripted patient has no model")
