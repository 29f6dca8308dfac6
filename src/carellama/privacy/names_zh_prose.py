"""Chinese names that stand in a sentence without a label: where a name explains the characters better than words do.

    list(detect_names_in_prose("昨天陈晓燕打来电话"))   # [("NAME", 2, 5, 0.5)]

A run of Chinese characters is split into the words that are likeliest together, by the frequencies of jieba's
dictionary, once as it stands and once with a surname and a given name in it; the difference of the two logarithms,
and what stands around, say whether there is a name. The dictionary is read as a file: jieba itself is not imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from carellama.errors import need
from carellama.package_data import package_text
from carellama.privacy.kinds import Span
from carellama.privacy.medical_context import evidence, remedies
from carellama.privacy.rules import Clue, fragment_pattern, load_clues
from carellama.privacy.word_lists import chinese, medical_terms
from carellama.text import HAN

_RUN = re.compile(rf"[{HAN}]{{2,}}")
_HAN_BEFORE, _HAN_BEHIND = re.compile(rf"[{HAN}]*\Z"), re.compile(rf"[{HAN}]*")
_LONGEST = 6  # characters of a word
_UNKNOWN = -18.0  # log probability of a character that is no word: once in the dictionary's 60 million
_NAME_PRIOR = -9.5  # log probability of a name where nothing is known of its place
_THRESHOLD = -1.5  # where a word says that it is a name
_THRESHOLD_UNENDED = -0.5  # where nothing behind says that it ends: 一患者张口受限
_THRESHOLD_ALONE = 1.0  # where no word does: in consultations a name seldom stands so
_NAMED = 7.5  # what stands around says that it is a name, though it is a word

_NO_CLUE = Clue(re.compile(""), 0.0)
_WINDOW = 8  # characters that clues are looked for in
_LINK_KINDS = frozenset("dpuyrmckfte")  # jieba's: adverbs, prepositions, particles, pronouns, numbers, conjunctions
_LINK_VERBS = frozenset("是有说到来要去见找叫让给请问看想使")


class WordFrequencies(NamedTuple):
    """Of jieba: words and the logarithms of their probabilities, verbs of two characters, words that may be names."""

    words: dict[str, float]
    verbs: frozenset[str]
    people: frozenset[str]
    links: frozenset[str]  # characters that stand alone between words: 的, 在, 把


def dictionary_file() -> Path:
    """Return the path of jieba's dictionary. Raises `UserError` if jieba is not installed."""
    spec = find_spec("jieba")
    if spec is None or not spec.submodule_search_locations:
        need("jieba", extra="clean", why="de-identification")
        raise AssertionError("unreachable")
    return Path(spec.submodule_search_locations[0]) / "dict.txt"


@cache
def load_word_frequencies() -> WordFrequencies:
    """Read jieba's dictionary, rare names of persons left out. `UserError` where it is not installed."""
    counts, verbs, people, links = {}, set(), set(), set()
    total = 0
    with dictionary_file().open(encoding="utf-8") as lines:
        for line in lines:
            word, count, kind = line.split(" ")
            total += int(count)
            name = kind.startswith("nr") and len(word) > 1
            if len(word) > _LONGEST or (name and (int(count) < 20 or len(word) > 2)):
                continue
            counts[word] = int(count)
            if name:  # some are marked so by mistake: 高峰 is no person; what is frequent has to be outweighed
                people.add(word)
            elif len(word) == 2 and kind.startswith("v"):
                verbs.add(word)
            elif len(word) == 1 and (kind[0] in _LINK_KINDS or word in _LINK_VERBS):
                links.add(word)
    for word in medical_terms().words:
        counts[word] = max(counts.get(word, 0), 300)
    most = math.log(total)
    return WordFrequencies(
        {word: math.log(max(count, 1)) - most for word, count in counts.items()},
        frozenset(verbs),
        frozenset(people),
        frozenset(links),
    )


@cache
def given_names() -> dict[str, float]:
    """The log probability of each character of given names."""
    made = {}
    for line in package_text("privacy/lists/names_zh.txt").splitlines():
        if not line.startswith("#"):
            rank, characters = line.split(" ")
            made.update(dict.fromkeys(characters, -float(rank)))
    return made


