"""A lexicon of concepts read from YAML, and where a text mentions them.

    lexicon = Lexicon(concepts)                       # {"chest_pain": ("{chest} & {pain}", "angina"), ...}
    lexicon.find(normalize("胸口一直很疼"))            # {"chest_pain": [Mention(start=0, end=6, ...)], ...}

A concept is a list of terms. A term is a word or phrase as people write it; what is special in it:

    vomit*            the word may go on: vomits, vomiting (Latin letters; other words end where the term ends)
    {chest} .. {pain} one after the other within the same sentence, at most `GAP` words between; {x} is a concept
    {chest} & {pain}  the same in either order

All words of all concepts are found in one pass by an Aho-Corasick automaton (Aho and Corasick 1975), a part of a term
is joined to the nearest next part only, and of a word that comes more than 80 times the first and the last 40 are
looked at. Hence the time grows linearly with the text whatever the terms are.
The module knows nothing of medicine and does not decide whether a mention is denied: see `safety.context`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from importlib import resources
from operator import itemgetter
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick

from carellama.errors import UserError

REPEATS = 40  # of one word at the beginning of a text, and at its end: what stands between is left out
GAP = 8  # words between two parts of a term; a Chinese character counts as a word
LETTERS_PER_WORD = 6  # of Latin script, with the space
SENTENCE_END = re.compile(r"[。！？!?；;\n]|\.(?=\s|$)")
_NEGATOR = re.compile(r"[没无不未]|not? |isn't |isnt ")
_PART = re.compile(r"\s*(\.\.|&)\s*")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_LATIN = _LETTERS | frozenset("0123456789")
_MARKS = dict(zip("，：（）［］‘’´`“”–—−～〜　\u00a0\u2009\u202f\t\r", ",:()[]''''\"\"---~~      ", strict=True))


@cache
def _table() -> dict[int, str]:
    """Characters and what they are matched as: full-width forms, letters with accents, dashes, quotes, traditional."""
    table = {0xFF01 + code: chr(0x21 + code) for code in range(94)}
    for code in range(0xC0, 0x250):  # é is e
        base = unicodedata.normalize("NFD", chr(code))[0]
        if base.isascii():
            table[code] = base.lower()
    lines = resources.files("carellama").joinpath("traditional.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line[0] != "#":
            table |= {ord(line[at]): line[at + 1] for at in range(0, len(line), 2)}
    return table | {ord(mark): plain for mark, plain in _MARKS.items()}


def normalize(text: str) -> str:
    """Return the text in the form that is matched, of the same length: lower case, simplified, plain marks."""
    if text.isascii():
        return text.lower().replace("\t", " ").replace("\r", " ").replace("`", "'")
    plain = text.encode("utf-8", "replace").decode().translate(_table())  # a lone surrogate is ?
    lower = plain.lower()
    return lower if len(lower) == len(text) else "".join(c if len(c.lower()) != 1 else c.lower() for c in plain)


def words_between(text: str, begin: int, end: int) -> float:
    """Return roughly how many words stand between two places: Chinese characters, and Latin letters by six."""
    part = text[begin:end]
    if part.isascii():
        return len(part) / LETTERS_PER_WORD
    wide = (len(part.encode("utf-8", "replace")) - len(part)) / 2
    return wide + max(0.0, len(part) - wide) / LETTERS_PER_WORD


class Mention(NamedTuple):
    """Where a text mentions a concept: half-open offsets, those of the words it is made of, and a number if any."""

    start: int
    end: int
    spans: tuple[tuple[int, int], ...]
    value: float | None = None


Mentions = dict[str, list[Mention]]
PLACE = itemgetter(0, 1)  # by which mentions are sorted


@dataclass(frozen=True, slots=True)
class _Term:
    concept: str
    parts: tuple[str, ...]  # a literal, or {concept}
    ordered: bool


def parse_term(term: str, concept: str = "") -> _Term:
    """Read a term. Raises `UserError` for an empty part or a mix of `..` and `&`."""
    pieces = _PART.split(normalize(term.strip()))
    parts, marks = tuple(pieces[::2]), set(pieces[1::2])
    if len(marks) > 1 or not all(part.strip("* ") for part in parts):
        raise UserError(f"the term {term!r} is not parts joined by .. or by &")
    return _Term(concept, parts, ordered=marks != {"&"})


class Lexicon:
    """Concepts and their terms. Raises `UserError` for a term that refers to itself.

    Only terms whose first part a text has are looked at, so that the time does not depend on the size of the lexicon.
    """

    def __init__(self, concepts: Mapping[str, Sequence[str]]) -> None:
        terms = {name: [parse_term(term, name) for term in given] for name, given in concepts.items()}
        self._rank = {name: rank for rank, name in enumerate(_sorted(terms))}
        self._names = list(self._rank)
        self._first: dict[str, list[tuple[int, _Term]]] = {}  # first part -> terms, with the rank of their concepts
        for term in (one for given in terms.values() for one in given):
            self._first.setdefault(term.parts[0], []).append((self._rank[term.concept], term))
        self._references = {part for given in terms.values() for term in given for part in term.parts if part[0] == "{"}
        literals = {part: None for given in terms.values() for term in given for part in term.parts if part[0] != "{"}
        signs = {part for name, given in terms.items() if name[0] != "_" for term in given for part in term.parts}
        made = [_Literal.of(part, may_be_cut=part in signs) for part in literals]
        bare = [one for one in made if "'" in one.text]  # cant for can't
        self._literals = [*made, *bare]
        words = [one.text.rstrip("*") for one in made]
        self._automaton = AhoCorasick([*words, *(one.text.rstrip("*").replace("'", "") for one in bare)])

    def __contains__(self, concept: str) -> bool:
        return concept in self._rank

    def references(self) -> set[str]:
        """Return the concepts that terms refer to and that the lexicon does not have: numbers, or a mistake."""
        return {part[1:-1] for part in self._references} - self._rank.keys()

    def find(self, text: str, given: Mapping[str, Sequence[Mention]] | None = None) -> Mentions:
        """Return the mentions of each concept in a text of `normalize`, in order.

        `given` are mentions found in other ways, such as numbers; terms may refer to them.
        """
        search = _Search(
            text, self._find_literals(text), {f"{{{name}}}": [*found] for name, found in (given or {}).items()}
        )
        queue: list[int] = []  # ranks of concepts to settle, the lowest first
        waiting: dict[int, list[_Term]] = {}  # by rank, the terms whose first part is there
        reached = [*search.parts]
        while reached or queue:
            for part in reached:
                for rank, term in self._first.get(part, ()):
                    if (terms := waiting.get(rank)) is None:
                        heappush(queue, rank)
                        waiting[rank] = [term]
                    else:
                        terms.append(term)
            reached = []
            if queue:
                rank = heappop(queue)
                concept = f"{{{self._names[rank]}}}"
                if mentions := search.settle(concept, waiting[rank]):
                    search.parts[concept] = mentions
                    reached = [concept]
        return {part[1:-1]: mentions for part, mentions in search.parts.items() if part[0] == "{"}

    def _find_literals(self, text: str) -> dict[str, list[Mention]]:
        found: dict[str, list[Mention]] = {}
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        literals, make, length = self._literals, Mention._make, len(text)
        for at, (index, start, end) in enumerate(matches):
            literal = literals[index]
            if literal.latin_start and start and text[start - 1] in _LATIN:
                continue
            if literal.latin_end and end < length and text[end] in _LATIN:
                continue
            if literal.negates and _is_cut(matches, at):
                continue
            mention = make((start, end, ((start, end),), None))
            if (mentions := found.get(literal.text)) is None:
                found[literal.text] = [mention]
            elif len(mentions) < 2 * REPEATS:
                mentions.append(mention)
            else:  # the first and the last of them are kept
                del mentions[REPEATS]
                mentions.append(mention)
        return found


@dataclass(frozen=True, slots=True)
class _Literal:
    """A word or phrase, and which of its ends are those of a Latin word."""

    text: str
    latin_start: bool
    latin_end: bool
    negates: bool

    @classmethod
    def of(cls, text: str, *, may_be_cut: bool) -> _Literal:
        word = text.rstrip("*")
        ends = text == word and word[-1] in _LATIN
        return cls(text, word[0] in _LETTERS, ends, may_be_cut and bool(_NEGATOR.match(text)))


def _sorted(terms: Mapping[str, Sequence[_Term]]) -> list[str]:
    """The concepts, each after those that its terms refer to."""
    before = {
        name: {part[1:-1] for term in given for part in term.parts if part[0] == "{" and part[1:-1] in terms}
        for name, given in terms.items()
    }
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise UserError(f"the concept {error.args[1][0]!r} refers to itself: {' > '.join(error.args[1])}") from None


def _is_cut(matches: Sequence[tuple[int, int, int]], at: int) -> bool:
    """Whether a longer word begins within a match and ends after it: 没有呼吸 in 没有呼吸困难. Matches end in order."""
    _, start, end = matches[at]
    for _, other_start, other_end in matches[at + 1 : at + 40]:
        if other_end > end + 8:
            return False
        if start < other_start < end < other_end and other_end - other_start > 2:
            return True
    return False


class _Search:
    """The parts of terms that were found in one text."""

    def __init__(self, text: str, literals: dict[str, list[Mention]], given: dict[str, list[Mention]]) -> None:
        self._text = text
        self.parts: dict[str, list[Mention]] = {**literals, **given}  # literal or {concept} -> mentions in order
        self._starts: dict[str, list[int]] = {}
        self._ends: list[int] | None = None  # of sentences

    def settle(self, concept: str, terms: Sequence[_Term]) -> list[Mention]:
        """Return all mentions of a concept by these terms, in order."""
        found = list(self.parts.get(concept, ()))
        for term in terms:
            if all(part in self.parts for part in term.parts):
                found += self.parts[term.parts[0]] if len(term.parts) == 1 else self._join(term)
        return sorted(found, key=PLACE) if len(found) > 1 else found

    def _join(self, term: _Term) -> list[Mention]:
        """Each first part with the nearest of every next part."""
        made = self.parts[term.parts[0]]
        for part in term.parts[1:]:
            following = self.parts[part]
            if part not in self._starts:
                self._starts[part] = [one.start for one in following]
            starts, joined = self._starts[part], []
            for first in made:
                at = bisect_left(starts, first.end)
                near = following[at] if at < len(following) else None
                if near is None or not self._close(first.end, near.start):
                    near = None if term.ordered else self._before(following, starts, first)
                if near is not None:
                    value = first.value if near.value is None else near.value
                    spans = (*first.spans, *near.spans)
                    joined.append(Mention(min(first.start, near.start), max(first.end, near.end), spans, value))
            made = joined
        return made

    def _before(self, others: list[Mention], starts: list[int], first: Mention) -> Mention | None:
        """The nearest of the others that ends before the mention begins, if it is close."""
        at = bisect_right(starts, first.start)
        for other in reversed(others[max(0, at - 4) : at]):  # the few that begin last: one of them ends last
            if other.end <= first.start and self._close(other.end, first.start):
                return other
        return None

    def _close(self, begin: int, end: int) -> bool:
        """Whether two places are in one sentence with at most `GAP` words between them."""
        if end - begin > GAP * LETTERS_PER_WORD:
            return False
        if self._ends is None:
            self._ends = [match.start() for match in SENTENCE_END.finditer(self._text)]
        if bisect_left(self._ends, begin) != bisect_left(self._ends, end):
            return False
        return words_between(self._text, begin, end) <= GAP
