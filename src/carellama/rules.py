"""A lexicon of concepts read from YAML, and where a text mentions them.

    lexicon = Lexicon(concepts)                       # {"chest_pain": ("{chest} & {pain}", "angina"), ...}
    lexicon.find(normalize("胸口一直很疼"))            # {"chest_pain": [Mention(start=0, end=6, ...)], ...}

A concept is a list of terms. A term is a word or phrase as people write it; what is special in it:

    vomit*            the word may go on: vomits, vomiting (Latin letters; other words end where the term ends)
    {chest} .. {pain} one after the other within the same sentence, at most `GAP` words between; {x} is a concept
    {chest} & {pain}  the same in either order

All words of all concepts are found in one pass by an Aho-Corasick automaton (Aho and Corasick 1975). Which concepts a
text may mention is then settled by the sentences that their parts stand in, and where it mentions one is worked out
only when somebody asks for it. A part of a term is joined to the nearest next part only, and of a word that comes more
than 80 times the first and the last 40 are looked at. Hence the time grows linearly with the text, whatever the terms.
The module knows nothing of medicine and does not decide whether a mention is denied: see `safety.context`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from operator import itemgetter
from typing import Any, NamedTuple

from ahocorasick_rs import AhoCorasick

from carellama.errors import UserError

REPEATS = 40  # of one word at the beginning of a text, and at its end: what stands between is left out
GAP = 8  # words between two parts of a term; a Chinese character counts as a word
LETTERS_PER_WORD = 6  # of Latin script, with the space
SENTENCE_BITS = 256  # sentences that a mask tells apart: the next ones share its bits, so that its size stays the same
SENTENCE_END = re.compile(r"[。！？!?；;\n]|\.(?=\s|$)")
_BITS = [1 << bit for bit in range(SENTENCE_BITS)]
_NEGATOR = re.compile(r"[没无不未]|not? |isn't |isnt ")
_PART = re.compile(r"\s*(\.\.|&)\s*")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_LATIN = _LETTERS | frozenset("0123456789")
_MARKS = dict(zip("，：（）［］‘’´`“”–—−～〜　\u00a0\u2009\u202f\t\r", ",:()[]''''\"\"---~~      ", strict=True))


@cache
def _table() -> list[int]:
    """By code point, what a character is matched as: full-width forms, accents, dashes, quotes, traditional script.

    A list, since `str.translate` takes half the time with it that it takes with a dictionary.
    """
    table = [*range(0x20000)]
    for code in range(94):
        table[0xFF01 + code] = 0x21 + code
    for code in range(0xC0, 0x250):  # é is e
        base = unicodedata.normalize("NFD", chr(code))[0]
        if base.isascii():
            table[code] = ord(base.lower())
    lines = resources.files("carellama").joinpath("traditional.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line[0] != "#":
            for at in range(0, len(line), 2):
                table[ord(line[at])] = ord(line[at + 1])
    for mark, plain in _MARKS.items():
        table[ord(mark)] = ord(plain)
    table[0xD800:0xE000] = [ord("?")] * 0x800  # a lone surrogate cannot be encoded
    return table


def normalize(text: str) -> str:
    """Return the text in the form that is matched, of the same length: lower case, simplified, plain marks."""
    if text.isascii():
        return text.lower().replace("\t", " ").replace("\r", " ").replace("`", "'")
    plain = text.translate(_table())
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


Mentions = Mapping[str, Sequence[Mention]]  # by concept, in order
PLACE = itemgetter(0, 1)  # by which mentions are sorted


class Sentences:
    """Where the sentences of a text end."""

    def __init__(self, text: str) -> None:
        self._ends = [match.start() for match in SENTENCE_END.finditer(text)]
        self._length = len(text)

    def of(self, place: int) -> int:
        """Return the number of the sentence that a place is in; the mark at its end belongs to it."""
        return bisect_left(self._ends, place)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the half-open offsets of a sentence."""
        ends = self._ends
        return (ends[number - 1] + 1 if number else 0), (ends[number] + 1 if number < len(ends) else self._length)

    def parted(self, begin: int, end: int) -> bool:
        """Return whether a sentence ends between two places."""
        at = bisect_left(self._ends, begin)
        return at < len(self._ends) and self._ends[at] < end

    def mask(self, spans: Iterable[tuple[int, int]]) -> int:
        """Return a bit for each sentence that the spans are in, modulo `SENTENCE_BITS`."""
        ends = self._ends
        if not ends:
            return 1
        mask = 0
        for start, end in spans:
            first = bisect_left(ends, start)
            mask |= _BITS[first % SENTENCE_BITS]
            if first < len(ends) and ends[first] < end:  # E. coli
                mask |= _BITS[bisect_left(ends, end) % SENTENCE_BITS]
        return mask


