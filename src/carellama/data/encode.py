"""Records to `Tokens`: the only place where text becomes ids and where labels are made.

A conversation is tokenised group by group (`Template.groups`): the split at the start of each answer makes a
trained prompt have the very ids that a server gets for it. Groups are joined without the white-space prefix
that some tokenizers put before every text, so the ids decode to the rendered text, to the byte. Special-token
strings in a person's text are cut in two before they are tokenised, so they stay text.

What is too long is shortened by rule and counted, never silently: see `Encoder`. It knows no chat format and
reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from carellama.errors import UserError
from carellama.records import IGNORED, Chat, Message, Place, Record, Text, Tokens
from carellama.template import Group, Template, special_tokens

UNBOUNDED = 1 << 30  # tokens
STRETCH = 100_000  # characters of a text that are tokenised as one
CALL_CHARS = 1_000_000  # characters that are tokenised in one call, and a piece more

Ids = npt.NDArray[np.int32]  # (T,)
ANCHORS = ("\n", "。", "|")  # texts that end where the next token starts, see GroupEncoder


@dataclass(frozen=True, slots=True)
class Note:
    """Something done to a record that the report must count."""

    kind: Literal["skipped", "shortened", "split"]
    reason: str
    place: Place


@dataclass(frozen=True, slots=True)
class Encoded:
    """One record's tokens (several when it was split, none when it was skipped) and what was done to it."""

    tokens: list[Tokens]
    notes: list[Note]


class _Piece(NamedTuple):
    """A text to tokenise, of whose ids the first `drop` belong to its anchor."""

    text: str
    drop: int


