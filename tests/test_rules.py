"""The lexicon: terms of words, of parts and of other concepts, found in one pass and at true offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.errors import UserError
from carellama.mention_table import GAP, REPEATS
from carellama.rules import SENTENCE_END, Lexicon, Mention, normalize, parse_term, words_between

BODY = {
    "chest": ["胸", "胸口", "chest"],
    "pain": ["痛", "疼", "pain*", "ache"],
    "chest_pain": ["{chest} & {pain}", "angina"],
    "ordered": ["left .. leg"],
}
LEXICON = Lexicon(BODY)


def found(text: str, concept: str) -> list[str]:
    plain = normalize(text)
    return [text[one.start : one.end] for one in LEXICON.find(plain).get(concept, [])]


@pytest.mark.parametrize(
    ("text", "concept", "parts"),
    [
        ("胸口一直疼", "chest_pain", ["胸口一直疼"]),
        ("Pain in my CHEST", "chest_pain", ["Pain in my CHEST"]),
        ("chest painful", "pain", ["pain"]),
        ("painting the chests", "pain", ["pain"]),  # pain* may go on
        ("headache", "pain", []),  # a Latin word begins where it begins
        ("aches", "pain", []),  # and without * it ends where it ends
        ("chest is fine. The pain is in my toe", "chest_pain", []),  # two sentences
        ("my left lower leg", "ordered", ["left lower leg"]),
        ("leg on the left", "ordered", []),
        ("ａｎｇｉｎａ", "chest_pain", ["ａｎｇｉｎａ"]),
        ("胸悶頭疼", "pain", ["疼"]),
        ("𝐚𝐧𝐠𝐢𝐧𝐚", "chest_pain", ["𝐚𝐧𝐠𝐢𝐧𝐚"]),  # letters of other typefaces
        ("ⓐⓝⓖⓘⓝⓐ", "chest_pain", ["ⓐⓝⓖⓘⓝⓐ"]),
    ],
)
def test_terms_are_found(text: str, concept: str, parts: list[str]) -> None:
    got = found(text, concept)
    assert set(got) == set(parts)


def test_traditional_characters_full_width_and_accents_are_matched_and_keep_their_places() -> None:
    text = "我頭腫，ＡＢＣ café"
    assert normalize(text) == "我头肿,abc cafe"
    assert len(normalize(text)) == len(text)


@pytest.mark.parametrize(
    ("traditional", "simplified"),
    [("爸爸中風了", "爸爸中风了"), ("手被燙傷起水泡", "手被烫伤起水泡"), ("他觸電了", "他触电了"),
     ("想自殺，遺書寫好了", "想自杀,遗书写好了"),
     ("氣喘，嘴唇發紺", "气喘,嘴唇发绀")],
)  # fmt: skip
def test_traditional_script_is_simplified(traditional: str, simplified: str) -> None:
    assert normalize(traditional) == simplified


@given(st.text())
def test_a_text_is_matched_alike_whatever_stands_behind_it(text: str) -> None:
    """`I can`t breathe` alone was not: only texts with other than ASCII characters had their marks replaced."""
    assert normalize(text + "中")[:-1] == normalize(text)


@given(st.text())
def test_normalize_keeps_the_length(text: str) -> None:
    assert len(normalize(text)) == len(text)


@given(st.text(alphabet="胸痛疼口 chestpain.,。\n", max_size=200))
def test_every_mention_stands_where_its_words_are(text: str) -> None:
    plain = normalize(text)
    mentions = [one for found in LEXICON.find(plain).values() for one in found]
    assert all(0 <= one.start < one.end <= len(text) for one in mentions)
    assert all(one.start <= start < end <= one.end for one in mentions for start, end in one.spans)


def test_parts_that_are_far_apart_are_not_joined() -> None:
    assert not found("胸" + "很" * 20 + "疼", "chest_pain")
    assert words_between("胸abcdef疼", 1, 7) == 1


@pytest.mark.parametrize(
    ("concepts", "says"),
    [
        ({"a": ["{b}"], "b": ["{a}"]}, "refers to itself"),
        ({"a": ["x .. y & z"]}, "joined by"),
        ({"a": ["x .. "]}, "joined by"),
    ],
)
def test_faulty_terms_are_refused(concepts: dict[str, list[str]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Lexicon(concepts)


def test_a_term_of_stars_alone_is_refused() -> None:
    with pytest.raises(UserError):
        parse_term("*")


def test_a_reference_to_nothing_is_named() -> None:
    assert Lexicon({"a": ["{b} & x"]}).references() == {"b"}


def test_of_a_word_that_comes_again_and_again_the_first_and_the_last_are_kept() -> None:
    """All pairs of 2,000 parts would be a million mentions, and the time quadratic."""
    mentions = LEXICON.find("胸痛" * 2_000)
    assert len(mentions["chest_pain"]) <= len(mentions["chest"]) == 2 * REPEATS
    assert mentions["chest"][0].start == 0
    assert mentions["chest"][-1].start == 3_998
    assert mentions["chest"] == sorted(mentions["chest"])


PAIRS = {"one": ["甲", "丙"], "two": ["乙", "a"], "either": ["{one} & {two}"], "after": ["{one} .. {two}"],
         "three": ["{one} & {two} & b"], "nested": ["{after} & c"], "b": ["b"], "c": ["c"]}  # fmt: skip
PAIRS_LEXICON = Lexicon(PAIRS)


def closest(first: Mention, others: list[Mention], text: str, *, ordered: bool) -> Mention | None:
    """The nearest part behind the first, or the one of the four that begin last before it, by a plain search."""
    behind = [one for one in others if one.start >= first.end][:1]
    before = [] if ordered else [one for one in others if one.start <= first.start][-4:][::-1]
    before = [one for one in before if one.end <= first.start]
    for other, begin, end in [(one, first.end, one.start) for one in behind] + [
        (one, one.end, first.start) for one in before
    ]:
        parted = any(begin <= mark.start() < end for mark in SENTENCE_END.finditer(text))
        if words_between(text, begin, end) <= GAP and not parted:
            return other
    return None


def joined(text: str, firsts: list[Mention], others: list[Mention], *, ordered: bool) -> list[Mention]:
    near = [(one, closest(one, others, text, ordered=ordered)) for one in firsts]
    pairs = [(one, other) for one, other in near if other is not None]
    return [Mention(min(a.start, b.start), max(a.end, b.end), (*a.spans, *b.spans)) for a, b in pairs]


@given(st.text(alphabet="甲乙丙abc 很。.,\n😀é", max_size=60))
def test_terms_of_several_parts_are_what_a_plain_search_finds(text: str) -> None:
    plain = normalize(text)
    mentions = PAIRS_LEXICON.find(plain)
    got = {name: mentions.get(name, []) for name in PAIRS}
    either = joined(plain, got["one"], got["two"], ordered=False)
    after = joined(plain, got["one"], got["two"], ordered=True)
    assert sorted(got["either"]) == sorted(either)
    assert sorted(got["after"]) == sorted(after)
    assert sorted(got["three"]) == sorted(joined(plain, either, got["b"], ordered=False))
    assert sorted(got["nested"]) == sorted(joined(plain, got["after"], got["c"], ordered=False))


def test_a_number_of_a_term_keeps_its_value() -> None:
    lexicon = Lexicon({"hot": ["{temperature} & oven"]})
    found = lexicon.find("oven at 39 and 41", {"temperature": [Mention(8, 10, ((8, 10),), 39.0)], "age": []})
    assert found["hot"] == [Mention(0, 10, ((8, 10), (0, 4)), 39.0)]
    assert [*found] == ["hot", "temperature"]
    assert "age" not in found and found.get("age") is None


@pytest.mark.parametrize("term", ["enough to {pain}", "{pain} x .. chest", "{pain", "pain}", "{ pain }"])
def test_words_beside_braces_are_refused(term: str) -> None:
    with pytest.raises(UserError, match="words beside braces"):
        Lexicon({"pain": ["pain"], "other": [term]})


def test_numbers_keep_their_marks() -> None:
    assert normalize("10⁹/L Ⅱ ㎎ ℃ ½") == "10⁹/l ⅱ ㎎ ℃ ½"
