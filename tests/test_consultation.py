"""The consultation: which question comes next, what is read of an answer, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence

from carellama.consultation.interview import Interview, Step
from carellama.consultation.reading import read_text
from carellama.records import Message
from carellama.safety.layer import SafetyLayer

INTERVIEW = Interview(SafetyLayer("on"))


def talk(interview: Interview, answers: Sequence[str]) -> tuple[list[Message], list[Step]]:
    """Say the answers one after the other, until the interview ends."""
    messages: list[Message] = []
    steps: list[Step] = []
    for answer in answers:
        messages.append(Message("user", answer))
        steps.append(interview.step(messages))
        if steps[-1].question is None:
            break
        messages.append(Message("assistant", steps[-1].question))
    return messages, steps


def test_one_sentence_fills_three_slots() -> None:
    said = read_text("I'm 34, on the pill, started Tuesday")
    assert said.slots == {"age_sex": "I'm 34", "drugs": "on the pill", "onset": "started Tuesday"}
    assert (said.age, said.sex) == (34, "female")


def test_what_was_said_is_not_asked() -> None:
    _, steps = talk(INTERVIEW, ["头疼三天了，我38岁，女，没怀孕，对青霉素过敏", *["没有"] * 12])
    asked = steps[-1].state.asked
    assert steps[-1].state.reason == "complete"
    assert {"red_flag", "drugs", "history"} <= set(asked)
    assert not {"onset", "age_sex", "pregnancy", "allergies"} & set(asked)
