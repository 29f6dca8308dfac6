"""Chinese words that are written in pinyin, or half of it: "zenme zisha", "怎么zi鲨", "chu 方".

    sounds = word_sounds(["自杀", "怎么"])
    from_pinyin("zenme zi杀", sounds, {})       # "怎么自杀"

Only given words are read, by their toneless pinyin; a match must have a syllable in letters, so that no ordinary
Chinese word is changed. An English text is left alone: without a Chinese character, two words have to be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from carellama.package_data import package_text
from carellama.text import HAN, HAN_CHARACTER

LONGEST_WORD = 5  # syllables
LONGEST_TOKEN = 30  # letters that are taken apart
_LETTERS = re.compile("[a-z]+")
_TOKEN = re.compile(rf"[{HAN}]|[a-z]+")
_GAP = re.compile(r"[\s'\"“”/|_.·*-]{0,3}")


@dataclass(frozen=True, slots=True)
class _Syllable:
    sound: str
    start: int
    end: int
    written: str  # the character, or "" for letters


@cache
def _characters() -> Mapping[str, str]:
    """The sound of a character."""
    lines = package_text("safety/guard/pinyin.txt").splitlines()
    pairs = (line.split(" ") for line in lines if line[0] != "#")
    return {one: sound for sound, characters in pairs for one in characters}


@cache
def _sounds() -> frozenset[str]:
    return frozenset(_characters().values())


def word_sounds(words: Iterable[str]) -> Mapping[str, str]:
    """Return the words by their sound, of two to `LONGEST_WORD` characters; of two with the same sound the first."""
    known = _characters()
    found: dict[str, str] = {}
    for word in words:
        if 2 <= len(word) <= LONGEST_WORD and all(one in known for one in word):
            found.setdefault("".join(known[one] for one in word), word)
    return found


def from_pinyin(text: str, sounds: Mapping[str, str], single: Mapping[str, str]) -> str:
    """Return a text of `normalize` with the known words in characters. Takes time linear in its length.

    `single`: words of one character, which are read only where others were.
    """
    chinese = bool(HAN_CHARACTER.search(text))
    runs = _runs(text)
    found = [match for run in runs for match in _matches(run, sounds)]
    if len({word for _, _, word in found}) < (1 if chinese else 2):
        return text
    taken = {place for start, end, _ in found for place in range(start, end)}
    found += [
        (one.start, one.end, single[one.sound])
        for run in runs
        for one in run
        if not one.written and one.sound in single and one.start not in taken
    ]
    parts, at = [], 0
    for start, end, word in sorted(found):
        parts += [text[at:start], word]
        at = end
    return "".join([*parts, text[at:]])


def _runs(text: str) -> list[list[_Syllable]]:
    """Syllables that stand together, in characters and letters; only around letters that are syllables."""
    runs: list[list[_Syllable]] = []
    for begin, end in _stretches(text):
        run: list[_Syllable] = []
        last = begin
        for token in _TOKEN.finditer(text, begin, end):
            syllables = _syllables(token)
            if run and not (syllables and _GAP.fullmatch(text, last, token.start())):
                runs.append(run)
                run = []
            run.extend(syllables)
            last = token.end()
        runs.append(run)
    return [one for one in runs if any(not syllable.written for syllable in one)]


def _stretches(text: str) -> list[tuple[int, int]]:
    """The parts of a text in which there may be pinyin: letters that are syllables, and what stands beside them."""
    found: list[tuple[int, int]] = []
    beside = 2 * LONGEST_WORD  # characters, with what stands between
    for letters in _LETTERS.finditer(text):
        if _split_syllables(letters[0]):
            begin, end = max(0, letters.start() - beside), letters.end() + beside
            if found and begin <= found[-1][1]:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
    return found


def _syllables(token: re.Match[str]) -> list[_Syllable]:
    word, start = token[0], token.start()
    if word in _characters():
        return [_Syllable(_characters()[word], start, token.end(), word)]
    found = []
    for sound in _split_syllables(word) if word.isascii() else ():
        found.append(_Syllable(sound, start, start + len(sound), ""))
        start += len(sound)
    return found


@lru_cache(maxsize=4096)
def _split_syllables(word: str) -> tuple[str, ...]:
    """The syllables of letters, the longest first; () if they are none."""
    if len(word) > LONGEST_TOKEN:
        return ()
    rest: list[tuple[str, ...] | None] = [None] * len(word) + [()]
    for at in reversed(range(len(word))):
        for length in range(min(6, len(word) - at), 0, -1):
            after = rest[at + length]
            if after is not None and word[at : at + length] in _sounds():
                rest[at] = (word[at : at + length], *after)
                break
    return rest[0] or ()


def _matches(run: list[_Syllable], sounds: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """The known words of a run, the longest at each place: start, end, word."""
    found = []
    at = 0
    while at < len(run):
        for length in range(min(LONGEST_WORD, len(run) - at), 1, -1):
            part = run[at : at + length]
            word = sounds.get("".join(one.sound for one in part))
            if word is not None and len(word) == length and any(not one.written for one in part):
                found.append((part[0].start, part[-1].end, word))
                at += length
                break
        else:
            at += 1
    return found
