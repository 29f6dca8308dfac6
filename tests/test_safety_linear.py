"""Triage's rules take any text, and time that grows linearly with it: work is counted in calls, not in seconds."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.records import Message
from carellama.rules import Lexicon, Mention, normalize
from carellama.safety.answers.urgency import makes_light_of, urgency_of
from carellama.safety.rules.context import Context, Flag
from carellama.safety.rules.measures import find_measures
from carellama.safety.triage.rules import load_red_flags
from carellama.safety.triage.triage import patient_text

RULES = load_red_flags()
WORDS = sorted({one.text.rstrip("*") for one in RULES.lexicon._literals})
EDGES = ["没", "没有", "no ", "not ", "但是", "如果", "what is ", "小说", "39", "一", "半", "1,000", "度", "岁",
         " ", ",", "。", ". ", "!", "\n", "a", "…", "😀", "e\u0301", "\u200d", "\u202e", "\x00", "\ud800", "ﷺ",
         ]  # fmt: skip
ANSWERS = [
    "you do not need to see a doctor",
    "call 911",
    "if",
    "go to the emergency room",
    "不用去医院",
    "请拨打120",
    "如果",
]
SHORT, TIMES = 1_000, 8
WORST = {
    "one term": "胸口疼",
    "terms of parts": "chest and pain and ",
    "digits": "7",
    "thousands": "1,000,",
    "numbers": "39度",
    "denials": "没有",
    "denials, en": "no not ",
    "full stops": "。",
    "marks": "!?,;",
    "letters": "a",
    "emoji": "😀",
    "combining marks": "e\u0301",
    "lone surrogates": "\ud800",
    "lines": "\n",
    "fiction": "小说里胸口疼",
    "questions": "什么是胸痛",
    "past": "去年胸口疼但是",
}


def calls(function: Callable[[str], object], text: str) -> int:
    """Return how many functions are called while it runs."""
    count = 0

    def tick(*_: object) -> None:
        nonlocal count
        count += 1

    function(text)  # what is cached at first use
    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        function(text)
    finally:
        sys.setprofile(before)
    return count


def mixture(seed: int, share: float, few: int, length: int) -> str:
    """Words of the rules, `few` of them, and, by `share`, what stands between them."""
    chance = random.Random(seed)
    words, made, size = chance.sample(WORDS, few), [], 0
    while size < length:
        made.append(chance.choice(EDGES if chance.random() < share else words))
        size += len(made[-1])
    return "".join(made)[:length]


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), few=st.sampled_from([3, 100, 10_000]))
def test_rules_take_linear_time_for_any_mixture_of_their_words(seed: int, share: float, few: int) -> None:
    long = mixture(seed, share, few, SHORT * TIMES)
    parts = [calls(RULES.scan, long[at : at + SHORT]) for at in range(0, len(long), SHORT)]
    assert calls(RULES.scan, long) < 2 * sum(parts)


@pytest.mark.parametrize("name", WORST)
def test_rules_take_linear_time_in_the_worst_case(name: str) -> None:
    unit = WORST[name]
    short, long = (calls(RULES.scan, (unit * length)[:length]) for length in (SHORT, SHORT * TIMES))
    assert long < 2 * TIMES * short


@pytest.mark.parametrize("judge", [makes_light_of, urgency_of])
@pytest.mark.parametrize(
    "sentence", ["You do not need to see a doctor if it stops. ", "如果加重请拨打120。", "无需就医。拨打120。"]
)
def test_answers_are_judged_in_linear_time(judge: Callable[[str], object], sentence: str) -> None:
    """Each mention looked through all sentences of the answer."""
    short, long = (calls(judge, (sentence * length)[:length]) for length in (SHORT, SHORT * TIMES))
    assert long < 2 * TIMES * short


def test_a_lexicon_of_many_parts_takes_linear_time() -> None:
    lexicon = Lexicon({"a": ["甲", "乙"], "b": ["{a} & {a}"], "c": ["{b} & {a} & {b}"], "d": ["{c} .. {b}"]})
    short, long = (calls(lambda text: [*lexicon.find(text).values()], "甲乙丙" * size) for size in (500, 4_000))
    assert long < 2 * TIMES * short


@settings(max_examples=60)
@given(st.lists(st.sampled_from(EDGES + ANSWERS) | st.sampled_from(WORDS) | st.text(st.characters(), max_size=5)))
def test_any_text_is_read(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert all(0 <= start < end <= len(text) for _, spans in RULES.scan(text) for start, end in spans)
    assert len(normalize(text)) == len(text)
    assert all(0 <= one.start < one.end for found in find_measures(normalize(text)).values() for one in found)
    urgency_of(text)
    place = makes_light_of(text)
    assert place is None or 0 <= place[0] < place[1] <= len(text)


def test_surrogates_are_among_the_texts() -> None:
    assert RULES.scan("胸口疼\ud800一身冷汗") == RULES.scan("胸口疼?一身冷汗")


def test_a_rule_that_has_fired_asks_no_more_how_mentions_are_meant() -> None:
    """Each mention of a long text was weighed, although a rule fires at its first."""
    asked: list[Mention] = []

    class Counted(Context):
        def flags(self, mention: Mention) -> frozenset[Flag]:
            asked.append(mention)
            return super().flags(mention)

    counts = []
    for times in (5, 40):
        text = normalize("胸口像压了块石头,一身冷汗,没有发烧。" * times)
        mentions = RULES.mentions(text)
        assert RULES.match(text, mentions, Counted(text, mentions))
        counts.append(len(asked))
        asked.clear()
    assert 0 < counts[1] < 6 * counts[0], counts  # it was 8: as many as there are mentions


@pytest.mark.parametrize("piece", ["*", "<div>", "没有", "a ", "，"])
def test_an_earlier_answer_without_a_question_takes_linear_time(piece: str) -> None:
    # a pattern that began anew at each character took 24 s for 25,000 signs of markup
    def seconds(characters: int) -> float:
        answer = (piece * characters)[:characters]
        messages = (Message("user", "hello"), Message("assistant", answer), Message("user", "yes"))
        start = time.process_time()
        assert patient_text(messages) == "hello\nyes"
        return time.process_time() - start

    few, many = seconds(25_000), seconds(400_000)
    assert many < 60 * few + 0.5  # 16 times as long; a quadratic step would take 256 times


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        ("Do you feel pain in your chest?", "Do you feel pain in your chest?"),
        ("Drink water. Is it worse at night? Rest.", "Is it worse at night?"),
        ("多喝水。胸口疼吗？会出汗吗？", "会出汗吗？"),
        ("First line\nany fever? none!", "any fever?"),
    ],
)
def test_the_last_question_of_an_answer_is_the_one_affirmed(answer: str, asked: str) -> None:
    messages = (Message("user", "hello"), Message("assistant", answer), Message("user", "yes"))
    assert patient_text(messages).split("\n")[:2] == ["hello", asked]
