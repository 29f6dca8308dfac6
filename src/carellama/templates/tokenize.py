"""Groups of a rendered conversation to ids, the same in training and when an answer is asked for.

    ids = GroupEncoder(tokenizer).encode([template.groups(messages)])[0]   # one array a group

A conversation is tokenised group by group (`Template.groups`): the split at the start of each answer makes a
trained prompt have the very ids that a server gets for it. Joined, the ids decode to the rendered text, to the byte:
groups are joined without the white-space prefix that some tokenizers put before every text. Strings of special tokens
and of other markup (<tool_call>, <think>) in a person's words are cut in two before they are tokenised, so they stay
text. In the model's own words only those of special tokens are cut: a call that it writes is markup.

It knows no chat format, makes no labels and shortens nothing: `carellama.templates.template` and
`carellama.data.encoding.encode` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from carellama.errors import UserError
from carellama.templates.template import Group, markup_tokens, special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]  # (T,)

CALL_CHARS = 1_000_000  # characters that are tokenised in one call, and a piece more
KNOWN_MARKUP = 4096  # stretches of markup whose ids are kept
ANCHORS = ("\n", "。", "|")  # texts that end where the next token starts, see GroupEncoder


_Span = tuple[int, int, bool]  # where words begin and end, and whether they are the model's own


class _Piece(NamedTuple):
    """A text to tokenise, of whose ids the first `drop` belong to its anchor."""

    text: str
    drop: int
    markup: bool  # the same in many conversations: its ids are kept


class _Markup(NamedTuple):
    """A stretch of markup, cut where the tokenizer surely cuts it: before its first and after its last token."""

    head: str  # tokenised with the words before it
    fixed: str  # tokenised on its own; "": nothing can be
    tail: str  # tokenised with the words after it


class GroupEncoder:
    """Tokenises the groups of a conversation so that their ids, joined, decode to their texts, joined.

    Tokenizers of the SentencePiece kind put a space before each text. A group that goes on after another one
    is therefore tokenised behind an anchor (the special token that precedes it, else a text that never merges
    with what follows), whose ids are dropped. What stands between special tokens of the markup is the same in
    every conversation, so it is tokenised once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json form; convert it with "
                "transformers' convert_slow_tokenizer and save it beside the model"
            )
        self.backend = tokenizer.backend_tokenizer
        self._specials = special_tokens(tokenizer)
        marks = markup_tokens(tokenizer)
        first = "".join({re.escape(token[0]) for token in marks})
        self._first = re.compile(f"[{first}]") if first else None
        self._pattern = re.compile(f"(?=[{first}])(?:{'|'.join(map(re.escape, marks))})") if first else None
        self._letters = frozenset(letter for token in marks for letter in token)
        self._special = frozenset(self._specials)
        self._dividing = _dividing(tokenizer)
        self._anchor, self._anchor_ids = find_anchor(self.backend)
        self._markups: dict[tuple[str, bool, bool], _Markup] = {}
        self._known: dict[_Piece, Ids] = {}

    def encode(self, batch: Sequence[Sequence[Group]]) -> list[list[Ids]]:
        """Return the ids of each group of each conversation, in one call to the tokenizer's threads."""
        planned = [self.pieces(groups) for groups in batch]
        pieces = list(chain.from_iterable(chain.from_iterable(planned)))
        parts = self._ids_of(pieces)
        flat = np.concatenate([*parts, _NOTHING])
        ends = [0, *accumulate(map(len, parts))]  # of the pieces
        found, at = [], 0
        for groups in planned:
            ids = []
            for group in groups:
                ids.append(flat[ends[at] : ends[at + len(group)]])
                at += len(group)
            found.append(ids)
        return found

    def pieces(self, groups: Sequence[Group]) -> list[list[_Piece]]:
        """Return what to tokenise for each group."""
        if not self._anchor:
            return [[_Piece(text, 0, markup) for text, markup in self._stretches(group)] for group in groups]
        before = ""
        found = []
        for group in groups:
            pieces = []
            for text, markup in self._stretches(group):
                pieces.append(self._behind_anchor(text, before, markup=markup))
                before = text or before
            found.append(pieces)
        return found

    def _stretches(self, group: Group) -> list[tuple[str, bool]]:
        """Cut a group into stretches that are tokenised alone: (text, whether it is markup only)."""
        found: list[tuple[str, bool]] = []
        text, spans = "", list[_Span]()  # words with the markup that goes with them
        parts, last = group.parts, len(group.parts) - 1
        for at in range(0, last + 1, 2):
            head, fixed, tail = self._markup(parts[at], first=at == 0, last=at == last)
            text += head
            if fixed:
                if text:
                    found += [(part, False) for part in self._cut(text, spans)]
                    text, spans = "", []
                found.append((fixed, True))
            text += tail
            if at < last:
                spans.append((len(text), len(text) + len(parts[at + 1]), at + 1 in group.own))
                text += parts[at + 1]
        if text or not found:
            found += [(part, False) for part in self._cut(text, spans)]
        return found

    def _markup(self, text: str, *, first: bool, last: bool) -> _Markup:
        """Cut markup that stands first, between contents, or last in its group."""
        key = (text, first, last)
        known = self._markups.get(key)
        if known is None:
            known = self._cut_markup(text, first=first, last=last)
            if len(self._markups) < KNOWN_MARKUP:
                self._markups[key] = known
        return known

    def _cut_markup(self, text: str, *, first: bool, last: bool) -> _Markup:
        matches = list(self._dividing.finditer(text)) if self._dividing else []
        if not matches:
            return _Markup("", text, "") if first and last else _Markup(text, "", "")
        start = 0 if first else matches[0].start()
        end = len(text) if last else matches[-1].end()
        return _Markup(text[:start], text[start:end], text[end:])

    def _cut(self, text: str, spans: Sequence[_Span]) -> list[str]:
        """Cut a text inside every string of markup that touches the words at `spans`, of the model's own less."""
        if self._pattern is None or not self._may_touch(text, spans):
            return [text]
        cuts, at = [], 0
        while match := self._pattern.search(text, at):
            first, last = match.span()
            touched = [own for start, end, own in spans if first < end and start < last]
            if touched and (not all(touched) or match.group() in self._special):
                cuts.append(first + 1)
                at = first + 1  # what begins within it may be markup as well
            else:
                at = last
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def _may_touch(self, text: str, spans: Sequence[_Span]) -> bool:
        """Whether a string of markup could begin in these words, or reach into them: a quick look."""
        assert self._first is not None
        for start, end, _ in spans:
            if self._first.search(text, start, end) or (start and text[start - 1] in self._letters):
                return True
        return False

    def _behind_anchor(self, text: str, before: str, *, markup: bool) -> _Piece:
        if not before:
            return _Piece(text, 0, markup)
        special = next((token for token in self._specials if before.endswith(token)), None)
        if special is not None:
            return _Piece(special + text, 1, markup)
        return _Piece(self._anchor + text, len(self._anchor_ids), markup)

    def _ids_of(self, pieces: Sequence[_Piece]) -> list[Ids]:
        """The ids of each piece; those of markup are remembered."""
        known = self._known
        found = [known.get(piece) if piece.markup else None for piece in pieces]
        new = [piece for piece, ids in zip(pieces, found, strict=True) if ids is None]
        made = chain.from_iterable(map(self._tokenise, _bounded(new)))
        for at, ids in enumerate(found):
            if ids is None:
                found[at] = next(made)
                if pieces[at].markup and len(known) < KNOWN_MARKUP:
                    known[pieces[at]] = found[at].copy()  # type: ignore[union-attr]
        return found  # type: ignore[return-value]

    def _tokenise(self, pieces: Sequence[_Piece]) -> Iterator[Ids]:
        encodings = self.backend.encode_batch_fast([piece.text for piece in pieces], add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
        ends = list(accumulate(map(len, found)))
        flat = np.fromiter(chain.from_iterable(found), dtype=np.int32, count=ends[-1] if ends else 0)
        starts = [start + piece.drop for start, piece in zip([0, *ends], pieces, strict=False)]
        return map(flat.__getitem__, map(slice, starts, ends))


_NOTHING: Ids = np.zeros(0, dtype=np.int32)


def find_anchor(backend: Tokenizer) -> tuple[str, list[int]]:
    """Return an anchor and its ids, see `GroupEncoder`; an empty one for tokenizers that add no prefix."""

    def ids(text: str) -> list[int]:
        found: list[int] = backend.encode(text, add_special_tokens=False).ids
        return found

    bare = backend.decode(ids("a"), skip_special_tokens=False)
    probes = ["a", " a", "\na", "。", "1"]
    for anchor in ("", *ANCHORS):
        head = ids(anchor) if anchor else []
        whole = [ids(anchor + probe) for probe in probes]
        apart = all(found[: len(head)] == head for found in whole)
        first = (backend.id_to_token(whole[0][len(head)]) or "") if len(whole[0]) > len(head) else ""
        if apart and not first.startswith(("▁", "Ġ")) and bare == "a":
            return anchor, head
    raise UserError("this tokenizer merges text across every boundary tried; its chats cannot be split safely")


def _dividing(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Special tokens at which every text is cut before it is tokenised, and that leave the text beside them alone."""
    plain = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    ]
    longest_first = sorted(plain, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if plain else None


def _bounded(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Cut the pieces into calls: the tokenizer takes a hundred bytes of memory for each character of a call."""
    call: list[_Piece] = []
    chars = 0
    for piece in pieces:
        call.append(piece)
        chars += len(piece.text)
        if chars >= CALL_CHARS:
            yield call
            call, chars = [], 0
    if call:
        yield call
