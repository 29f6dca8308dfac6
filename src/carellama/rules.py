"""A lexicon of concepts read from YAML, and where a text mentions them.

    lexicon = Lexicon(concepts)                       # {"chest_pain": ("{chest} & {pain}", "angina"), ...}
    lexicon.find(normalize("胸口一直很疼"))            # {"chest_pain": [Mention(start=0, end=6, ...)], ...}

A concept is a list of terms. A term is a word or phrase as people write it; what is special in it:

    vomit*            the word may go on: vomits, vomiting (Latin letters; other words end where the term ends)
    {chest} .. {pain} one after the other within the same sentence, at most `GAP` words between; {x} is a concept
    {chest} & {pain}  the same in either order

All words of all concepts are found in one pass by an Aho-Corasick automaton (Aho and Corasick 1975); which concepts
they are mentions of, and which parts join, is worked out for all at once (`carellama.mention_table`). A part of a term
is joined to the nearest next part only, and of a word that comes more than 80 times the first and the last 40 are
looked at. Hence the time grows no faster than that of sorting, whatever the terms.
The module knows nothing of medicine and does not decide whether a mention is denied: see `safety.rules.context`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from math import isnan
from operator import itemgetter
from typing import Any, NamedTuple

from carellama.errors import UserError
from carellama.mention_table import LETTERS_PER_WORD, Bases, Distances, SlotMentions, Term, TermTable, Words, codes_of
from carellama.package_data import flat_terms, package_text, package_yaml

SENTENCE_END = re.compile(r"[。！？!?；;\n]|\.(?=\s|$)")
_NEGATOR = re.compile(r"[没无不未]|not? |isn't |isnt ")
_BRACE, _CONCEPT = re.compile("[{}]"), re.compile(r"\{\w+\}")
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
    lines = package_text("traditional.txt").splitlines()
    for line in lines:
        if line[0] != "#":
            for at in range(0, len(line), 2):
                table[ord(line[at])] = ord(line[at + 1])
    for code in range(0x2070, 0x20000):  # letters of other typefaces: mathematical bold, circled, script
        plain = unicodedata.normalize("NFKC", chr(code)).lower()
        if plain in (_LATIN if code >= 0x1D400 else _LETTERS) and not 0x2160 <= code < 0x2180:  # Roman numerals stay
            table[code] = ord(plain)
    for mark, plain in _MARKS.items():
        table[ord(mark)] = ord(plain)
    table[0xD800:0xE000] = [ord("?")] * 0x800  # a lone surrogate cannot be encoded
    return table


def normalization() -> str:
    """Return each character that `normalize` changes but for capitals, followed by what it becomes."""
    surrogates = range(0xD800, 0xE000)
    return "".join(chr(at) + chr(to) for at, to in enumerate(_table()) if at != to and at not in surrogates)


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


def package_concepts(*paths: str) -> dict[str, list[str]]:
    """Return the concepts of YAML files of the package, by their paths below `carellama`, and the terms of each."""
    found: dict[str, list[str]] = {}
    for path in paths:
        for concept, terms in package_yaml(path).items():
            found.setdefault(concept, []).extend(flat_terms(terms))
    return found


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
        self.ends = [match.start() for match in SENTENCE_END.finditer(text)]
        self._length = len(text)

    def of(self, place: int) -> int:
        """Return the number of the sentence that a place is in; the mark at its end belongs to it."""
        return bisect_left(self.ends, place)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the half-open offsets of a sentence."""
        ends = self.ends
        return (ends[number - 1] + 1 if number else 0), (ends[number] + 1 if number < len(ends) else self._length)

    def parted(self, begin: int, end: int) -> bool:
        """Return whether a sentence ends between two places."""
        at = bisect_left(self.ends, begin)
        return at < len(self.ends) and self.ends[at] < end