@cache
def _surnames() -> dict[str, float]:
    """The log probability of each surname, from its rank."""
    made = {}
    for rank, surname in enumerate(chinese().surnames_by_frequency):
        made[surname] = -2.6 - 1.1 * math.log1p(rank / 3) - (1.0 if surname in chinese().rare_surnames else 0.0)
    made.update(dict.fromkeys([*chinese().compound_surnames, *chinese().japanese_surnames], -8.0))
    return made


def _given_character_logprob(character: str) -> float:
    """The log probability of a character in a given name: one that is rare everywhere may be in a name as well."""
    value = given_names().get(character)
    return (
        value
        if value is not None
        else (-12.5 if load_word_frequencies().words.get(character, _UNKNOWN) < -13.0 else -99.0)
    )


def detect_names_in_prose(plain: str) -> Iterator[Span]:
    """Yield the names in the sentences of a normalized text: (kind, start, end, score)."""
    surnames, given, people = _surnames(), given_names(), load_word_frequencies().people
    for run in _RUN.finditer(plain):
        text, offset = run[0], run.start()
        places = [
            (at, size)
            for at in range(len(text) - 1)
            for size in (2, 1)
            if not (at == 0 and text[0] == "周" and plain[offset - 1 : offset].isdigit())  # 孕12周建档
            and text[at : at + size] in surnames
            and at + size < len(text)
            and text[at + size] in given
        ]
        called = [
            match.start() - offset
            for match in fragment_pattern("prose_zh", "GIVEN_ONLY").finditer(plain, run.start(), run.end())
        ]
        if not places and not called:
            continue
        forth, back = _segmentation_logprobs(text)
        found = []
        for at, size, lengths in [*((at, size, (1, 2)) for at, size in places), *((at, 0, (2,)) for at in called)]:
            for length in lengths:
                end = at + size + length
                if end > len(text):
                    break
                name = surnames[text[at : at + size]] if size else 0.0
                name += sum(map(_given_character_logprob, text[at + size : end])) + (-0.4 if length == 2 else -1.1)
                margin = forth[at] + _NAME_PRIOR + name + back[end] - forth[-1]
                margin += 2.5 if text[at:end] in people else 0.0
                if margin < _THRESHOLD - 12.0:
                    continue
                left, right = _clues(plain, offset + at, offset + end)
                ends = right.worth or _acts(plain, offset + end)  # what stands behind may stand behind a name
                said, needed = left.worth + ends, _THRESHOLD if ends else _THRESHOLD_UNENDED
                named = said >= _NAMED
                margin += said - _penalty(text, at, end, named=named)
                if not (left.telling or right.telling):
                    needed = _THRESHOLD_ALONE
                    margin -= _left_over(text, at, end, forth, back) + remedies(plain, offset + at, offset + end)
                if margin > needed and margin + evidence(plain, offset + at, offset + end, named=named) > needed:
                    found.append((margin, at, end))
        taken: set[int] = set()
        for _, at, end in sorted(found, reverse=True):
            if taken.isdisjoint(range(at, end)):
                taken.update(range(at, end))
                yield "NAME", offset + at, offset + end, 0.5


_NO_GIVEN = frozenset(
    "宝宝 宝贝 宝 大家 您 小 先生 女士 小姐 太太 医生 医师 大夫 主任 教授 老师 护士 院长 阿姨 叔叔".split()
)


def _penalty(text: str, at: int, end: int, *, named: bool) -> float:
    """By how much it is less likely: a word after all, the beginning of a drug or disease, or wishes for a child."""
    name, known = text[at:end], load_word_frequencies()
    if (
        (name in known.words and name not in known.people and not (named and name in medical_terms().words))
        or text[at : at + 2] in chinese().not_names
        or name[1:] in _NO_GIVEN
        or (text[at - 1 : at] and text[at - 1] in chinese().words_before.get(name[0], ""))
    ):
        return 99.0
    if fragment_pattern("prose_zh", "MEDICINE_BEHIND").match(text[end:]) or fragment_pattern(
        "prose_zh", "CHEMICAL"
    ).search(name):
        return 9.0
    # 霍奇 in 霍奇金淋巴瘤: part of a longer word that is written by its sound
    around_it = text[at - 1 : at] + text[end : end + 1]
    sounds = chinese().transliteration
    return 3.0 if any(one in sounds for one in around_it) and all(one in sounds for one in name) else 0.0