@dataclass(frozen=True, slots=True)
class _Term:
    concept: str  # in braces
    parts: tuple[str, ...]  # a literal, or {concept}
    ordered: bool


def parse_term(term: str, concept: str = "") -> _Term:
    """Read a term. Raises `UserError` for an empty part or a mix of `..` and `&`."""
    pieces = _PART.split(normalize(term.strip()))
    parts, marks = tuple(pieces[::2]), set(pieces[1::2])
    if len(marks) > 1 or not all(part.strip("* ") for part in parts):
        raise UserError(f"the term {term!r} is not parts joined by .. or by &")
    return _Term(f"{{{concept}}}", parts, ordered=marks != {"&"})


class Lexicon:
    """Concepts and their terms. Raises `UserError` for a term that refers to itself.

    Only terms whose first part a text has are looked at, so that the time does not depend on the size of the lexicon.
    """

    def __init__(self, concepts: Mapping[str, Sequence[str]]) -> None:
        terms = {name: [parse_term(term, name) for term in given] for name, given in concepts.items()}
        before = _references(terms)
        self._concepts = {name: f"{{{name}}}" for name in _sorted(before)}
        self._depth: dict[str, int] = {}  # of a {concept}: that of the concepts that its terms refer to, and one more
        for name, concept in self._concepts.items():
            self._depth[concept] = 1 + max((self._depth[f"{{{other}}}"] for other in before[name]), default=-1)
        self._alone: dict[str, list[str]] = {}  # part -> {concepts} that it is a term of
        self._first: dict[str, list[_Term]] = {}  # first part -> terms of several parts
        for term in (one for given in terms.values() for one in given):
            if len(term.parts) == 1:
                self._alone.setdefault(term.parts[0], []).append(term.concept)
            else:
                self._first.setdefault(term.parts[0], []).append(term)
        self._parts = {part for given in terms.values() for term in given for part in term.parts if part[0] == "{"}
        literals = {part: None for given in terms.values() for term in given for part in term.parts if part[0] != "{"}
        signs = {part for name, given in terms.items() if name[0] != "_" for term in given for part in term.parts}
        made = [_Literal.of(part, may_be_cut=part in signs) for part in literals]
        bare = [one for one in made if "'" in one.text]  # cant for can't
        self._literals = [*made, *bare]
        words = [one.text.rstrip("*") for one in made]
        self._automaton = AhoCorasick([*words, *(one.text.rstrip("*").replace("'", "") for one in bare)])

    def words(self) -> list[str]:
        """Return the words and phrases of all terms, in the form of `normalize`."""
        return [one.text.rstrip("*") for one in self._literals]

    def __contains__(self, concept: str) -> bool:
        return concept in self._concepts

    def references(self) -> set[str]:
        """Return the concepts that terms refer to and that the lexicon does not have: numbers, or a mistake."""
        return {part[1:-1] for part in self._parts} - self._concepts.keys()

    def find(self, text: str, given: Mentions | None = None) -> FoundMentions:
        """Return the mentions of each concept in a text of `normalize`, in order.

        `given` are mentions found in other ways, such as numbers; terms may refer to them.
        """
        found = FoundMentions(text, self._find_literals(text), given or {})
        alone, several, depth = self._alone, self._first, self._depth
        singles: dict[str, list[str]] = {}  # of each {concept}, the parts of the text that are terms of it
        terms: dict[str, list[_Term]] = {}  # and its terms of several parts whose first part is there
        floors: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=0))]  # {concepts} by depth
        reached = list(found.masks)
        for floor in (None, *floors):
            if floor is not None:
                reached = [one for one in floor if found.reach(one, singles.get(one, ()), terms.get(one, ()))]
            for part in reached:
                for concept in alone.get(part, ()):
                    if (parts := singles.get(concept)) is not None:
                        parts.append(part)
                    else:
                        singles[concept] = [part]
                        if concept not in terms:
                            floors[depth[concept]].append(concept)
                for term in several.get(part, ()):
                    concept = term.concept
                    if concept not in terms:
                        terms[concept] = []
                        if concept not in singles:
                            floors[depth[concept]].append(concept)
                    terms[concept].append(term)
        return found

    def _find_literals(self, text: str) -> dict[str, list[tuple[int, int]]]:
        """The spans of each literal, in order."""
        found: dict[str, list[tuple[int, int]]] = {}
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        literals, length = self._literals, len(text)
        for at, (index, start, end) in enumerate(matches):
            word, latin_start, latin_end, negates = literals[index]
            if latin_start and start and text[start - 1] in _LATIN:
                continue
            if latin_end and end < length and text[end] in _LATIN:
                continue
            if negates and _is_cut(matches, at):
                continue
            if (spans := found.get(word)) is None:
                found[word] = [(start, end)]
            else:
                spans.append((start, end))
        for spans in found.values():
            del spans[REPEATS:-REPEATS]
        return found