@dataclass(frozen=True, slots=True, kw_only=True)
class LexiconTables:
    """A lexicon as plain numbers and texts, for programs in other languages: see `carellama.mention_table`.

    `words`, `units`, `latin_starts`, `latin_ends` and `negates` are the arguments of `Words`; `reached`, `terms` and
    `slots` those of `TermTable`. `names` are the concepts and numbers whose unit and slot are their places.
    """

    words: Sequence[str]
    units: Sequence[int]
    latin_starts: Sequence[bool]
    latin_ends: Sequence[bool]
    negates: Sequence[bool]
    names: Sequence[str]
    reached: Sequence[Iterable[int]]
    terms: Sequence[Term]
    slots: int


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
    if any(_BRACE.search(part) and not _CONCEPT.fullmatch(part) for part in parts):
        raise UserError(f"the term {term!r} has words beside braces; write them as parts: {{pain}} .. chest")
    return _Term(f"{{{concept}}}", parts, ordered=marks != {"&"})


class Lexicon:
    """Concepts and their terms. Raises `UserError` for a term that refers to itself."""

    def __init__(self, concepts: Mapping[str, Sequence[str]]) -> None:
        terms = {name: [parse_term(term, name) for term in given] for name, given in concepts.items()}
        self._concepts = _sorted(_references(terms))
        parts = {part: None for given in terms.values() for term in given for part in term.parts}
        self._others = {part[1:-1] for part in parts if part[0] == "{"} - set(self._concepts)
        signs = {part for name, given in terms.items() if name[0] != "_" for term in given for part in term.parts}
        made = [_Literal.of(part, may_be_cut=part in signs) for part in parts if part[0] != "{"]
        bare = [one for one in made if "'" in one.text]  # cant for can't
        self._literals = [*made, *bare]
        # What is found by itself, numbered: concepts by their terms of several parts, numbers, and words.
        self._names = [*self._concepts, *sorted(self._others)]
        self._units = {f"{{{name}}}": at for at, name in enumerate(self._names)}
        self._units |= {one.text: len(self._names) + at for at, one in enumerate(made)}
        self._table = _term_table(terms, self._concepts, self._units)
        self._spelled = [one.text.rstrip("*") for one in made]
        self._spelled += [one.text.rstrip("*").replace("'", "") for one in bare]
        self._words = Words(
            self._spelled,
            [self._units[one.text] for one in self._literals],
            [one.latin_start for one in self._literals],
            [one.latin_end for one in self._literals],
            [one.negates for one in self._literals],
        )

    def words(self) -> list[str]:
        """Return the words and phrases of all terms, in the form of `normalize`."""
        return [one.text.rstrip("*") for one in self._literals]

    def tables(self) -> LexiconTables:
        """Return what the lexicon is made of, for a program in another language."""
        return LexiconTables(
            words=self._spelled,
            units=[self._units[one.text] for one in self._literals],
            latin_starts=[one.latin_start for one in self._literals],
            latin_ends=[one.latin_end for one in self._literals],
            negates=[one.negates for one in self._literals],
            names=self._names,
            reached=self._table.reached,
            terms=self._table.terms,
            slots=self._table.slots,
        )

    def __contains__(self, concept: str) -> bool:
        return self._units.get(f"{{{concept}}}", len(self._concepts)) < len(self._concepts)

    def references(self) -> set[str]:
        """Return the concepts that terms refer to and that the lexicon does not have: numbers, or a mistake."""
        return set(self._others)

    def find(self, text: str, given: Mentions | None = None) -> FoundMentions:
        """Return the mentions of each concept in a text of `normalize`, in order.

        `given` are mentions found in other ways, such as numbers; terms may refer to them.
        """
        codes, sentences = codes_of(text), Sentences(text)
        known = [(name, one) for name, mentions in (given or {}).items() for one in mentions]
        numbers = [(self._units.get(f"{{{name}}}", self._table.nothing), *one[:2], one.value) for name, one in known]
        places, went = self._table.find(
            Bases.of(*self._words.find(text, codes), numbers), Distances(codes, sentences.ends)
        )
        return FoundMentions(sentences, self._names, self._units, places, zip(went.tolist(), known, strict=False))


