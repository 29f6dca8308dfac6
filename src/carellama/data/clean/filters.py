r"""What makes a record useless by itself: language, length, repetition, boilerplate.

    refusal(record, Bounds(languages={"zh"}))   # None, or (reason, detail)

The last answer is judged (both of a pair, the text of a text); of an exam question only its language and length.
Repetition follows Rae et al. 2021 (arXiv:2112.11446, table A1): the share of lines that are repeated (0.30) and of
characters in them (0.20), of characters in the most frequent run of 2, 3, 4 words (0.20, 0.18, 0.16), and in repeated
runs of 5 to 10 words (0.15 to 0.10). A Chinese character stands for half a word: runs are twice as long there. Texts of
fewer than 50 words (100 Chinese characters) are left alone. What is boilerplate is listed in `boilerplate.yaml`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from carellama.records import Chat, Pair, Question, Record, Text
from carellama.text import HAN_CHARACTER, language, ngrams, words

FEWEST_WORDS = 50
LINES, LINE_CHARACTERS = 0.30, 0.20
MOST_FREQUENT = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
URLS_ONLY = re.compile(r"(?:\s*(?:https?://|www\.)\S+\s*)+")
Refusal = tuple[str, str]  # reason, detail; the detail holds no text of the record


@dataclass(frozen=True)
class Bounds:
    """What is let through; lengths in characters, 0: no bound."""

    languages: frozenset[str] = frozenset()
    shortest_question: int = 0
    longest_question: int = 0
    shortest_answer: int = 0
    longest_answer: int = 0
    repetition: bool = True
    boilerplate: bool = True


def refusal(record: Record, bounds: Bounds) -> Refusal | None:
    """Why a record is of no use, None where it is."""
    question, answers = parts(record)
    spoken = language("\n".join([question, *answers]))
    if bounds.languages and spoken not in bounds.languages:
        return "language", spoken
    if question and (found := _length(question, bounds.shortest_question, bounds.longest_question)):
        return f"question too {found[0]}", found[1]
    for answer in answers:
        if found := _length(answer, bounds.shortest_answer, bounds.longest_answer):
            return f"answer too {found[0]}", found[1]
        if bounds.boilerplate and not isinstance(record, Text) and (kind := boilerplate(answer)):
            return "boilerplate", kind
        if bounds.repetition and (kind := repetition(answer)):
            return "repetition", kind
    return None


def parts(record: Record) -> tuple[str, list[str]]:
    """The last question of a record, and the answers to it."""
    if isinstance(record, Text):
        return "", [record.text]
    if isinstance(record, Question):
        return record.stem, []
    if isinstance(record, Pair):
        return record.prompt[-1].content, [record.chosen, record.rejected]
    assert isinstance(record, Chat)
    return record.prompt[-1].content, [record.response]


def _length(text: str, shortest: int, longest: int) -> Refusal | None:
    length = len(text.strip())
    if length < shortest:
        return "short", f"{length} characters"
    return ("long", f"{length} characters") if longest and length > longest else None


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    file = resources.files("carellama.data.clean").joinpath("boilerplate.yaml")
    lists = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = {}
    for own in lists:
        whole = "|".join(f"(?:{pattern})" for pattern in lists[own]["whole"])
        found[f"nothing but a phrase ({own})"] = re.compile(rf"\W*(?:{whole})\W*", re.IGNORECASE)
        begin = "|".join(f"(?:{pattern})" for pattern in lists[own]["beginning"])
        found[f"begins as a machine's excuse ({own})"] = re.compile(rf"\W*(?:{begin}).*", re.IGNORECASE | re.DOTALL)
    return found


def boilerplate(answer: str) -> str | None:
    """What kind of boilerplate an answer is, if any."""
    for kind, pattern in _patterns().items():
        if pattern.fullmatch(answer):
            return kind
    return "addresses of pages only" if URLS_ONLY.fullmatch(answer) else None


def repetition(text: str) -> str | None:
    """How a text repeats itself more than running text does, if it does."""
    items = words(text)
    stretch = 2 if 2 * sum(bool(HAN_CHARACTER.match(word)) for word in items) > len(items) else 1
    if len(items) < FEWEST_WORDS * stretch:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    again = [line for line, count in Counter(lines).items() for _ in range(count - 1)]
    if len(again) > LINES * len(lines) or sum(map(len, again)) > LINE_CHARACTERS * sum(map(len, lines)):
        return "lines"
    characters = sum(map(len, items))
    for length, most in MOST_FREQUENT.items():
        run, count = Counter(ngrams(items, length * stretch)).most_common(1)[0]
        if count > 1 and count * sum(map(len, run)) > most * characters:
            return f"one run of {length * stretch} words"
    for length, most in REPEATED.items():
        share = _repeated(items, length * stretch) / characters
        if share > most:
            return f"runs of {length * stretch} words"
        if share <= min(REPEATED.values()):  # longer runs can only be fewer
            return None
    return None


def _repeated(items: Sequence[str], length: int) -> int:
    """Characters of the runs that were there before, each once."""
    seen: set[tuple[str, ...]] = set()
    covered, end = 0, 0
    for at, run in enumerate(ngrams(items, length)):
        if run in seen:
            covered += sum(map(len, items[max(at, end) : at + length]))
            end = at + length
        seen.add(run)
    return covered
