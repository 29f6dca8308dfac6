"""What a small model does wrong in a consultation, as SmolLM2-135M did, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from carellama.consultation.interview import Interview
from carellama.consultation.state import SLOTS
from carellama.engine.base import Piece, PreparedPrompt, Reply, Sampling
from carellama.engine.scripted import ScriptedEngine
from carellama.evaluate.consultation.patient import said_once
from carellama.records import Message
from carellama.safety.layer import SafetyLayer

SAFETY = SafetyLayer("on")
TIRED = [Message("user", "I'm so tired all the time. Do I need a tonic?")]


class Reader(ScriptedEngine):
    """Holds its answers to a schema, as far as the script does."""

    def answer(self, prompt: PreparedPrompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
        return super().answer(prompt, Sampling(temperature=0.0))


def reads(**slots: str) -> str:
    return json.dumps(dict.fromkeys(SLOTS, "") | slots)


def test_a_model_that_finds_warning_signs_in_the_first_message_does_not_keep_them_from_being_asked() -> None:
    interview = Interview(SAFETY, engine=Reader(reads(red_flag="so tired all the time")), reading="model")
    assert interview.step(TIRED).slot == "red_flag"


@pytest.mark.parametrize("reading", ["model", "both"])
def test_a_reading_that_copies_the_answer_into_all_fields_is_not_used(reading: str) -> None:
    copied = dict.fromkeys(SLOTS, "I'm so tired all the time")
    interview = Interview(SAFETY, engine=Reader(reads(**copied)), reading=reading)  # type: ignore[arg-type]
    state = interview.step(TIRED).state
    assert state.slots == Interview(SAFETY).step(TIRED).state.slots
    assert "the same words into 14 fields" in state.failures[0]


def test_the_label_of_our_prompt_is_no_part_of_a_question() -> None:
    engine = ScriptedEngine("The question: When did this start, and did it come on suddenly or slowly?")
    interview = Interview(SAFETY, engine=engine, wording="model")
    asked = interview.step(TIRED)
    answered = [*TIRED, Message("assistant", asked.question or ""), Message("user", "no")]
    assert interview.step(answered).question == "When did this start, and did it come on suddenly or slowly?"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("I'm not sure. I'm not sure. I'm not sure.", "I'm not sure."),
        ("It hurts. It began today. I take aspirin. I like tea.", "It hurts. It began today. I take aspirin."),
        ("不清楚。不清楚。不清楚。", "不清楚。"),
        ("", ""),
    ],
)
def test_a_patient_that_a_model_plays_says_a_sentence_once_and_few_of_them(said: str, kept: str) -> None:
    assert said_once(said) == kept
