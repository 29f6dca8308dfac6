"""Records to `Tokens`: the only place where labels are made.

    encoded = Encoder(tokenizer, template, lengths).encode(records)

What is too long is shortened by rule and counted, never silently: see `Encoder`. It knows no chat format
(`carellama.templates.template`), makes no ids (`carellama.templates.tokenize`) and reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from carellama.errors import UserError
from carellama.records import IGNORED, Chat, Message, Place, Record, Text, Tokens
from carellama.templates.template import Group, Template, adds_bos
from carellama.templates.tokenize import GroupEncoder, Ids
from carellama.text import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNBOUNDED = 1 << 30  # tokens
APART = "one example an answer: the chat template writes earlier answers in another way"
STRETCH = 100_000  # characters of a text that are tokenised as one


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


@dataclass(frozen=True, slots=True)
class _Example:
    """A conversation to learn from, and its groups: prompt, answer, prompt, ..."""

    messages: tuple[Message, ...]
    groups: list[Group]


def _stretches(text: str) -> list[str]:
    """Cut a very long text, before a single space if there is one: there no tokenizer joins what it parts."""
    found, at = [], 0
    while len(text) - at > STRETCH:
        spaces = [match.start() for match in re.finditer(r"(?<=\S)(?= \S)", text[at : at + STRETCH])]
        cut = spaces[-1] if spaces else STRETCH
        found.append(text[at : at + cut])
        at += cut
    return [*found, text[at:]]


class Encoder:
    """Encodes records within `lengths` = (a turn's prompt, a turn's answer, the whole record), in tokens.

    A conversation is one example, or one for each answer, see `Template.conversations`. In this order, for one that is
    too long:
    1. over the whole length, it is split at a turn: the later turns make a conversation of their own, with
       the system message, and with as many of the earlier turns before them as fit, as context that is not
       trained twice;
    2. a question over its length loses the end of its own words: the markup, with the header that starts the
       answer, stays whole;
    3. an answer over its length is cut and gets no end token, so the model does not learn to stop there.
    Of a single turn that fills the whole length, a quarter is left to the answer. A prompt whose markup alone
    leaves no room is skipped. Plain text over the whole length is split into windows that overlap by one
    token, so that each token is learned once. A conversation with tool calls that is too long is skipped.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, lengths: tuple[int, int, int]) -> None:
        self.groups = GroupEncoder(tokenizer)
        self.template = template
        self.source, self.target, self.whole = lengths
        if self.whole < 2:
            raise UserError(
                f"records of {counted(self.whole, 'token')} have nothing to predict; give a longer --cutoff_len"
            )
        self.no_room = (
            f"the prompt's markup alone leaves no room for an answer in {counted(self.whole, 'token')} (--cutoff_len), "
            f"of which the prompt may have {self.source} (--max_source_length)"
        )
        self.eos = np.array([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], dtype=np.int32)
        self.bos = np.array([tokenizer.bos_token_id] if adds_bos(tokenizer) else [], dtype=np.int32)

    def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """Encode a batch; the result has one entry a record, in order."""
        batch = [self._examples_of(record) for record in records]
        rendered = [examples for examples in batch if not isinstance(examples, str)]
        found = iter(self.groups.encode([example.groups for examples in rendered for example in examples]))
        encoded = []
        for record, examples in zip(records, batch, strict=True):
            if isinstance(record, Text):
                encoded.append(self._finish_text(record, next(found)))
            elif isinstance(examples, str):
                encoded.append(Encoded([], [Note("skipped", examples, record.place)]))
            else:
                assert isinstance(record, Chat)
                encoded.append(self._finish(record, examples, [next(found) for _ in examples]))
        return encoded

    def _examples_of(self, record: Record) -> list[_Example] | str:
        """What to tokenise for a record, or why the template cannot render it."""
        if isinstance(record, Text):
            parts = [Group(("", part, ""), trained=True, own=frozenset({1})) for part in _stretches(record.text)]
            return [_Example((), parts)]
        assert isinstance(record, Chat), f"{type(record).__name__} is encoded by its own stage"
        try:
            several = self.template.conversations(record.messages, record.tools)
            return [_Example(messages, self.template.groups(messages, record.tools)) for messages in several]
        except UserError as error:
            return str(error)

    def _finish(self, record: Chat, examples: Sequence[_Example], several: Sequence[list[Ids]]) -> Encoded:
        """Label the ids of a conversation, and cut or split what is too long."""
        tokens: list[Tokens] = []
        notes: dict[tuple[int, str], Note] = {}  # a turn may be cut in several examples, but is counted once
        for example, ids in zip(examples, several, strict=True):
            sizes = [len(part) for part in ids]
            if sum(sizes) <= self.whole and max(sizes[0::2]) <= self.source and max(sizes[1::2]) <= self.target:
                tokens.append(label_parts(ids, [group.trained for group in example.groups]))
                continue
            if record.tools or any(message.calls for message in example.messages):
                reason = "a conversation with tool calls is longer than the record length"
                return Encoded([], [Note("skipped", reason, record.place)])
            made = self._fit(record.place, example, ids)
            if isinstance(made, Note):
                return Encoded([], [made])
            tokens += made[0]
            notes |= made[1]
        found = list(notes.values())
        if len(examples) > 1:
            found.append(Note("split", APART, record.place))
        return Encoded(tokens, found)

    def _finish_text(self, record: Text, stretches: list[Ids]) -> Encoded:
        """Plain text: every token but the first is learned, in windows of the whole length."""
        ids = np.concatenate([self.bos, *stretches, self.eos])
        if len(ids) < 2:
            return Encoded([], [Note("skipped", "text of a single token", record.place)])
        stride = self.whole - 1  # a window begins with the last token of the one before
        parts = [ids[at : at + self.whole] for at in range(0, len(ids) - 1, stride)]
        notes = [Note("split", "text longer than the window", record.place)] if len(parts) > 1 else []
        return Encoded([label_parts([part], [True]) for part in parts], notes)

    def _fit(
        self, place: Place, example: _Example, ids: list[Ids]
    ) -> tuple[list[Tokens], dict[tuple[int, str], Note]] | Note:
        """Split the conversation where it must be, then shorten the turns of each part."""
        groups = example.groups
        system = example.messages[: len(example.messages) - len(groups)]
        spoken = example.messages[len(system) :]
        tokens: list[Tokens] = []
        notes: dict[tuple[int, str], Note] = {}
        for first, learned, end in self._windows(system, spoken, ids):
            if not any(groups[2 * turn + 1].trained for turn in range(learned, end)):
                continue
            part, part_ids = groups, ids
            if (first, end) != (0, len(groups) // 2):
                part = self.template.groups(system + spoken[2 * first : 2 * end])
                part_ids = self.groups.encode([part])[0]
            parts, wanted = list[Ids](), list[bool]()  # prompt, answer, prompt, ..., and which of them are learned
            for turn in range(end - first):
                pair = slice(2 * turn, 2 * turn + 2)
                room = self.whole if end - first == 1 else UNBOUNDED  # several turns fit as they are chosen
                cut = self.cut_turn(part[pair], part_ids[pair], room, continues=turn > 0)
                if cut is None:
                    return Note("skipped", self.no_room, place)
                prompt, answer, reasons = cut
                parts += [prompt, answer]
                wanted += [False, first + turn >= learned and groups[2 * (first + turn) + 1].trained]
                notes |= {(first + turn, reason): Note("shortened", reason, place) for reason in reasons}
            tokens.append(label_parts(parts, wanted))
        if len(tokens) > 1:
            reason = "conversation longer than the record length"
            notes[-1, reason] = Note("split", reason, place)
        return tokens, notes

    def cut_turn(
        self, groups: Sequence[Group], ids: Sequence[Ids], room: int, *, continues: bool
    ) -> tuple[Ids, Ids, list[str]] | None:
        """Cut one turn to its lengths and to `room` tokens: ids and what was done; None: it cannot be done."""
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
        # the prompt of a window's first turn is that of a conversation that begins with it, with the system message
        turns = (spoken[at : at + 2] for at in range(0, len(spoken), 2))
        prompts = [[self.template.groups(system + turn)[0]] for turn in turns]
        heads = [len(prompt) for (prompt,) in self.groups.encode(prompts)]
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

    def _shorten(self, group: Group, room: int, *, continues: bool) -> Ids | None:
        """Cut the end of a prompt's longest words until it has at most `room` tokens; None: it cannot."""
        at = max(range(1, len(group.parts), 2), key=lambda at: len(group.parts[at]))
        words = group.parts[at]
        before = [Group((self.template.tokenizer.eos_token or "\n",), trained=False)] if continues else []
        low, high = 0, len(words)  # characters kept: low fits or is the least, high does not fit
        best = None
        while low < high:
            kept = (low + high) // 2
            cut = replace(group, parts=(*group.parts[:at], words[:kept], *group.parts[at + 1 :]))
            shorter = self.groups.encode([[*before, cut]])[0][-1]
            if len(shorter) <= room:
                best, low = shorter, kept + 1
            else:
                high = kept
        return best if low > 1 else None


def label_parts(parts: Sequence[Ids], learned: Sequence[bool], *, good: bool = True) -> Tokens:
    """Join the parts; only those that are learned keep their ids as labels."""
    joined = np.concatenate(parts)
    labels = joined.copy()
    at = 0
    for part, wanted in zip(parts, learned, strict=True):
        if not wanted:
            labels[at : at + len(part)] = IGNORED
        at += len(part)
    labels[0] = IGNORED
    return Tokens(joined, labels, good)
