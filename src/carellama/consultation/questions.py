"""The questions of a consultation: their wording, and which slot a message of the assistant asks about.

    questions = load_questions()
    questions.text("onset", "en")                                  # "When did this start, and did it come on ..."
    questions.slot_of("Thank you. And when did this start?")       # "onset"

Data of `slots.yaml`; a complaint of `complaints/*.yaml` brings questions of its own (`ask`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from carellama.consultation.complaints import load_guide
from carellama.consultation.guide_files import Complaint
from carellama.consultation.state import SLOTS, Slot
from carellama.package_data import flat_terms, package_yaml
from carellama.records import JSONObject
from carellama.rules import Lexicon, normalize
from carellama.safety.notices import Language

Wording = Mapping[str, str]  # by language
_QUESTION = re.compile(r"[^。！？!?\n]*[?？]")


@dataclass(frozen=True, slots=True)
class Questions:
    """All wordings: `of_slot[slot][kind][language]`, and the complaints by id."""

    intro: Wording
    meanwhile: Wording
    closing: Wording
    closing_emergency: Wording
    later: Wording
    of_slot: Mapping[Slot, Mapping[str, Wording]]
    complaints: Mapping[str, Complaint]
    words: Lexicon  # concepts slot names: what a question about it has
    exact: tuple[tuple[str, Slot], ...]  # normalised wordings, the longest first

    def text(self, slot: Slot, language: Language, kind: str = "ask", complaints: Sequence[str] = ()) -> str:
        """Return a question; `kind` is a key of `slots.yaml`. The first complaint that has its own brings it."""
        if kind in ("ask", "other", "without_pill"):
            for name in complaints:
                if own := self.complaints[name].ask.get(slot):
                    return own[language]
        of_slot = self.of_slot[slot]
        return of_slot.get(kind, of_slot["ask"])[language]

    def needs(self, complaints: Sequence[str]) -> list[Slot]:
        """Return the slots that matter for these complaints, in the order of their files."""
        return list(dict.fromkeys(slot for name in complaints for slot in self.complaints[name].needs))

    def slot_of(self, message: str) -> Slot | None:
        """Return the slot that a message asks about: by our wordings, or by the words of its last question."""
        text = normalize(message)
        for wording, slot in self.exact:
            if wording in text:
                return slot
        asked = _QUESTION.findall(text)
        if not asked:
            return None
        found = self.words.find(asked[-1])
        counts = {slot: len(found.get(slot, ())) for slot in SLOTS}
        best = max(counts.values())
        return next((slot for slot, count in counts.items() if count == best), None) if best else None


@cache
def load_questions() -> Questions:
    """Return the questions that CareLlama ships."""
    data = slots_data()
    complaints = load_guide().complaints
    of_slot = {
        slot: {kind: said for kind, said in data["slots"][slot].items() if isinstance(said, dict)} for slot in SLOTS
    }
    wordings = [(said, slot) for slot, kinds in of_slot.items() for kind in kinds.values() for said in kind.values()]
    wordings += [(said, slot) for one in complaints.values() for slot, own in one.ask.items() for said in own.values()]
    exact = sorted(((normalize(said), slot) for said, slot in wordings), key=lambda one: -len(one[0]))
    words = Lexicon({slot: flat_terms(data["slots"][slot]["asks"]) for slot in SLOTS})
    return Questions(
        intro=data["intro"],
        meanwhile=data["meanwhile"],
        closing=data["closing"],
        closing_emergency=data["closing_emergency"],
        later=data["later"],
        of_slot=of_slot,
        complaints=complaints,
        words=words,
        exact=tuple(exact),
    )


def slots_data() -> JSONObject:
    """Return what `slots.yaml` says."""
    return package_yaml("consultation/slots.yaml")
