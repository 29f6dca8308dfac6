"""Word lists: surnames, characters of names, and words that are no names (medicines, herbs, eponyms, places).

    medical_terms().spans("服用他莫西芬")   # [(2, 6)]

The words are data in `lists/`, one group a paragraph, each file with its source. This module only reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from carellama.package_data import package_text


def _read(name: str) -> dict[str, list[str]]:
    """The words of each `[group]` of a list, in order; a line with `|` holds phrases."""
    made: dict[str, list[str]] = {}
    for line in package_text(f"privacy/lists/{name}").splitlines():
        if line.startswith("["):
            group = made.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            group.extend(part.strip() for part in line.split("|" if "|" in line else None) if part.strip())
    return made


def groups(name: str) -> dict[str, frozenset[str]]:
    """Read a list of `lists/`: the words of each `[group]`."""
    return {group: frozenset(words) for group, words in _read(name).items()}


class EnglishWords(NamedTuple):
    """English words in lower case."""

    ordinary: frozenset[str]  # everyday words that titles and headings write with a capital
    places: frozenset[str]  # towns, countries, peoples, eponyms: a name only behind a title or another name
    phrases: frozenset[str]  # of two words or more, that are names of persons as well
    drugs: frozenset[str]  # brands of medicines
    not_names: frozenset[str]  # titles, roles, weekdays and the like: never part of a name
    things: frozenset[str]  # given names that are mostly plants, food, symptoms
    given_words: frozenset[str]  # given names that are words: in lower case or at the beginning of a sentence no name
    surname_words: frozenset[str]  # surnames that are words, rarely met alone
    first_names: frozenset[str]  # frequent ones, also those that are words
    last_names: frozenset[str]
    world_names: frozenset[str]  # given names of many countries


@cache
def english() -> EnglishWords:
    """Read the English words."""
    made = groups("words_en.txt")
    return EnglishWords(
        *(made["ordinary"], made["places"] | made["eponyms"], made["phrases"], made["drugs"], made["not_names"]),
        *(made["things"], made["given_words"], made["surname_words"]),
        *(made["first_names"], made["last_names"], made["world_names"]),
    )


class ChineseNames(NamedTuple):
    """Chinese surnames, characters of names, and words that look like a surname and a given name."""

    surnames_by_frequency: str
    surnames: frozenset[str]
    rare_surnames: frozenset[str]  # everyday words first
    compound_surnames: frozenset[str]
    japanese_surnames: frozenset[str]
    given: frozenset[str]  # characters of given names
    transliteration: str  # characters that foreign names are written with
    not_names: frozenset[str]  # the first two characters of words
    words_before: dict[str, str]  # a surname, and the characters with which it ends a word


@cache
def chinese() -> ChineseNames:
    """Read the Chinese surnames and words."""
    surnames, words = _read("surnames_zh.txt"), _read("words_zh.txt")
    by_frequency = "".join(surnames["by_frequency"])
    return ChineseNames(
        *(by_frequency, frozenset(by_frequency), frozenset("".join(surnames["rare"]))),
        *(frozenset(surnames["compound"]), frozenset(surnames["japanese"]), frozenset("".join(words["given"]))),
        *("".join(words["transliteration"]), frozenset(words["not_names"])),
        dict(entry.split(":") for entry in words["before_surname"]),
    )


@cache
def scowl() -> frozenset[str]:
    """Read further everyday words in lower case."""
    return groups("scowl_en.txt")["words"]


class Terms:
    """Chinese medical words, found in a text as the longest at each place."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(words)
        by_start: dict[str, list[str]] = {}
        for word in self.words:
            by_start.setdefault(word[:2], []).append(word)
        self._by_start = {start: tuple(sorted(some, key=len, reverse=True)) for start, some in by_start.items()}

    def spans(self, plain: str) -> list[tuple[int, int]]:
        """Return where words of the list stand, in order; those that stand wholly within another are left out."""
        made: list[tuple[int, int]] = []
        for start in range(len(plain) - 1):
            for word in self._by_start.get(plain[start : start + 2], ()):
                if plain.startswith(word, start):
                    if not made or start + len(word) > made[-1][1]:
                        made.append((start, start + len(word)))
                    break
        made.extend(match.span() for match in _by_stem().finditer(plain))
        return sorted(made)


@cache
def _by_stem() -> re.Pattern[str]:
    """The pattern of medicines by their ends: of those that no list has as well."""
    stems = "|".join(_read("words_zh.txt")["medicine_stems"])
    return re.compile(rf"[\u4e00-\u9fff]{{0,3}}?(?:{stems})(?:钠|钾|钙|酯|胺)?")


@cache
def medical_terms() -> Terms:
    """Read the Chinese medical words."""
    return Terms(
        word for name in ("medical_zh.txt", "thuocl_medical.txt") for words in groups(name).values() for word in words
    )
