"""Conversations that a model answers while it is trained: the messages, and the ids that an answer starts from.

    found = PromptEncoder(Encoder(tokenizer, template, lengths), answer_tokens=128).encode(records)

The last answer of a record (both, of a pair) is left out: only its prompt is used. What is too long to leave room for
an answer is shortened as everywhere: the earliest turns are left out, then the end of the question; all of it is
counted. The messages are kept with the ids because a reward may read them in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carellama.data.answers import EARLIER, without_first_turn
from carellama.data.encode import Encoder, Note
from carellama.errors import UserError
from carellama.records import IGNORED, Chat, Message, Pair, Record, Tokens
from carellama.template import Group
from carellama.tokenise import Ids

ANSWER = Message("assistant", "x")  # stands where an answer will, so that the template renders what is before it


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A conversation that ends with the user; `number` is its place in its `Prompts`.

    `messages` lacks the turns that were left out, but a question that was cut stands there whole.
    """

    messages: tuple[Message, ...]
    ids: Ids  # (T,)
    number: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Prompts:
    """Prompts by number, for a trainer."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = [replace(prompt, number=number) for number, prompt in enumerate(prompts)]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, number: int) -> Prompt:
        return self.prompts[number]

    def first(self) -> list[Tokens]:
        """The first one as tokens of which none is learned."""
        ids = self.prompts[0].ids
        return [Tokens(ids, np.full(len(ids), IGNORED, dtype=np.int32))]


class PromptEncoder:
    """Encodes the prompts of `Chat`s and `Pair`s so that `answer_tokens` fit behind them."""

    def __init__(self, encoder: Encoder, answer_tokens: int) -> None:
        self.encoder = encoder
        self.room = encoder.whole - answer_tokens
        assert self.room > 0, "no room for a prompt"

    def encode(self, records: Sequence[Record]) -> list[tuple[Prompt | None, list[Note]]]:
        """Return a prompt for each record, None where it was skipped, and what was done to it."""
        batch: list[list[Group] | Note] = []
        for record in records:
            assert isinstance(record, (Chat, Pair))
            try:
                batch.append(self._groups(record.prompt))
            except UserError as error:
                batch.append(Note("skipped", str(error), record.place))
        found = iter(self.encoder.groups.encode([groups for groups in batch if isinstance(groups, list)]))
        made: list[tuple[Prompt | None, list[Note]]] = []
        for record, groups in zip(records, batch, strict=True):
            assert isinstance(record, (Chat, Pair))
            if isinstance(groups, Note):
                made.append((None, [groups]))
            else:
                made.append(self._fit(record, groups, next(found)))
        return made

    def _groups(self, messages: tuple[Message, ...]) -> list[Group]:
        return self.encoder.template.groups((*messages, ANSWER))[:-1]

    def _fit(self, record: Chat | Pair, groups: list[Group], ids: list[Ids]) -> tuple[Prompt | None, list[Note]]:
        messages = record.prompt
        notes: list[Note] = []
        while sum(map(len, ids)) > self.room and (shorter := without_first_turn(messages)) is not None:
            if not notes:
                notes.append(Note("shortened", EARLIER, record.place))
            messages = shorter
            groups = self._groups(messages)
            (ids,) = self.encoder.groups.encode([groups])
        room = self.room - sum(map(len, ids[:-1]))
        nothing = ids[-1][:0]
        cut = self.encoder.cut_turn(groups[-1:], (ids[-1], nothing), room, continues=len(groups) > 1)
        if cut is None:
            return None, [Note("skipped", "the prompt's markup alone leaves no room for an answer", record.place)]
        question, _, reasons = cut
        notes += [Note("shortened", reason, record.place) for reason in reasons]
        return Prompt(messages, np.concatenate([*ids[:-1], question])), notes
