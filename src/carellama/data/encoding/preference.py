"""Judged answers to `Tokens`: the two of a `Pair`, or one that a person found good or bad.

    encoded = AnswerEncoder(Encoder(tokenizer, template, lengths)).encode(records)

Only the last answer is learned, and both answers of a pair follow the same prompt to the token. What is too long is
never split: of the prompt the earliest turns are left out, then the end of the question, as `Encoder` cuts it, by the
longer of the answers; the answers are cut to the room that is left. All of it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carellama.data.encoding.encode import Encoded, Encoder, Note, label_parts
from carellama.errors import UserError
from carellama.records import Chat, Message, Pair, Record
from carellama.templates.template import Group
from carellama.templates.tokenize import Ids

EARLIER = "earlier turns left out"


@dataclass(frozen=True, slots=True)
class _Judged:
    """A prompt, and the answers to it with what was thought of them."""

    record: Chat | Pair
    prompt: tuple[Message, ...]
    answers: tuple[tuple[str, bool], ...]

    def without_first_turn(self) -> _Judged | None:
        """The same without the first question and answer; None: there is only one question."""
        asked = [at for at, message in enumerate(self.prompt) if message.role == "user"]
        if len(asked) < 2:
            return None
        return _Judged(self.record, self.prompt[: asked[0]] + self.prompt[asked[1] :], self.answers)


class AnswerEncoder:
    """Encodes `Pair`s (two `Tokens` each, the better one first) and `Chat`s that somebody judged (one each)."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """Encode a batch; the result has one entry a record, in order."""
        batch: list[tuple[_Judged, list[list[Group]]] | Note] = []
        for record in records:
            judged = _judged(record)
            try:
                batch.append((judged, self._groups(judged)))
            except UserError as error:
                batch.append(Note("skipped", str(error), record.place))
        several = [groups for entry in batch if isinstance(entry, tuple) for groups in entry[1]]
        found = iter(self.encoder.groups.encode(several))
        made = []
        for entry in batch:
            if isinstance(entry, Note):
                made.append(Encoded([], [entry]))
            else:
                judged, groups = entry
                made.append(self._fit(judged, groups[0], [next(found) for _ in groups]))
        return made

    def _groups(self, judged: _Judged) -> list[list[Group]]:
        answers = [Message("assistant", text) for text, _ in judged.answers]
        template, tools = self.encoder.template, judged.record.tools
        return _behind_one_prompt([template.groups((*judged.prompt, answer), tools) for answer in answers])

    def _fit(self, judged: _Judged, groups: list[Group], ids: list[list[Ids]]) -> Encoded:
        """Shorten what is too long; `groups` are those of the first answer, `ids` those of all."""
        notes: list[Note] = []
        place = judged.record.place
        while True:
            answers = [one[-1][: self.encoder.target] for one in ids]
            room = self.encoder.whole - sum(map(len, ids[0][:-2]))
            longest = max(answers, key=len)
            fits = len(ids[0][-2]) + len(longest) <= room
            shorter = None if fits else judged.without_first_turn()
            if shorter is None:
                break
            if not notes:
                notes.append(Note("shortened", EARLIER, place))
            judged = shorter
            again = self._groups(judged)
            groups, ids = again[0], self.encoder.groups.encode(again)
        cut = self.encoder.cut_turn(groups[-2:], (ids[0][-2], longest), room, continues=len(groups) > 2)
        if cut is None:
            return Encoded([], [Note("skipped", self.encoder.no_room, place)])
        question, kept, reasons = cut
        if len(longest) < max(len(one[-1]) for one in ids) and len(kept) == len(longest):
            reasons = [*reasons, "answer cut to its length, without end token"]
        notes += [Note("shortened", reason, place) for reason in reasons]
        prompt = np.concatenate([*ids[0][:-2], question])
        ends = [answer[: len(kept)] for answer in answers]
        if len(ends) > 1 and all(np.array_equal(end, ends[0]) for end in ends):
            return Encoded([], [Note("skipped", "the answers are the same once they are cut", place)])
        tokens = [
            label_parts([prompt, end], [False, True], good=good)
            for end, (_, good) in zip(ends, judged.answers, strict=True)
        ]
        return Encoded(tokens, notes)


def _behind_one_prompt(several: list[list[Group]]) -> list[list[Group]]:
    """Let all answers follow the same prompt, where one has reasoning and another begins directly.

    The markup that belongs to the prompt of the latter is then learned: the model chooses between the two.
    """
    shortest = min(len(groups[-2].text) for groups in several)
    found = []
    for *before, prompt, answer in several:
        kept = len(prompt.parts[-1]) - (len(prompt.text) - shortest)
        lead = prompt.parts[-1][kept:]
        prompt = replace(prompt, parts=(*prompt.parts[:-1], prompt.parts[-1][:kept]))
        found.append([*before, prompt, replace(answer, parts=(lead + answer.parts[0], *answer.parts[1:]))])
    return found


def _judged(record: Record) -> _Judged:
    if isinstance(record, Pair):
        return _Judged(record, record.prompt, ((record.chosen, True), (record.rejected, False)))
    assert isinstance(record, Chat) and record.good is not None, "an answer that nobody judged"
    return _Judged(record, record.prompt, ((record.response, record.good),))