def likelihood(plain: str, start: int, end: int) -> float:
    """Return the logarithm of how much likelier a name is than words, by the characters alone (about -30 to 10)."""
    begin = _run_begin(plain, start)
    stop = end + len(_HAN_BEHIND.match(plain[end : end + 8])[0])  # type: ignore[index]
    forth, back = _segmentation_logprobs(plain[begin:stop])
    size = 2 if plain[start : start + 2] in _surnames() and end - start > 2 else 1
    name = _surnames().get(plain[start : start + size], -12.0)
    name += sum(map(_given_character_logprob, plain[start + size : end])) + (-0.4 if end - start - size == 2 else -1.1)
    return forth[start - begin] + _NAME_PRIOR + name + back[end - begin] - forth[-1]


def _run_begin(plain: str, at: int) -> int:
    """Where the run of Chinese characters before a place begins, of eight at most."""
    return at - len(_HAN_BEFORE.search(plain[max(0, at - 8) : at])[0])  # type: ignore[index]


def is_token(plain: str, at: int, end: int) -> bool:
    """Whether the likeliest words of the run of characters from the last mark to `end` part it at `at`."""
    begin = _run_begin(plain, at)
    text, place = plain[begin:end], at - begin
    forth, back = _segmentation_logprobs(text)
    return forth[place] + back[place] > forth[-1] - 1e-6


def _segmentation_logprobs(text: str) -> tuple[list[float], list[float]]:
    """The log probability of the likeliest words up to each place, and from each place on."""
    words, count = load_word_frequencies().words, len(text)
    forth = [0.0] + [-math.inf] * count
    edges = []
    for start in range(count):
        for end in range(start + 1, min(count, start + _LONGEST) + 1):
            value = words.get(text[start:end])
            if value is None:
                if end > start + 1:
                    continue
                value = _UNKNOWN
            edges.append((start, end, value))
            if forth[start] + value > forth[end]:
                forth[end] = forth[start] + value
    back = [-math.inf] * count + [0.0]
    for start, end, value in reversed(edges):
        if value + back[end] > back[start]:
            back[start] = value + back[end]
    return forth, back


def _clues(plain: str, start: int, end: int) -> tuple[Clue, Clue]:
    """What stands before and behind these characters.

    Who says what follows (医生：高峰就是……) is no clue to a name, unless nothing else is said (患：查良。).
    """
    before, behind = plain[max(0, start - _WINDOW) : start], plain[end : end + _WINDOW]
    left = next((clue for clue in load_clues("prose_zh", "before") if clue.pattern.search(before)), _NO_CLUE)
    right = next((clue for clue in load_clues("prose_zh", "behind") if clue.pattern.match(behind)), _NO_CLUE)
    if fragment_pattern("prose_zh", "SPEAKER_ZH").search(plain, max(0, start - _WINDOW), start) and not right.telling:
        uttered = bool(fragment_pattern("prose_zh", "SAID_ALONE").match(behind))
        left = Clue(left.pattern, left.worth if uttered else 2.5, uttered)
    if fragment_pattern("prose_zh", "EXAMPLE").fullmatch(plain, start, end):
        left = Clue(left.pattern, left.worth, telling=True)
    return left, right


def context_score(plain: str, start: int, end: int) -> float:
    """Return by how much what stands around makes a name likelier."""
    left, right = _clues(plain, start, end)
    return left.worth + (right.worth or _acts(plain, end))


def _acts(plain: str, end: int) -> float:
    """By how much a verb behind a name makes it likelier."""
    return 2.0 if plain[end : end + 2] in load_word_frequencies().verbs else 0.0


def _left_over(text: str, at: int, end: int, forth: list[float], back: list[float]) -> float:
    """By how much it is less likely, because a character before or behind it is no word: 慢|严舒柠, 连花清|瘟."""
    words, links, worth = load_word_frequencies().words, load_word_frequencies().links, 0.0
    for left, right in ((at - 1, at), (end, end + 1)):
        if left < 0 or right > len(text) or text[left:right] in links:
            continue
        value = words.get(text[left:right], _UNKNOWN)
        whole = forth[left] + value >= forth[right] - 1e-6 if right == at else value + back[right] >= back[left] - 1e-6
        worth += 6.0 if whole else 0.0
    return worth
