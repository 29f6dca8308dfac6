"""What is known in a consultation: the slots, what was asked, how urgent it is, and whether it has ended.

    state = Interview(SafetyLayer("on")).step(messages).state
    state.slots["onset"]        # "since Tuesday", in the person's words

The state is made from the conversation alone (`consultation.interview`); no model keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from carellama.records import JSONObject
from carellama.safety.medication.conflicts import Conflict
from carellama.safety.notices import Language
from carellama.safety.triage.triage import Finding

Slot = Literal[
    "complaint", "age_sex", "onset", "location", "course", "severity", "associated", "red_flag", "history", "drugs",
    "allergies", "pregnancy", "family", "social",
]  # fmt: skip
SLOTS: tuple[Slot, ...] = get_args(Slot)
Urgency = Literal["emergency", "urgent", "soon", "routine"]
Reason = Literal["", "emergency", "complete", "limit", "person asked"]
FERTILE = (12, 55)  # years within which a pregnancy is asked about
Reader = Literal["answer", "rules", "model"]


@dataclass(frozen=True, slots=True)
class ConsultState:
    """What the conversation says so far. A slot that is missing was not told of.

    `asked` has the slot of each question, in order; a slot stands in it twice where its answer needed a follow-up.
    `read_by` says for each slot how it was read: "answer" (the whole answer to its question), "rules" (words of
    `slots.yaml` in something else that was said) or "model". `failures` has a line for each reading or wording of
    the model that could not be used; the rules stood in for it.
    """

    language: Language = "en"
    slots: Mapping[Slot, str] = field(default_factory=dict)  # what the person said, verbatim
    asked: tuple[Slot, ...] = ()
    level: Urgency = "routine"  # of triage
    findings: tuple[Finding, ...] = ()  # of triage, the most urgent first
    complaints: tuple[str, ...] = ()  # ids of complaints/*.yaml, in the order in which they were told of
    done: bool = False
    reason: Reason = ""  # why it ended
    age: float | None = None  # years
    sex: Literal["female", "male"] | None = None
    read_by: Mapping[Slot, Reader] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()  # of medicines that are taken or asked about with what was said
    full_slots: Mapping[Slot, str] = field(default_factory=dict, repr=False)  # the slots uncut; empty: as in `slots`
    reported: bool = False  # an earlier answer is the report, and nothing was said since that belongs into it

    def as_json(self) -> JSONObject:
        """Return it as the API sends it; `rules` are the ids of the rules of triage that fired."""
        return {
            "language": self.language,
            "slots": dict(self.slots),
            "asked": list(self.asked),
            "level": self.level,
            "rules": [finding.rule.id for finding in self.findings],
            "complaints": list(self.complaints),
            "done": self.done,
            "reason": self.reason,
            "read_by": dict(self.read_by),
            "failures": list(self.failures),
        }
