"""Exam questions in training data: found however they are punctuated, or slightly edited; the same topic is not one."""

from __future__ import annotations

import numpy as np
import pytest

from carellama.data.clean.contamination import Exams
from carellama.data.clean.runs import keys_of
from carellama.records import Question
from carellama.text import words

OPTIONS = {"A": "a cough that lasts", "B": "a fever that lasts for more than three days in a small child"}
ENGLISH = "A woman of forty has had a dry cough for two weeks and wakes at night short of breath. What is most likely?"
CHINESE = "一名四十岁的女性干咳两周，夜间常因气短而醒来，既往没有发热，最可能的诊断是什么"
SHORT_STEM = "下列关于哮喘的说法不正确的是"

EDITED_ENGLISH = (  # never 13 words in a row as in the question
    "A woman of forty has had a dry cough for three weeks and wakes at night short of breath. What is most likely?"
)
EDITED_CHINESE = "一名四十岁女性干咳两周，夜间常因气喘而醒来，既往没有发热，最可能的诊断是什么"
LIST = "Which is right? 1) a fever that lasts for more than three days in a young child 2) a cough that lasts"


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


@pytest.mark.parametrize(
    "text, name", [(EDITED_ENGLISH, "en"), (EDITED_CHINESE, "zh"), (LIST, "tiny"), (LIST.replace("1)", "A."), "tiny")]
)
@pytest.mark.parametrize("around", ["{}", "Please help. {} Asthma.", "哮喘是气道的慢性炎症。" * 50 + "{}\nB"])
def test_an_edited_question_is_found_within_a_text(exams: Exams, text: str, name: str, around: str) -> None:
    before, hit = exams.found(["nothing of it", around.format(text)])
    assert before is None and hit is not None
    assert hit.id == name and hit.similarity is not None and 0.75 <= hit.similarity < 1


def test_near_questions_can_be_left_alone() -> None:
    made = Exams(similarity=0)
    made.add("sample", Question("en", ENGLISH, OPTIONS, ("A",)))
    made.done()
    assert made.found([EDITED_ENGLISH]) == [None] and made.found([ENGLISH])[0] is not None


@pytest.mark.parametrize(
    "text",
    [
        "下列关于哮喘的说法正确的是",  # a short question with one character less is another question
        "下列关于肺炎的说法不正确的是",
        "Which is wrong? " + OPTIONS["B"] + " " + OPTIONS["A"],  # the options, but another stem
        "一名四十岁的男性腹痛两天，进食后常因恶心而呕吐，既往没有手术，最可能的诊断是什么",  # the pattern alone
        "A man of sixty has had chest pain for two hours and sweats a lot in the ward. What is most likely?",
    ],
)
def test_short_and_other_questions_are_not_near(exams: Exams, text: str) -> None:
    assert exams.found([text]) == [None]


def test_a_long_text_with_the_words_of_a_question_here_and_there_is_none(exams: Exams) -> None:
    filler = "。气道炎症可以持续多年，需要长期管理。"
    pieces = [CHINESE[at : at + 10] for at in range(0, len(CHINESE), 8)]
    assert exams.found([(filler * 3).join(pieces)]) == [None]


def test_what_many_questions_have_in_common_finds_none() -> None:
    made = Exams()
    ending = "患者入院后查体未见明显异常，根据以上资料最可能的诊断是什么"
    for number in range(300):
        own = "".join(chr(0x4E00 + 37 * number + step) for step in range(8))
        made.add("sample", Question(str(number), own + ending, {"A": "甲", "B": "乙"}, ("A",)))
    made.done()
    near = made._near
    assert near is not None and len(near._anchors) < 300 * 16  # those of the ending are left out
    assert near.found(*_words("说明" + ending)) == {}


def _words(text: str):
    keys = keys_of(words(text))
    return keys, np.zeros(len(keys), dtype=np.int64)
