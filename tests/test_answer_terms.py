"""What an answer names, for any text: nothing crashes, spans lie inside, and the time grows with the length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.rules import normalize
from carellama.safety.answers.terms import _WORDS, PATTERNS, PersonStatements, _key, _may_match, find_terms
from carellama.safety.medication.conflicts import conflicts, person_facts
from carellama.safety.medication.rules import CONDITION, DRUG, load_medication
from test_safety_linear import SHORT, TIMES, calls

RULES = load_medication()
NAMES = sorted({one.text.rstrip("*") for one in RULES.lexicon._literals})
ENDS = sorted({word for lists in _WORDS.values() for name in lists for word in PATTERNS.words(name)})
EDGES = [
    " ",
    "-",
    ",",
    "。",
    ". ",
    "\n",
    "5",
    "2.5 ",
    "half a ",
    "每天",
    "mg",
    "g",
    "a ",
    "不",
    "\ud83d",
    "😀",
    "e\u0301",
]
TEXTS = st.lists(st.sampled_from([*EDGES, *NAMES]) | st.sampled_from(ENDS) | st.text(st.characters(), max_size=6))


@settings(max_examples=200)
@given(TEXTS)
def test_any_text_is_read_and_spans_lie_inside(pieces: list[str]) -> None:
    plain = normalize("".join(pieces))
    found = find_terms(plain)
    assert found.keys() <= _WORDS.keys()
    for ones in found.values():
        assert all(0 <= one.start < one.end <= len(plain) for one in ones)
        assert [one.start for one in ones] == sorted(one.start for one in ones)
    stated = PersonStatements(plain)
    assert all(isinstance(plain[one.start : one.end] in stated, bool) for ones in found.values() for one in ones)


@settings(max_examples=300)
@given(TEXTS)
def test_a_pattern_that_matches_has_a_key_and_a_name_is_searched_for(pieces: list[str]) -> None:
    """The searches before the patterns and the lexicon save time and may lose nothing."""
    plain = normalize("".join(pieces))
    assert {name for name in _WORDS if PATTERNS[name].search(plain)} <= _may_match(plain)
    named = [name for name in RULES.lexicon.find(plain) if name.startswith((DRUG, CONDITION))]
    assert not named or RULES.names.is_in(plain)


def test_the_searches_say_no_to_most_texts() -> None:
    """If they said yes to all, the test above would hold and show nothing."""
    assert not RULES.names.is_in("please sit down and call your sister.")
    assert "medicine" not in _may_match("please sit down and call your sister.")
    assert PATTERNS["disease"].search("you have arthritis") and "disease" in _may_match("you have arthritis")


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("tumou?r", "tumo"),
        ("(?:hyper|hypo)tension", "tension"),
        ("抗[生病]\\S{0,3}[素药]", "抗"),
        ("eye drops", "eye drops"),
    ],
)
def test_the_key_of_a_word_is_in_all_that_it_matches(word: str, key: str) -> None:
    assert _key(word) == key


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "pneumonia ",
        "炎",
        "5 mg ",
        "half a ",
        "a-",
        "ibuprofen and ",
        "过敏性",
        "1,000",
        "抗x",
        "of the ",
        "·",
        "\ud83d",
    ],
)
@pytest.mark.parametrize("read", [find_terms, lambda plain: conflicts(FACTS, plain)], ids=["terms", "conflicts"])  # type: ignore[has-type]
def test_the_work_grows_with_the_length(unit: str, read) -> None:
    short, long = (calls(read, normalize((unit * length)[:length])) for length in (SHORT, SHORT * TIMES))
    assert long < 2 * TIMES * short


FACTS = person_facts("I am pregnant and take warfarin.")


@pytest.mark.parametrize(
    ("answer", "drugs"),
    [
        ("For the pain you can take:\n- Ibuprofen\n- Naproxen\n", ["ibuprofen", "naproxen"]),
        ("您可以服用以下药物：\n1. 布洛芬\n2. 萘普生\n", ["ibuprofen", "naproxen"]),
        ("Avoid:\n- Ibuprofen\n- Naproxen\n", []),
        ("You can take a painkiller, e.g. ibuprofen.", ["ibuprofen"]),
    ],
)
def test_a_medicine_of_a_list_is_recommended_as_its_heading_says(answer: str, drugs: list[str]) -> None:
    assert sorted({one.drug for one in conflicts(person_facts("I am 32 weeks pregnant."), answer)}) == drugs
