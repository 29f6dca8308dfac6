"""What a chat template writes around the contents of a conversation, found by rendering it with placeholders.

    skeleton = SkeletonMaker(rows, marks, render, end_of, inline=False, lead=None).skeleton()
    skeleton.groups     # prompt, answer, prompt, answer, ...

A prompt reaches to where the model begins to write. That is where the generation prompt ends, and behind the markup
that the template puts between it and an answer (the empty <think> block of Qwen3, the final channel of gpt-oss): such
markup is asked, and not learned. White space alone is learned, as models write it with their first word.

`carellama.templates.template` fills skeletons in and keeps them; this module knows no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from carellama.errors import UserError
from carellama.records import JSONObject
from carellama.templates.jinja import CLOSE, OPEN
from carellama.text import THOUGHT, opens_reasoning

SLOT = re.compile(f"{OPEN}(\\d+){CLOSE}")
Rows = Sequence[JSONObject]
Marks = tuple[str, str]  # before and after the reasoning of an answer


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one message's content; number `len(rows)` is the reasoning of the last answer."""

    number: int
    trimmed: bool  # the template strips white space around the content
    own: bool  # an assistant's words

    def of(self, texts: Sequence[str]) -> str:
        """Return the content that goes here."""
        content = texts[self.number]
        return content.strip() if self.trimmed else content


