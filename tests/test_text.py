"""Text in two languages: what compares equal, where sentences end, what is which language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.text import HAN_CHARACTER, folded, language, ngrams, sentences, words


@given(st.text() | st.text(alphabet="0123,.~-–/*×:^⁹½ 至a片%", max_size=20))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Ｗhat  IS asthma？", "what is asthma"),
        ("发烧３天，怎么办？", "发烧3天怎么办"),
        ("高血压\n患者", "高血压患者"),
        ("服用 aspirin 吗", "服用aspirin吗"),
    ],
)
def test_width_case_space_and_punctuation_make_no_difference(first: str, second: str) -> None:
    assert folded(first) == folded(second)


def test_different_numbers_do_not_compare_equal() -> None:
    """1.5, 1~5 and 1/5 were one text without their signs, so that one of two doses was dropped as a duplicate."""
    doses = ["1.5片", "1~5片", "1/5片", "15片", "1:5片", "1*5片", "10⁹/L", "109/L", "1½", "11/2"]
    assert len({folded(dose) for dose in doses}) == len(doses)
    for first, second in [("1,000 mg", "1000mg"), ("1–5片", "1 ~ 5片"), ("10⁹", "10^9"), ("5×10mg", "5*10mg")]:
        assert folded(first).replace(" ", "") == folded(second).replace(" ", "")


def test_different_words_stay_different() -> None:
    assert folded("a cough") != folded("acough")
    assert folded("120/80") != folded("12080")


@pytest.mark.parametrize(
    ("first", "second"), [("血压>140", "血压<140"), ("HBsAg（+）", "HBsAg（-）"), ("≥ 3 天", "≤ 3 天"), ("5%", "5")]
)
def test_opposites_do_not_compare_equal(first: str, second: str) -> None:
    assert folded(first) != folded(second)
    assert folded(first) == folded(f" {first}。")


@given(st.text(alphabet='ab.。！ \n"”Dr1e,', max_size=60))
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert all(sentences(text))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Smith gave 0.5 mg. It helped.", 2),
        ("See Fig. 2, e.g. the left part. Then rest!", 2),
        ("他说：“多喝水。”然后走了。", 2),
        ("Take 500 mg p.o. b.i.d. with food. It may cause nausea, rash, etc. See a doctor then.", 3),
        ("Vitamin D. It helps bones. So does walking.", 3),
        ("Was it No. 3? No. He went home.", 3),
        ("1. rest\n2. drink water", 2),
        ("头痛吗？多久了？……三天。", 3),
        ("one line\nanother line", 2),
        ("no end", 1),
        ("", 0),
    ],
)
def test_where_sentences_end(text: str, count: int) -> None:
    assert len(sentences(text)) == count, sentences(text)


def test_words_of_both_languages() -> None:
    assert words("Take ASPIRIN 0.5 mg，一日三次") == ["take", "aspirin", "0.5", "mg", "一", "日", "三", "次"]
    assert words("beta-blockers, patient's") == ["beta-blockers", "patient's"]


@given(st.lists(st.text(max_size=3), max_size=12), st.integers(1, 5))
def test_ngrams_are_all_runs(items: list[str], n: int) -> None:
    assert list(ngrams(items, n)) == [tuple(items[at : at + n]) for at in range(len(items) - n + 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("高血压患者每天测血压。", "zh"),
        ("Measure your blood pressure daily.", "en"),
        ("血红蛋白 HbA1c 偏高怎么办，需要用药吗？", "zh"),
        ("The word 高血压 means high blood pressure in Chinese medicine texts.", "en"),
        ("请解释一下心肌梗死 myocardial infarction 和心绞痛", "mixed"),
        ("Ежедневно измеряйте давление", "other"),
        ("120/80", "other"),
        ("", "other"),
    ],
)
def test_languages(text: str, expected: str) -> None:
    assert language(text) == expected


def test_hangul_and_lone_surrogates_are_no_chinese() -> None:
    assert [one for one in "가힣ꀀ\ue000\ud800" if HAN_CHARACTER.search(one)] == []
    assert [one for one in "㐀一鿿豈\uf900\ufa6d\U00020000" if not HAN_CHARACTER.search(one)] == []
    assert language("가슴이 아파요") == "other"
