"""Exam questions in training data: found however they are punctuated; a row on the same topic is not one."""

from __future__ import annotations

import pytest

from carellama.data.clean.contamination import Exams
from carellama.records import Question

OPTIONS = {"A": "a cough that lasts", "B": "a fever that lasts for more than three days in a small child"}
ENGLISH = "A woman of forty has had a dry cough for two weeks and wakes at night short of breath. What is most likely?"
CHINESE = "一名四十岁的女性干咳两周，夜间常因气短而醒来，既往没有发热，最可能的诊断是什么"
SHORT_STEM = "下列关于哮喘的说法不正确的是"


@pytest.fixture
def exams() -> Exams:
    made = Exams()
    for name, stem in (("en", ENGLISH), ("zh", CHINESE), ("whole", SHORT_STEM), ("tiny", "Which is right?")):
        made.add("sample", Question(name, stem, OPTIONS, ("A",)))
    made.done()
    return made


@pytest.mark.parametrize(
    "text, name",
    [
        ("Please answer:\n" + ENGLISH.upper().replace(".", " ;") + "\nA", "en"),
        ("请回答：一名四十岁的女性，干咳两周。夜间常因气短而醒来；既往没有发热！", "zh"),
        (f"{SHORT_STEM}（ ）", "whole"),
        ("Which is right? A. a cough that lasts B. a fever that lasts for more than three days", "tiny"),
        ("Which is right? a cough that lasts / a fever that lasts for more than three days", "tiny"),
    ],
)
def test_a_question_is_found(exams: Exams, text: str, name: str) -> None:
    (before, hit, after) = exams.found(["nothing of it", text, ""])
    assert before is None and after is None
    assert hit is not None and (hit.exam, hit.id) == ("sample", name)


@pytest.mark.parametrize(
    "text",
    [
        "A dry cough that wakes a woman of forty at night can be asthma. What is most likely depends on the history.",
        "哮喘患者夜间常因气短而醒来，干咳两周以上应就医。",
        OPTIONS["B"],
        "Which is right?",
    ],
)
def test_the_topic_or_the_options_alone_are_not_a_question(exams: Exams, text: str) -> None:
    assert exams.found([text]) == [None]


def test_a_run_does_not_go_from_one_text_into_the_next(exams: Exams) -> None:
    half = len(CHINESE) // 2
    assert exams.found([CHINESE[:half], CHINESE[half:]]) == [None, None]
    assert exams.found([]) == [] and Exams().found(["x"]) == [None]
