"""How a mention of a sign is meant: said of now, or denied, long past, only asked about or only supposed.

    context = Context(text, lexicon.find(text))
    context.flags(mention)      # frozenset(): it is meant; {"denied"}: "no chest pain"

The algorithm is ConText (Harkema et al. 2009): words before and after a mention, whose reach ends with the clause or
at a word of contrast. Departures: 1. it works on Chinese clauses too; 2. a word of denial that is a part of the
mention itself ("not breathing") does not deny it; 3. who is ill makes no difference, since a call for somebody else is
a call. The words are data, `context.yaml`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

from carellama.rules import SENTENCE_END, Mention, Mentions, words_between

Flag = Literal["denied", "past", "question", "supposed"]
DENIED_WORDS = 12  # reach of a denial before a list of signs
NEXT_WORDS = 4  # of "not" and its like
AFTER_WORDS = 2
# Behind a comma an English list of denied signs goes on, unless a new clause begins.
NEW_CLAUSE = re.compile(
    r"[,:] ?(?:and |so )?(?:i|i'm|im|i've|ive|he|he's|she|she's|we|you|it|it's|its|they|my|his|her|our|the|this|there|"
    r"that|a|an|some|very|really|having|feeling|felt|has|have|had|got|went|is|are|was|feels|looks)\b"
)


class Context:
    """The words of a text that say how its mentions are meant. `mentions` are those of a lexicon with context.yaml."""

    def __init__(self, text: str, mentions: Mentions) -> None:
        self._text = text
        self._ends = [match.end() for match in SENTENCE_END.finditer(text)]
        self._of = mentions
        void = {place for one in mentions.get("_not_deny", ()) for place in range(one.start, one.end)}
        self._deny = [
            one for name in ("_deny", "_deny_next") for one in mentions.get(name, ()) if one.start not in void
        ]
        self._deny.sort(key=lambda one: one.start)
        self._deny_starts = [one.start for one in self._deny]
        self._next = {(one.start, one.end) for one in mentions.get("_deny_next", [])}
        self._wide = {(one.start, one.end) for one in mentions.get("_deny", [])}
        self._turns = [match.end() for match in re.finditer("\n", text)]

    def flags(self, mention: Mention) -> frozenset[Flag]:
        """Return how the mention is meant; empty: the person has it now."""
        found: set[Flag] = set()
        begin, end = self._sentence(mention.start)
        if any(self._is_denied(mention, span) for span in mention.spans) or self._is_denied_after(mention):
            found.add("denied")
        clause = self._clause(mention, begin, end)
        if self._has("_past", *clause, mention) and not self._has(
            "_now", self._clause(mention, begin, end, from_word=True)[0], clause[1]
        ):
            found.add("past")
        if self._has("_if", clause[0], mention.start):
            found.add("supposed")
        if self._has("_question", begin, end, mention) and not self._has("_person", begin, end):
            found.add("question")
        if self._of.get("_fiction") and self._has("_fiction", *self._turn(mention.start), mention):
            found.add("question")
        return frozenset(found)

    def _sentence(self, place: int) -> tuple[int, int]:
        return _around(self._ends, place, len(self._text))

    def _turn(self, place: int) -> tuple[int, int]:
        return _around(self._turns, place, len(self._text))

    def _clause(self, mention: Mention, begin: int, end: int, *, from_word: bool = False) -> tuple[int, int]:
        """The part of the sentence between the words of contrast around the mention."""
        contrasts = self._of.get("_contrast", [])
        at = bisect_left(contrasts, mention.start, key=lambda one: one.start)
        before = [
            one.start if from_word else one.end
            for one in contrasts[max(0, at - 3) : at]
            if begin <= one.start and one.end <= mention.start
        ]
        at = bisect_left(contrasts, mention.end, key=lambda one: one.start)
        after = [one.start for one in contrasts[at : at + 1] if one.start < end]
        return max(before, default=begin), min(after, default=end)

    def _has(self, name: str, begin: int, end: int, besides: Mention | None = None) -> bool:
        """Whether a word of the kind stands in the stretch, outside of the mention itself."""
        words = self._of.get(name, [])
        at = bisect_left(words, begin, key=lambda one: one.start)
        for word in words[at:]:
            if word.start >= end:
                break
            if word.end <= end and (besides is None or not _overlaps(word, besides.spans)):
                return True
        return False

    def _is_denied(self, mention: Mention, span: tuple[int, int]) -> bool:
        begin = self._sentence(span[0])[0]
        at = bisect_right(self._deny_starts, span[0])
        for word in reversed(self._deny[max(0, at - 3) : at]):
            if word.start < begin or word.end > span[0] or _overlaps(word, mention.spans):
                continue
            wide = (word.start, word.end) in self._wide
            if self._reaches(word.end, span[0], DENIED_WORDS if wide else NEXT_WORDS, through_commas=wide):
                return True
        return False

    def _reaches(self, begin: int, end: int, words: int, *, through_commas: bool) -> bool:
        between = self._text[begin:end]
        if words_between(self._text, begin, end) > words or self._has("_contrast", begin, end):
            return False
        if "," not in between and ":" not in between:
            return True
        return through_commas and between.isascii() and not NEW_CLAUSE.search(self._text, begin, end + 1)

    def _is_denied_after(self, mention: Mention) -> bool:
        words = self._of.get("_deny_after", [])
        at = bisect_left(words, mention.end, key=lambda one: one.start)
        for word in words[at : at + 1]:
            if not _overlaps(word, mention.spans):
                between = self._text[mention.end : word.start]
                if words_between(self._text, mention.end, word.start) > AFTER_WORDS or set(between) & set(",;。.!?\n"):
                    return False
                following = self._text[word.end : word.end + 1]
                return not following or not following.isalnum()  # "胸痛没有缓解" denies no pain
        return False


def _around(ends: Sequence[int], place: int, length: int) -> tuple[int, int]:
    at = bisect_right(ends, place)
    return (ends[at - 1] if at else 0), (ends[at] if at < len(ends) else length)


def _overlaps(word: Mention, spans: Sequence[tuple[int, int]]) -> bool:
    return any(word.start < end and start < word.end for start, end in spans)