def _term_table(terms: Mapping[str, Sequence[_Term]], concepts: Sequence[str], units: Mapping[str, int]) -> TermTable:
    """What counts for what, as numbers; `concepts` come after those that their terms refer to."""
    alone: dict[str, list[str]] = {}  # part -> concepts that it is a term of, each in braces
    level = dict.fromkeys(units, 0)  # how often a term of several parts is made of another
    several: list[tuple[_Term, int]] = []
    for name in concepts:
        for term in terms[name]:
            depth = max(level[part] for part in term.parts)
            if len(term.parts) == 1:
                alone.setdefault(term.parts[0], []).append(term.concept)
                level[term.concept] = max(level[term.concept], depth)
            else:
                several.append((term, depth))
                level[term.concept] = max(level[term.concept], depth + 1)
    slots = {part: at for part, at in units.items() if part[0] == "{"}  # of concepts and numbers as of their units
    for term, _ in several:
        for part in term.parts:
            slots.setdefault(part, len(slots))
    reached: dict[str, set[int]] = {}
    for part in [*(f"{{{name}}}" for name in reversed(concepts)), *units]:
        own = {slots[part]} if part in slots else set[int]()
        reached[part] = own.union(*(reached[concept] for concept in alone.get(part, ())))
    made = [Term(units[one.concept], tuple(slots[part] for part in one.parts), one.ordered, at) for one, at in several]
    return TermTable([reached[part] for part in units], made, len(slots))


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


class FoundMentions(Mapping[str, list[Mention]]):
    """The concepts that a text mentions, and where. Mentions are numbered in the order of their places.

    `known` are mentions that were given, with their number and the name of what they are.
    """

    def __init__(
        self,
        sentences: Sentences,
        names: Sequence[str],
        units: Mapping[str, int],
        places: SlotMentions,
        known: Iterable[tuple[int, tuple[str, Mention]]],
    ) -> None:
        self.sentences = sentences
        self.starts: list[int] = places.bases.starts.tolist()
        self.ends: list[int] = places.bases.ends.tolist()
        self._names, self._units, self._places = names, units, places
        self._made: list[Mention | None] = [None] * len(self.starts)
        self._numbers: dict[str, list[int]] = {}  # of concepts that were asked for
        self._others: dict[str, None] = {}  # names of what was given and what the lexicon knows nothing of
        for number, (name, mention) in known:
            self._made[number] = mention
            if f"{{{name}}}" not in units:
                self._others[name] = None
                self._numbers.setdefault(name, []).append(number)

    def numbers(self, concept: str) -> list[int]:
        """Return the numbers of the mentions of a concept, in order."""
        found = self._numbers.get(concept)
        if found is None:
            slot = self._units.get(f"{{{concept}}}")
            found = self._numbers[concept] = [] if slot is None else self._places.rows(slot).tolist()
        return found

    def firsts(self) -> Iterator[tuple[str, int]]:
        """Yield each concept that is mentioned, and the number of its first mention."""
        names, places = self._names, self._places
        slots = places.counts[: len(names)].nonzero()[0]
        numbers = places.at(places.begins[slots]).tolist()
        yield from ((names[slot], number) for slot, number in zip(slots.tolist(), numbers, strict=True))
        yield from ((name, self._numbers[name][0]) for name in self._others)

    def mention(self, number: int) -> Mention:
        """Return the mention of a number."""
        made = self._made[number]
        if made is None:
            bases = self._places.bases
            left, start, end = int(bases.lefts[number]), self.starts[number], self.ends[number]
            if left < 0:
                made = Mention(start, end, ((start, end),))
            else:
                spans = (*self.mention(left).spans, *self.mention(int(bases.rights[number])).spans)
                value = float(bases.values[number])
                made = Mention(start, end, spans, None if isnan(value) else value)
            self._made[number] = made
        return made

    def __contains__(self, concept: object) -> bool:
        return bool(self.numbers(str(concept)))

    def __getitem__(self, concept: str) -> list[Mention]:
        if found := self.numbers(concept):
            return [self.mention(number) for number in found]
        raise KeyError(concept)

    def get(self, concept: str, default: Any = None) -> Any:
        """Return the mentions of a concept."""
        return [self.mention(number) for number in self.numbers(concept)] or default

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.firsts())

    def __len__(self) -> int:
        return sum(1 for _ in self)