class _Literal(NamedTuple):
    """A word or phrase, which of its ends are those of a Latin word, and whether it says that something is not."""

    text: str
    latin_start: bool
    latin_end: bool
    negates: bool

    @classmethod
    def of(cls, text: str, *, may_be_cut: bool) -> _Literal:
        word = text.rstrip("*")
        ends = text == word and word[-1] in _LATIN
        return cls(text, word[0] in _LETTERS, ends, may_be_cut and bool(_NEGATOR.match(text)))


def _references(terms: Mapping[str, Sequence[_Term]]) -> dict[str, set[str]]:
    """Of each concept, those that its terms refer to."""
    return {
        name: {part[1:-1] for term in given for part in term.parts if part[0] == "{" and part[1:-1] in terms}
        for name, given in terms.items()
    }


def _sorted(before: Mapping[str, set[str]]) -> list[str]:
    """The concepts, each after those that its terms refer to."""
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


class FoundMentions(Mapping[str, list[Mention]]):
    """The concepts that a text mentions, and where; the places are worked out at the first look.

    A concept that `may_be` names need not be there: its parts are in one sentence, but perhaps too far from each other.
    """

    def __init__(self, text: str, literals: Mapping[str, Sequence[tuple[int, int]]], given: Mentions) -> None:
        self._text = text
        self._sentences = Sentences(text)
        self._literals = literals
        self._given = {f"{{{name}}}": mentions for name, mentions in given.items()}
        mask = self._sentences.mask
        # Of each literal and {concept}, the sentences that it may be in.
        self.masks = {part: mask(spans) for part, spans in literals.items()}
        self.masks |= {part: mask(map(PLACE, mentions)) for part, mentions in self._given.items()}
        self._terms: dict[str, tuple[Sequence[str], Sequence[_Term]]] = {}  # what makes a {concept}
        self._settled: dict[str, list[Mention]] = {}  # literal or {concept} -> mentions in order
        self._starts: dict[str, list[int]] = {}

    def reach(self, concept: str, parts: Sequence[str], terms: Sequence[_Term]) -> bool:
        """Take what may be a {concept}: parts, and terms of several. Return whether it is one, and was not before."""
        masks, of_concept = self.masks, 0
        for part in parts:
            of_concept |= masks[part]
        able = []
        for term in terms:
            common = -1
            for part in term.parts:
                common &= masks.get(part, 0)
            if common:
                of_concept |= common
                able.append(term)
        if not of_concept:
            return False
        self._terms[concept] = parts, able
        known = concept in masks
        masks[concept] = masks.get(concept, 0) | of_concept
        return not known

    def may_be(self) -> list[str]:
        """Return the concepts that the text may mention."""
        return [part[1:-1] for part in self.masks if part[0] == "{"]

    def __getitem__(self, concept: str) -> list[Mention]:
        if found := self._of(f"{{{concept}}}"):
            return found
        raise KeyError(concept)

    def get(self, concept: str, default: Any = None) -> Any:
        """Return the mentions of a concept."""
        return self._of(f"{{{concept}}}") or default

    def __iter__(self) -> Iterator[str]:
        return (concept for concept in self.may_be() if self._of(f"{{{concept}}}"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _of(self, part: str) -> list[Mention]:
        """The mentions of a literal or {concept}."""
        found = self._settled.get(part)
        if found is not None:
            return found
        if part[0] != "{":
            make = Mention._make
            found = [make((start, end, ((start, end),), None)) for start, end in self._literals.get(part, ())]
        else:
            found = [*self._given.get(part, ())]
            parts, terms = self._terms.get(part, ((), ()))
            for one in parts:
                found += self._of(one)
            for term in terms:
                found += self._join(term)
            found.sort(key=PLACE)
        self._settled[part] = found
        return found

    def _join(self, term: _Term) -> list[Mention]:
        """Each first part with the nearest of every next part."""
        made = self._of(term.parts[0])
        for part in term.parts[1:]:
            following = self._of(part)
            starts = self._starts.get(part)
            if starts is None:
                starts = self._starts[part] = [one.start for one in following]
            joined = []
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
        if end - begin > GAP * LETTERS_PER_WORD or self._sentences.parted(begin, end):
            return False
        return words_between(self._text, begin, end) <= GAP
