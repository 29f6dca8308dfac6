"""MedDialog's raw text files: blocks of an id, what the patient wrote first, and one or more dialogues.

    for row in sessions(Path("2020.txt")): ...

A row is one conversation: {"id", "faculty", "description", "turns": [[speaker, text], ...]}. A block may hold several
(follow-up visits), each under a description of its own, and each is a row, so that each is counted. A further heading
"Dialogue" without a description goes on with the conversation: the site broke it where a form or a call stood between.
Blank lines are not kept.
It does not know who comes first: `layouts/dialogues.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from carellama.data.readers import BadRow, Row, kind_of, rows
from carellama.records import Place

ID = re.compile(r"id=(\d+)$")
SPEAKER = re.compile(
    r"(医生|病人|患者|Doctor|Patient)\s*[：:]$"
)  # alone on its line; a line that only contains one is text
HEADINGS = ("Doctor faculty", "Description", "Dialogue", "Diagnosis and suggestions")
# what the site wrote behind the last utterance, at times without a line break: a prescription, an appointment
PRESCRIPTION = re.compile(r"(?:(?:^|\n)\s*|(?<=[。！？；.!?]))疾病诊断：[^\n]*(?:\n\s*药品：[^\n]*)*\s*$")
APPOINTMENT = re.compile(r"[：:]?\s*预约医生：\s*\S{2,5}\s*$")


@dataclass
class _Session:
    """One dialogue as it is read: lines of what comes first, and turns of lines."""

    place: Place
    description: list[str] = field(default_factory=list)
    turns: list[tuple[str, list[str]]] | None = None  # None: there was no heading "Dialogue" yet
    stray: bool = False  # a line of the dialogue stands before any speaker
    closed: bool = False  # the doctor's summary stands behind it

    def row(self, number: str, faculty: list[str]) -> Row | BadRow:
        if self.turns is None:
            return BadRow(self.place, "a description without a dialogue", f"id {number}")
        if self.stray:
            return BadRow(self.place, "an utterance without a speaker", f"id {number}")
        if not self.turns:
            return BadRow(self.place, "a dialogue without an utterance", f"id {number}")
        turns = [[speaker, without_notes("\n".join(lines))] for speaker, lines in self.turns]
        fields = {"id": number, "faculty": " ".join(faculty), "description": "\n".join(self.description)}
        return Row({**fields, "turns": turns}, self.place)


def is_blocks(path: Path) -> bool:
    """Whether a text file begins with the id of a block."""
    if kind_of(path) != "txt":
        return False
    first = next(rows(path), None)
    return isinstance(first, Row) and ID.match(first.fields["text"].strip()) is not None


def sessions(path: Path) -> Iterator[Row | BadRow]:
    """Yield the dialogues of a file, each with the line its part begins at (a bare CR ends a line as well)."""
    number, heading = "", ""
    faculty: list[str] = []
    found: list[_Session] = []
    for line in rows(path):
        assert isinstance(line, Row), "text has no bad rows"
        text = line.fields["text"].strip()
        block = ID.match(text)
        if block is not None:
            for session in found:
                yield session.row(number, faculty)
            number, heading, faculty, found = block[1], "", [], []
        elif not number:
            yield BadRow(line.place, "text before the first id=")
        elif text in HEADINGS:
            heading = text
            if _begins(text, found):
                found.append(_Session(line.place))
            if text == "Dialogue" and found[-1].turns is None:
                found[-1].turns = []
            elif text == "Diagnosis and suggestions" and found:
                found[-1].closed = True
        elif heading == "Doctor faculty":
            faculty.append(text)
        elif heading == "Description":
            found[-1].description.append(text)
        elif heading == "Dialogue":
            _say(found[-1], text)
    for session in found:
        yield session.row(number, faculty)


def _begins(heading: str, found: list[_Session]) -> bool:
    """Whether a conversation begins at a heading. Descriptions that follow each other are one."""
    if heading == "Description":
        return not found or found[-1].turns is not None
    return heading == "Dialogue" and (not found or found[-1].closed)


def without_notes(text: str) -> str:
    """An utterance without the notes of the site that stand behind it (疾病诊断：, 药品：, 预约医生：)."""
    return APPOINTMENT.sub("", PRESCRIPTION.sub("", text)).strip()


def _say(session: _Session, line: str) -> None:
    """Add a line to a dialogue: it begins a turn, or goes on with the last."""
    assert session.turns is not None, "the heading was read"
    speaker = SPEAKER.match(line)
    if speaker is not None:
        session.turns.append((speaker[1], []))
    elif session.turns:
        session.turns[-1][1].append(line)
    elif not APPOINTMENT.fullmatch(line):
        session.stray = True
