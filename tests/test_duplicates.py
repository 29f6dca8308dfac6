"""Duplicates: planted ones are found with the record that stays, unrelated records are left alone."""

from __future__ import annotations

import tempfile

import pytest

from carellama.data.clean.duplicates import Duplicates
from carellama.records import Chat, Message

LONG = (
    "Asthma narrows the airways. People may wheeze, cough at night, or feel short of breath after exercise. "
    "A clinician can measure how fast air leaves the lungs and suggest treatment that keeps the airways open."
)
CHINESE = (
    "哮喘会使气道变窄，患者可能出现喘息、夜间咳嗽，或者运动后气短。"
    "医生可以测量肺部呼气的速度，并建议让气道保持通畅的治疗。"
)
OTHER = (
    "Reflux means that acid rises from the stomach. Smaller meals in the evening may help, and so may raising the "
    "head of the bed. Pain behind the breastbone that is new should be looked at by a clinician without delay."
)


def chat(answer: str, question: str = "What is it?") -> Chat:
    return Chat((Message("user", question), Message("assistant", answer)))


def partners(records: list[Chat], threshold: float = 0.8) -> list[int]:
    with tempfile.TemporaryFile() as file:
        found = Duplicates(file, threshold)
        for record in records:
            found.add(record)
        return [int(one) for one in found.partners()[0]]


def test_exact_duplicates_but_for_case_width_and_punctuation() -> None:
    records = [chat(LONG), chat(OTHER), chat(LONG.upper().replace(". ", "！ ")), chat(OTHER, "Ｗhat  is it？")]
    assert partners(records, threshold=0) == [-1, -1, 0, 1]


@pytest.mark.parametrize("text, near", [(LONG, LONG + " Thanks."), (CHINESE, CHINESE + "谢谢。")])
def test_near_duplicates_name_the_first(text: str, near: str) -> None:
    assert partners([chat(OTHER), chat(text), chat(near)]) == [-1, -1, 1]
    assert partners([chat(OTHER), chat(text), chat(near)], threshold=0) == [-1, -1, -1]


def test_a_partner_is_never_itself_removed() -> None:
    words = [f"word{number}" for number in range(120)]
    chain = [chat(" ".join(words[step : step + 100])) for step in range(0, 20, 2)]  # each is like the next
    found = partners([chat(OTHER), *chain, chat(OTHER)])
    assert all(found[one] == -1 for one in found if one >= 0)
    assert sum(one >= 0 for one in found) >= 5 and found[-1] == 0


def test_unlike_and_short_texts_stay() -> None:
    assert partners([chat(LONG), chat(OTHER), chat(CHINESE), chat("Yes."), chat("No.")]) == [-1] * 5
    assert partners([]) == []