Parts = tuple[str | Slot, ...]  # markup, slot, markup, ..., markup


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A rendered conversation, cut into prompts and answers in turn."""

    groups: tuple[Parts, ...]
    tail: str  # markup after the end of the last answer: rendered, but neither read nor learned
    ends: bool  # whether the markup ends the last answer
    exact: bool  # whether it is the template's own rendering, and not brought into the form of its generation prompt


class EndOf(Protocol):
    """Splits the markup after an answer; `calls`: whether the answer calls tools."""

    def __call__(self, markup: str, *, calls: bool) -> tuple[str, str]:
        """Return what ends the answer, and the rest."""


class Render(Protocol):
    """Renders rows; `start`: up to where an answer begins; `thinking`: whether it begins with reasoning."""

    def __call__(self, rows: Rows, *, start: bool = False, thinking: bool | None = None) -> str:
        """Return the text."""


def places_of(rows: Rows, render: Callable[[Rows], str]) -> Parts:
    """Return the parts of what `render` makes of the rows; () where a content has no place of its own."""
    held = _placeholders(rows)
    text = render(held)
    found = [int(number) for number in SLOT.findall(text)]
    if sorted(found) != [at for at, row in enumerate(held) if SLOT.fullmatch(row["content"])]:
        return ()
    return _parts(text, _trimmed(held, render), rows)


class SkeletonMaker:
    """Cuts the rendering of a conversation, as chat templates take it, into prompts and answers.

    `marks`: what stands before and after the reasoning of the last answer, where it has one; `inline`: the template
    writes it as part of the content. `lead`: the markup that stands between the generation prompt and an answer
    without reasoning; None: it is being looked for. Raises `UserError` for roles that the template drops or moves.
    """

    def __init__(
        self,
        rows: Rows,
        marks: tuple[str, str] | None,
        render: Render,
        end_of: EndOf,
        *,
        inline: bool,
        lead: str | None,
    ) -> None:
        self.rows, self.marks, self.render, self.end_of, self.lead = rows, marks, render, end_of, lead
        self.held = _placeholders(rows)
        self.count = len(rows)
        self.exact = marks is None or inline or "reasoning_content" in rows[-1]
        if marks is not None and "reasoning_content" in rows[-1]:
            self.held[-1]["reasoning_content"] = f"{OPEN}{self.count}{CLOSE}"
        self.text = render(self.held)
        self.slots = {int(match[1]): match.span() for match in SLOT.finditer(self.text)}
        self._check_order()
        self.trimmed = _trimmed(self.held, render)

    def _check_order(self) -> None:
        found = [int(number) for number in SLOT.findall(self.text) if int(number) != self.count]
        if found != [at for at, row in enumerate(self.held) if SLOT.fullmatch(row["content"])]:
            roles = ", ".join(row["role"] for row in self.rows)
            raise UserError(
                f"the chat template cannot carry the roles {roles}: it drops or moves one; "
                "leave out the system message or choose another --template"
            )

    def skeleton(self) -> Skeleton:
        """Return prompt, answer, prompt, ..."""
        groups: list[Parts] = []
        cursor, ends = 0, True
        for at, row in enumerate(self.rows):
            if row["role"] != "assistant":
                continue
            prompt, begin = self._prompt(at, cursor)
            answer, cursor, ends = self._answer(at, begin)
            groups += [prompt, answer]
        rest = self._between(cursor, len(self.text))
        if len(rest) > 1:  # it ends with a turn that is not the assistant's
            return Skeleton((*groups, rest), "", ends=True, exact=self.exact)
        return Skeleton(tuple(groups), self.text[cursor:], ends, self.exact)

    def _prompt(self, at: int, cursor: int) -> tuple[Parts, int]:
        """The prompt of an answer, from `cursor` on, and where in the text the answer begins."""
        last = at == self.count - 1
        reasons = last and self.marks is not None
        start = self.render(self.held[:at], start=True, thinking=True if reasons else None)
        own = (at, self.count) if last else (at,)
        first = min((self.slots[slot][0] for slot in own if slot in self.slots), default=None)
        if self.text.startswith(start):
            begin = len(start)
            if not reasons:
                lead = self._lead(begin, first)
                if last and lead and self.lead is not None and lead != self.lead:
                    raise UserError("the chat template asks for this answer in another way than it writes it")
                begin += len(lead)
            return self._between(cursor, begin), begin
        if first is None:
            raise UserError("the chat template writes this call of a tool in another place than its generation prompt")
        if not last:
            return self._between(cursor, first), first
        if not start.startswith(self.text[:cursor]):
            raise UserError("the chat template writes earlier turns in another way before it asks for an answer")
        self.exact = False
        closed = f"\n{THOUGHT}\n\n" if opens_reasoning(start) and not reasons else ""
        return _parts(start[cursor:] + closed, self.trimmed, self.rows), first

    def _lead(self, begin: int, first: int | None) -> str:
        """The markup between the generation prompt, which ends at `begin`, and an answer without reasoning."""
        if first is None:
            return self.lead if self.lead and self.text.startswith(self.lead, begin) else ""
        lead = self.text[begin:first]
        return lead if lead.strip() else ""

    def _answer(self, at: int, begin: int) -> tuple[Parts, int, bool]:
        """The answer from `begin` on, where in the text it ends, and whether markup ends it."""
        after = max(self.slots[at][1] if at in self.slots else begin, begin)
        following = min((start for start, _ in self.slots.values() if start >= after), default=len(self.text))
        end, _ = self.end_of(self.text[after:following], calls=bool(self.rows[at].get("tool_calls")))
        if not end and self.rows[at].get("tool_calls"):
            raise UserError("the chat template ends a call of a tool with nothing that stops the model")
        stop = after + len(end)
        parts = self._between(begin, stop)
        if at == self.count - 1 and self.marks is not None and self.count not in self.slots:
            if at not in self.slots:
                raise UserError("the chat template drops the reasoning before a call of a tool")
            opening, closing = self.marks
            if opens_reasoning(self.render(self.held[:at], start=True, thinking=True)):
                opening = ""
            lead, slot, *rest = parts
            parts = (f"{lead}{opening}", Slot(self.count, trimmed=False, own=True), closing, slot, *rest)
        return parts, stop, bool(end)

    def _between(self, start: int, end: int) -> Parts:
        return _parts(self.text[start:end], self.trimmed, self.rows)


def _placeholders(rows: Rows) -> list[JSONObject]:
    """Rows with placeholders for their contents; a call without words has none, as templates look whether it has."""
    return [
        row if row.get("tool_calls") and not row["content"].strip() else row | {"content": f"{OPEN}{at}{CLOSE}"}
        for at, row in enumerate(rows)
    ]


def _trimmed(held: Rows, render: Callable[[Rows], str]) -> frozenset[int]:
    """The contents around which the template strips white space."""
    spaced = render([row | {"content": f" {row['content']} "} if row["content"] else row for row in held])
    return frozenset(at for at, row in enumerate(held) if row["content"] and f" {row['content']} " not in spaced)


def _parts(text: str, trimmed: frozenset[int], rows: Rows) -> Parts:
    """Cut a text with placeholders into markup and slots."""
    found: list[str | Slot] = list(SLOT.split(text))  # markup, number, markup, ...
    for index in range(1, len(found), 2):
        number = int(str(found[index]))
        own = number == len(rows) or rows[number]["role"] == "assistant"
        found[index] = Slot(number, number in trimmed, own)
    return tuple(found)