class GroupEncoder:
    """Tokenises the groups of a conversation so that their ids, joined, decode to their texts, joined.

    Tokenizers of the SentencePiece kind put a space before each text. A group that goes on after another one
    is therefore tokenised behind an anchor (the special token that precedes it, else a text that never merges
    with what follows), whose ids are dropped.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json form; convert it with "
                "transformers' convert_slow_tokenizer and save it beside the model"
            )
        self.backend = tokenizer.backend_tokenizer
        self._specials = special_tokens(tokenizer)
        first = "".join({re.escape(token[0]) for token in self._specials})
        self._first = re.compile(f"[{first}]") if first else None
        self._pattern = re.compile(f"(?=[{first}])(?:{'|'.join(map(re.escape, self._specials))})") if first else None
        self._letters = frozenset(letter for token in self._specials for letter in token)
        self._anchor, self._anchor_ids = self._find_anchor()

    def _find_anchor(self) -> tuple[str, list[int]]:
        """Return an anchor and its ids; an empty one for tokenizers that add no prefix."""

        def ids(text: str) -> list[int]:
            found: list[int] = self.backend.encode(text, add_special_tokens=False).ids
            return found

        bare = self.backend.decode(ids("a"), skip_special_tokens=False)
        probes = ["a", " a", "\na", "。", "1"]
        for anchor in ("", *ANCHORS):
            head = ids(anchor) if anchor else []
            whole = [ids(anchor + probe) for probe in probes]
            apart = all(found[: len(head)] == head for found in whole)
            tokens = [self.backend.id_to_token(found[len(head)]) if len(found) > len(head) else "" for found in whole]
            if apart and not tokens[0].startswith(("▁", "Ġ")) and bare == "a":
                return anchor, head
        raise UserError("this tokenizer merges text across every boundary tried; its chats can not be split safely")

    def pieces(self, groups: Sequence[Group]) -> list[list[_Piece]]:
        """Return what to tokenise for each group."""
        if not self._anchor:
            return [[_Piece(part, 0) for part in self._cut(group)] for group in groups]
        before = ""
        found = []
        for group in groups:
            parts = self._cut(group)
            pieces = []
            for part in parts:
                pieces.append(self._behind_anchor(part, before))
                before = part or before
            found.append(pieces)
        return found

    def _cut(self, group: Group) -> list[str]:
        """Cut a group's text inside every special-token string that touches a person's words."""
        if self._pattern is None or not self._may_touch(group):
            return [group.text]
        cuts = []
        for match in self._pattern.finditer(group.text):
            first, last = match.span()
            for start, end in group.contents:
                if first < end and start < last:
                    cuts.append(first + 1)
                    break
        return [group.text[a:b] for a, b in zip([0, *cuts], [*cuts, len(group.text)], strict=True)]

    def _may_touch(self, group: Group) -> bool:
        """Whether a special-token string could begin in a person's words, or reach into them: a quick look."""
        assert self._first is not None
        for start, end in group.contents:
            if self._first.search(group.text, start, end) or (start and group.text[start - 1] in self._letters):
                return True
        return False

    def _behind_anchor(self, text: str, before: str) -> _Piece:
        if not before:
            return _Piece(text, 0)
        special = next((token for token in self._specials if before.endswith(token)), None)
        if special is not None:
            return _Piece(special + text, 1)
        return _Piece(self._anchor + text, len(self._anchor_ids))

    def encode(self, batch: Sequence[Sequence[Group]]) -> list[list[Ids]]:
        """Return the ids of each group of each conversation, in one call to the tokenizer's threads."""
        planned = [self.pieces(groups) for groups in batch]
        pieces = [piece for groups in planned for group in groups for piece in group]
        parts = chain.from_iterable(map(self._tokenise, _bounded(pieces)))
        return [[_joined([next(parts) for _ in group]) for group in groups] for groups in planned]

    def _tokenise(self, pieces: Sequence[_Piece]) -> Iterator[Ids]:
        encodings = self.backend.encode_batch_fast([piece.text for piece in pieces], add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
        ends = list(accumulate(map(len, found)))
        flat = np.fromiter(chain.from_iterable(found), dtype=np.int32, count=ends[-1] if ends else 0)
        starts = [start + piece.drop for start, piece in zip([0, *ends], pieces, strict=False)]
        return map(flat.__getitem__, map(slice, starts, ends))


def _bounded(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Cut the pieces into calls: the tokenizer takes a hundred bytes of memory for each character of a call."""
    call: list[_Piece] = []
    chars = 0
    for piece in pieces:
        call.append(piece)
        chars += len(piece.text)
        if chars >= CALL_CHARS:
            yield call
            call, chars = [], 0
    yield call


def _stretches(text: str) -> list[str]:
    """Cut a very long text, before a single space if there is one: there no tokenizer joins what it parts."""
    found, at = [], 0
    while len(text) - at > STRETCH:
        spaces = [match.start() for match in re.finditer(r"(?<=\S)(?= \S)", text[at : at + STRETCH])]
        cut = spaces[-1] if spaces else STRETCH
        found.append(text[at : at + cut])
        at += cut
    return [*found, text[at:]]


def _joined(parts: list[Ids]) -> Ids:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Encoder:
    """Encodes records within `lengths` = (a turn's prompt, a turn's answer, the whole record), in tokens.

    In this order, for a conversation that is too long:
    1. over the whole length, it is split at a turn: the later turns make a conversation of their own, with
       the system message, and with as many of the earlier turns before them as fit, as context that is not
       trained twice;
    2. a question over its length loses the end of its own words: the markup, with the header that starts the
       answer, stays whole;
    3. an answer over its length is cut and gets no end token, so the model does not learn to stop there.
    Of a single turn that fills the whole length, a quarter is left to the answer. A prompt whose markup alone
    leaves no room is skipped. Plain text over the whole length is split into windows that overlap by one
    token, so that each token is learned once.
    """

    def __init__(self, tokenizer: Any, template: Template, lengths: tuple[int, int, int]) -> None:
        self.groups = GroupEncoder(tokenizer)
        self.template = template
        self.source, self.target, self.whole = lengths
        if self.whole < 2:
            raise UserError(f"records of {self.whole} token have nothing to predict; give a longer --cutoff_len")
        self.eos = _as_ids([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])
        self.bos = _as_ids([tokenizer.bos_token_id] if _adds_bos(tokenizer) else [])

    def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """Encode a batch; the result has one entry a record, in order."""
        batch = [self._groups_of(record) for record in records]
        ids = self.groups.encode([groups for groups in batch if isinstance(groups, list)])
        found = iter(ids)
        return [
            self._finish(record, groups, next(found)) if isinstance(groups, list) else Encoded([], [groups])
            for record, groups in zip(records, batch, strict=True)
        ]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids that an answer to `messages` starts from, as trained."""
        return [int(token) for token in self.groups.encode([[self.template.prompt_group(messages)]])[0][0]]

    def _groups_of(self, record: Record) -> list[Group] | Note:
        """The groups to tokenise, or why the template can not render this record."""
        if isinstance(record, Text):
            return [Group(part, True, ((0, len(part)),)) for part in _stretches(record.text)]
        assert isinstance(record, Chat), f"{type(record).__name__} is encoded by its own stage"
        try:
            return self.template.groups(record.messages)
        except UserError as error:
            return Note("skipped", str(error), record.place)

    def _finish(self, record: Record, groups: list[Group], ids: list[Ids]) -> Encoded:
        """Label the ids, and cut or split what is too long."""
        if isinstance(record, Text):
            return self._finish_text(record, ids)
        assert isinstance(record, Chat)
        sizes = [len(part) for part in ids]
        if sum(sizes) <= self.whole and max(sizes[0::2]) <= self.source and max(sizes[1::2]) <= self.target:
            return Encoded([_label(groups, ids)], [])
        return self._fit(record, groups, ids)

    def _finish_text(self, record: Text, stretches: list[Ids]) -> Encoded:
        """Plain text: every token but the first is learned, in windows of the whole length."""
        ids = np.concatenate([self.bos, *stretches, self.eos])
        if len(ids) < 2:
            return Encoded([], [Note("skipped", "text of a single token", record.place)])
        stride = self.whole - 1  # a window begins with the last token of the one before
        parts = [ids[at : at + self.whole] for at in range(0, len(ids) - 1, stride)]
        notes = [Note("split", "text longer than the window", record.place)] if len(parts) > 1 else []
        return Encoded([_tokens(part, part.copy()) for part in parts], notes)

    def _fit(self, record: Chat, groups: list[Group], ids: list[Ids]) -> Encoded:
        """Split the conversation where it must be, then shorten the turns of each part."""
        system = record.messages[: len(record.messages) - len(groups)]
        spoken = record.messages[len(system) :]
        tokens: list[Tokens] = []
        notes: dict[tuple[int, str], Note] = {}  # a turn may be cut in several parts, but is counted once
        for first, learned, end in self._windows(system, spoken, ids):
            part, part_ids = groups, ids
            if (first, end) != (0, len(groups) // 2):
                part = self.template.groups(system + spoken[2 * first : 2 * end])
                part_ids = self.groups.encode([part])[0]
            turns = []
            for turn in range(end - first):
                pair = slice(2 * turn, 2 * turn + 2)
                room = self.whole if end - first == 1 else UNBOUNDED  # several turns fit as they are chosen
                cut = self._cut_turn(part[pair], part_ids[pair], room, continues=turn > 0)
                if cut is None:
                    reason = "the prompt's markup alone leaves no room for an answer"
                    return Encoded([], [Note("skipped", reason, record.place)])
                prompt, answer, reasons = cut
                turns.append((prompt, answer))
                notes |= {(first + turn, reason): Note("shortened", reason, record.place) for reason in reasons}
            tokens.append(_join(turns, learned_from=learned - first))
        found = list(notes.values())
        if len(tokens) > 1:
            found.append(Note("split", "conversation longer than the record length", record.place))
        return Encoded(tokens, found)

    def _cut_turn(
        self, groups: Sequence[Group], ids: Sequence[Ids], room: int, *, continues: bool
    ) -> tuple[Ids, Ids, list[str]] | None:
        """Cut one turn to its lengths and to `room` tokens: ids and what was done; None: it can not be."""
        prompt, answer = ids
        reasons = []
        most = min(self.source, room - min(len(answer), self.target, max(room // 4, 1)))
        if len(prompt) > most:
            shorter = self._shorten(groups[0], most, continues=continues)
            if shorter is None:
                return None
            prompt = shorter
            reasons.append("question cut to its length")
        most = min(self.target, room - len(prompt))
        if len(answer) > most:
            answer = answer[:most]
            reasons.append("answer cut to its length, without end token")
        return prompt, answer, reasons

    def _windows(
        self, system: tuple[Message, ...], spoken: tuple[Message, ...], ids: list[Ids]
    ) -> list[tuple[int, int, int]]:
        """Cover the turns by windows that fit: (first turn, first learned, end); each is learned once."""
        count = len(ids) // 2
        if count == 1:
            return [(0, 0, 1)]
        heads = self._prompts_alone(system, spoken)  # the prompt of a window's first turn has the system message
        answers = [min(len(answer), self.target) for answer in ids[1::2]]
        later = [min(len(prompt), self.source) + answer for prompt, answer in zip(ids[0::2], answers, strict=True)]

        def size(first: int, end: int) -> int:
            return min(heads[first], self.source) + answers[first] + sum(later[first + 1 : end])

        windows, learned = [], 0
        while learned < count:
            end = learned + 1
            while end < count and size(learned, end + 1) <= self.whole:
                end += 1
            first = learned
            while first > 0 and size(first - 1, end) <= self.whole:
                first -= 1
            windows.append((first, learned, end))
            learned = end
        return windows

    def _prompts_alone(self, system: tuple[Message, ...], spoken: tuple[Message, ...]) -> list[int]:
        """The length of each turn's prompt when the conversation begins with it."""
        turns = [spoken[at : at + 2] for at in range(0, len(spoken), 2)]
        prompts = [[self.template.groups(system + turn)[0]] for turn in turns]
        return [len(ids[0]) for ids in self.groups.encode(prompts)]

    def _shorten(self, group: Group, room: int, *, continues: bool) -> Ids | None:
        """Cut the end of a prompt's longest content until it has at most `room` tokens; None: it can not."""
        start, end = max(group.contents, key=lambda span: span[1] - span[0])
        low, high = 0, end - start  # characters kept: low fits or is the least, high does not fit
        best = None
        while low < high:
            kept = (low + high) // 2
            shorter = self._encode_cut(group, start, end, kept, continues)
            if len(shorter) <= room:
                best, low = shorter, kept + 1
            else:
                high = kept
        return best if low > 1 else None

    def _encode_cut(self, group: Group, start: int, end: int, kept: int, continues: bool) -> Ids:
        cut = end - start - kept
        spans = tuple(
            (a, b - cut) if (a, b) == (start, end) else (a - cut, b - cut) if a >= end else (a, b)
            for a, b in group.contents
        )
        shorter = replace(group, text=group.text[: start + kept] + group.text[end:], contents=spans)
        before = [Group(self.template.tokenizer.eos_token or "\n", False, ())] if continues else []
        return self.groups.encode([[*before, shorter]])[0][-1]


def _label(groups: Sequence[Group], ids: Sequence[Ids]) -> Tokens:
    """Join the groups; only trained ones keep their ids as labels."""
    return _learn(ids, [group.trained for group in groups])


def _join(turns: list[tuple[Ids, Ids]], learned_from: int) -> Tokens:
    """Join turns of (prompt, answer); answers before turn `learned_from` are context only."""
    learned = [side == 1 and turn >= learned_from for turn in range(len(turns)) for side in (0, 1)]
    return _learn([ids for turn in turns for ids in turn], learned)


def _learn(parts: Sequence[Ids], learned: Sequence[bool]) -> Tokens:
    joined = np.concatenate(parts)
    labels = joined.copy()
    at = 0
    for part, wanted in zip(parts, learned, strict=True):
        if not wanted:
            labels[at : at + len(part)] = IGNORED
        at += len(part)
    return _tokens(joined, labels)


def _tokens(ids: Ids, labels: Ids) -> Tokens:
    labels[0] = IGNORED
    return Tokens(ids, labels)


def _as_ids(tokens: list[int]) -> Ids:
    return np.array(tokens, dtype=np.int32)


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins a text with its bos token."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
