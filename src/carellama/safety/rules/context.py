"""How a mention of a sign is meant: said of now, or denied, long past, only asked about or only supposed.

    context = Context(text, lexicon.find(text))
    context.flags(mention)      # frozenset(): it is meant; {"denied"}: "no chest pain"

The algorithm is ConText (Harkema et al. 2009): words before and after a mention, whose reach ends with the clause or
at a word of contrast. Departures: 1. it works on Chinese clauses too; 2. a word of denial that is a part of the
mention itself ("not breathing") does not deny it; 3. who is ill makes no difference, since a call for somebody else is
a call; 4. what a line says is past where the next line takes it back ("ah no, it was a film"). The words are data,
`context.yaml`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal, get_args

from carellama.mention_table import LETTERS_PER_WORD
from carellama.rules import FoundMentions, Mention, Mentions, Sentences, words_between

Flag = Literal["denied", "past", "question", "supposed"]
FLAGS: frozenset[Flag] = frozenset(get_args(Flag))
Spans = tuple[tuple[int, int], ...]
MEANT: frozenset[Flag] = frozenset()
_CONCEPTS = (
    *("_deny", "_deny_next", "_deny_after", "_not_deny", "_contrast"),
    *("_past", "_now", "_question", "_person", "_if", "_fiction", "_taken_back"),
)
DENIED_WORDS = 12  # reach of a denial before a list of signs
NEXT_WORDS = 4  # of "not" and its like
AFTER_WORDS = 2
# Behind a comma an English list of denied signs goes on, unless a new clause begins.
NEW_CLAUSE = re.compile(
    r"[,:] ?(?:and |so )?(?:i|i'm|im|i've|ive|he|he's|she|she's|we|you|it|it's|its|they|my|his|her|our|the|this|there|"
    r"that|a|an|some|very|really|having|feeling|felt|has|have|had|got|went|is|are|was|feels|looks)\b"
)

_SUDDEN = re.compile(
    r" ?(?:突然|忽然|一下子|猛地|猛然|suddenly)"
)  # right behind a denial it is denied, and no contrast


class Context:
    """The words of a text that say how its mentions are meant. `mentions` are those of a lexicon with context.yaml."""

    def __init__(self, text: str, mentions: Mentions) -> None:
        self._text = text
        self._sentences = mentions.sentences if isinstance(mentions, FoundMentions) else Sentences(text)
        self._words = {name: _Words(self._sentences, mentions.get(name, ())) for name in _CONCEPTS}
        wide, near = self._words["_deny"].mentions, self._words["_deny_next"].mentions
        void = {place for one in self._words["_not_deny"].mentions for place in range(one.start, one.end)}
        deny = sorted((one for one in (*wide, *near) if one.start not in void), key=lambda one: one.start)
        self._deny = _Words(self._sentences, deny)
        self._wide = {(one.start, one.end) for one in wide}
        self._known: dict[tuple[int, int, Spans], frozenset[Flag]] = {}
        # Sentences with a word that changes how a mention is meant: in all others it is meant of now.
        self._changed = self._deny.sentences.union(
            *(self._words[name].sentences for name in ("_deny_after", "_past", "_if", "_question"))
        )
        # Where the turns begin and where the last ends, if a word of fiction makes them matter
        fiction = self._words["_fiction"].mentions
        self._turns = [0, *(match.end() for match in re.finditer("\n", text)), len(text)] if fiction else []
        self._taken_back = [
            line for one in self._words["_taken_back"].mentions if (line := _line_before(text, one.start))
        ]

    def flags(self, mention: Mention) -> frozenset[Flag]:
        """Return how the mention is meant; empty: the person has it now."""
        start, end, spans, _ = mention
        if self.is_plain(start, end):
            return MEANT
        key = start, end, spans
        flags = self._known.get(key)
        if flags is None:
            flags = self._known[key] = frozenset(self._flags(mention)) or MEANT
        return flags

    def is_plain(self, start: int, end: int) -> bool:
        """Return whether nothing around a place can change how a mention there is meant."""
        ends = self._sentences.ends
        sentence = bisect_left(ends, start)
        changed = sentence in self._changed or bool(self._turns or self._taken_back)
        return not changed and (sentence == len(ends) or end <= ends[sentence])

    def _flags(self, mention: Mention) -> list[Flag]:
        flags: list[Flag] = []
        words, sentence = self._words, self._sentences.of(mention.start)
        if any(self._is_denied(mention, span) for span in mention.spans) or self._is_denied_after(mention):
            flags.append("denied")
        begin, end = self._sentences.bounds(sentence)
        past, supposed = sentence in words["_past"].sentences, sentence in words["_if"].sentences
        if past or supposed:
            clause = self._clause(mention, begin, end)
            if (
                past
                and self._has("_past", *clause, mention)
                and not self._has("_now", self._clause(mention, begin, end, from_word=True)[0], clause[1])
            ):
                flags.append("past")
            if supposed and self._has("_if", clause[0], mention.start):
                flags.append("supposed")
        asked = sentence in words["_question"].sentences and self._has("_question", begin, end, mention)
        if asked and not self._has("_person", begin, end):
            flags.append("question")
        if self._turns and self._has("_fiction", *_around(self._turns, mention.start), mention):
            flags.append("question")
        if any(begin <= mention.start < end for begin, end in self._taken_back):
            flags.append("past")
        return flags

    def _clause(self, mention: Mention, begin: int, end: int, *, from_word: bool = False) -> tuple[int, int]:
        """The part of the sentence between the words of contrast around the mention."""
        contrasts, starts = self._words["_contrast"].mentions, self._words["_contrast"].starts
        at = bisect_left(starts, mention.start)
        before = [
            one.start if from_word else one.end
            for one in contrasts[max(0, at - 3) : at]
            if begin <= one.start and one.end <= mention.start
        ]
        at = bisect_left(starts, mention.end)
        after = [one.start for one in contrasts[at : at + 1] if one.start < end]
        return max(before, default=begin), min(after, default=end)

    def _has(self, name: str, begin: int, end: int, besides: Mention | None = None) -> bool:
        """Whether a word of the kind stands in the stretch, outside of the mention itself."""
        words = self._words[name]
        for at in range(bisect_left(words.starts, begin), len(words.starts)):
            word = words.mentions[at]
            if word.start >= end:
                break
            if word.end <= end and (besides is None or not _overlaps(word, besides.spans)):
                return True
        return False

    def _is_denied(self, mention: Mention, span: tuple[int, int]) -> bool:
        if (sentence := self._sentences.of(span[0])) not in self._deny.sentences:
            return False
        begin = self._sentences.bounds(sentence)[0]
        at = bisect_right(self._deny.starts, span[0])
        for word in reversed(self._deny.mentions[max(0, at - 3) : at]):
            if word.start < begin or word.end > span[0] or _overlaps(word, mention.spans):
                continue
            wide = (word.start, word.end) in self._wide
            if self._reaches(word.end, span[0], DENIED_WORDS if wide else NEXT_WORDS, through_commas=wide):
                return True
        return False

    def _reaches(self, begin: int, end: int, words: int, *, through_commas: bool) -> bool:
        if end - begin > words * LETTERS_PER_WORD or words_between(self._text, begin, end) > words:
            return False
        sudden = _SUDDEN.match(self._text, begin, end)
        if self._has("_contrast", sudden.end() if sudden else begin, end):
            return False
        between = self._text[begin:end]
        if "," not in between and ":" not in between:
            return True
        return through_commas and between.isascii() and not NEW_CLAUSE.search(self._text, begin, end + 1)

    def _is_denied_after(self, mention: Mention) -> bool:
        words = self._words["_deny_after"]
        at = bisect_left(words.starts, mention.end)
        for word in words.mentions[at : at + 1]:
            if not _overlaps(word, mention.spans):
                if word.start - mention.end > AFTER_WORDS * LETTERS_PER_WORD:
                    return False
                between = self._text[mention.end : word.start]
                if words_between(self._text, mention.end, word.start) > AFTER_WORDS or set(between) & set(",;。.!?\n"):
                    return False
                following = self._text[word.end : word.end + 1]
                return not following or not following.isalnum()  # "胸痛没有缓解" denies no pain
        return False


class _Words:
    """Mentions of a concept of the context, in order, and the sentences that they are in."""

    def __init__(self, sentences: Sentences, mentions: Sequence[Mention]) -> None:
        self.mentions = mentions
        self.starts = [one.start for one in mentions]
        self.sentences = set(map(sentences.of, self.starts))


def _around(turns: Sequence[int], place: int) -> tuple[int, int]:
    """The turn that a place is in."""
    at = bisect_right(turns, place, hi=len(turns) - 1)
    return turns[at - 1], turns[at]


def _line_before(text: str, place: int) -> tuple[int, int] | None:
    """The line before the one that begins at a place; None: no line begins there, or it is the first."""
    line_end = text.rfind("\n", 0, place)
    if line_end < 0 or text[line_end:place].strip():
        return None
    return text.rfind("\n", 0, line_end) + 1, line_end


def _overlaps(word: Mention, spans: Sequence[tuple[int, int]]) -> bool:
    return any(word.start < end and start < word.end for start, end in spans)
