"""Which columns of a file hold what, guessed from their names, or which dataset of the catalogue lays files out so.

    guess = guessed(path, first_rows)           # Guess(shape="alpaca", columns=Columns(prompt="问", ...))

The guess is only offered (by `carellama data check`): training reads what `dataset_info.json` says.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from carellama.data.catalogue.entries import entries
from carellama.data.catalogue.layout import Layout
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.convert import BadRecord, Columns, convert, shape_of
from carellama.data.read import Row, digest, kind_of
from carellama.data.read import rows as read_rows
from carellama.errors import UserError
from carellama.records import Record

# Names by which a column is known, likeliest first; compared in lower case.
PROMPTS = (
    "instruction",
    "question",
    "query",
    "ask",
    "prompt",
    "问",
    "问题",
    "提问",
    "患者提问",
    "q",
    "input",
    "text",
    "title",
)
RESPONSES = ("output", "response", "answer", "reply", "completion", "target", "答", "答案", "回答", "医生回答", "a")
QUERIES = {"instruction": ("input",), "title": ("ask", "question", "content"), "prompt": ("input",)}
CHOSEN = ("chosen", "response_chosen", "better", "accepted")
REJECTED = ("rejected", "response_rejected", "worse", "refused")
HISTORIES = ("history",)
SYSTEMS = ("system", "system_prompt")
TEXTS = ("text", "content", "正文", "内容", "document", "passage", "paragraph", "body")
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns")
OPTIONS = {"option", "options", "choices", "opa", "op1"}  # an exam: a question without them is not the question
LETTERS = re.compile(r"\W*[A-H](?:\W*[A-H])*\W*")  # an exam's answers, whose options are in the question
TRIED = 20  # rows of a file by which a layout is tried


@dataclass(frozen=True)
class Guess:
    """How the rows of a file become records."""

    shape: str | None = None  # None: none that is known, or that of the catalogue's dataset
    columns: Columns = field(default_factory=Columns)
    layout: Layout | None = None
    datasets: tuple[str, ...] = ()  # NAME or NAME:PART of the catalogue, the likeliest first

    @property
    def mapping(self) -> dict[str, str]:
        """What is in which column, for people."""
        columns = self.columns
        if self.shape == "exam":
            return {"question": "question", "options": "options", "answer": "answer"}
        if self.shape == "text":
            return {"text": columns.prompt or "text"}
        if self.shape in ("sharegpt", "openai"):
            named = {"turns": columns.messages, "system": columns.system}
        else:
            named = {
                "question": columns.prompt, "more of it": columns.query, "answer": columns.response,
                "history": columns.history, "system": columns.system,
            }  # fmt: skip
        if columns.chosen and not (self.shape == "alpaca" and columns.response):
            named |= {"better answer": columns.chosen, "worse answer": columns.rejected}
        return {key: name for key, name in named.items() if name}

    def entry(self, path: Path, *, ranking: bool) -> dict[str, Any] | None:
        """The entry of dataset_info.json that reads the file so; None where it has to be converted first."""
        if self.shape is None:
            return None
        found: dict[str, Any] = {"file_name": path.name, "file_sha1": digest(path), "formatting": self.shape}
        columns = self.columns
        if self.shape != "exam":
            kept = {"prompt": columns.prompt, "query": columns.query, "response": columns.response,
                    "history": columns.history}  # fmt: skip
            found["columns"] = {key: name or "" for key, name in kept.items()}
            more = {"system": columns.system, "messages": columns.messages}
            if ranking and not columns.response:
                more |= {"chosen": columns.chosen, "rejected": columns.rejected}
            found["columns"] |= {key: name for key, name in more.items() if name}
        return found | {"ranking": True} if ranking else found


def guessed(path: Path, first_rows: Sequence[Row]) -> Guess:
    """How a file is read: a common shape where one row at least has it, else a layout of the catalogue."""
    fields = Counter(name for row in first_rows for name in row.fields)
    names = [name for name, count in fields.items() if 2 * count >= len(first_rows)]
    guess = _plain(first_rows, names, list(fields))
    text_file = kind_of(path) == "txt"
    if guess.shape is not None and not text_file and any(_fits(guess, row) for row in first_rows):
        return replace(guess, datasets=_also(path, first_rows[0]))
    found = _of_catalogue(path, first_rows, text_file)
    if found is not None:
        return found
    return guess if guess.shape is not None or not text_file else Guess()


def _fits(guess: Guess, row: Row) -> bool:
    try:
        outcome(guess, row)
    except BadRecord:
        return False
    return True


def _also(path: Path, first: Row) -> tuple[str, ...]:
    """The dataset of the catalogue that a file of a common shape is likely of, by its columns and what it is called."""
    for unlikely, dataset, name in _layouts(path):
        layout = LAYOUTS.get(name)
        if all(unlikely) or layout is None or layout.recognises is not None or layout.rows is not read_rows:
            continue
        if layout.fields and set(layout.fields) <= set(first.fields):
            return (dataset,)
    return ()


def _plain(first_rows: Sequence[Row], names: Sequence[str], all_names: Sequence[str]) -> Guess:
    """The common shape of rows with these columns (in half of the rows at least; `all_names`: in any)."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    anywhere = {name.strip().lower(): name for name in reversed(all_names)}

    def named(known: Sequence[str], among: dict[str, str] = lower) -> str | None:
        return next((among[name] for name in known if name in among), None)

    system, chosen, rejected = named(SYSTEMS, anywhere), named(CHOSEN), named(REJECTED)
    both = (chosen, rejected) if chosen and rejected else (None, None)
    for turns in (lower[name] for name in TURNS if name in lower):
        row = next((row for row in first_rows if isinstance(row.fields.get(turns), list)), None)
        if row is not None:
            columns = Columns(None, None, None, None, system, both[0], both[1], turns)
            return Guess(shape_of(row, columns), columns)
    if OPTIONS & set(lower) or {"a", "b", "c", "d"} <= set(lower):
        return Guess("exam") if {"question", "options"} <= set(names) else Guess()
    response = named(RESPONSES)
    prompt = named([name for name in PROMPTS if lower.get(name) != response])
    answers = [str(row.fields.get(response)) for row in first_rows] if response else []
    if answers and all(map(LETTERS.fullmatch, answers)):
        return Guess()
    query = None
    if "title" in lower and named(QUERIES["title"]) is not None and response:
        prompt = lower["title"]
    if prompt:
        query = named(QUERIES.get(prompt.strip().lower(), ()))
    if prompt and (response or both[0]):
        history = named(HISTORIES, anywhere)
        return Guess("alpaca", Columns(prompt, query, response, history, system, *both))
    text = named(TEXTS)
    return Guess("text", Columns(text, None, None, None, None, None, None)) if text else Guess()


def _of_catalogue(path: Path, first_rows: Sequence[Row], text_file: bool) -> Guess | None:
    """The layout of the catalogue that a file has, or None: the first by which a row becomes a record.

    Datasets share layouts; the one in whose folder the file lies, or whose files are so called, comes first. A
    layout by which no row becomes a record (a test split without answers) is believed only of such a dataset.
    """
    datasets: dict[str, list[str]] = {}
    likely: set[str] = set()
    for unlikely, dataset, name in _layouts(path):
        datasets.setdefault(name, []).append(dataset)
        likely |= set() if all(unlikely) else {name}
    fitting = [name for name in datasets if _has(path, first_rows, LAYOUTS.get(name), text_file)]
    chosen = next((name for name in fitting if _converts(path, LAYOUTS[name])), None)
    chosen = chosen or next((name for name in fitting if name in likely), None)
    return None if chosen is None else Guess(layout=LAYOUTS[chosen], datasets=tuple(datasets[chosen]))


def _has(path: Path, first_rows: Sequence[Row], layout: Layout | None, text_file: bool) -> bool:
    if layout is None or (text_file and layout.stage == "pt"):
        return False
    if layout.recognises is None and layout.rows is read_rows:  # no need to open the file again
        return bool(first_rows) and set(layout.fields) <= set(first_rows[0].fields)
    try:
        return layout.fits(path)
    except UserError:
        return False


def _converts(path: Path, layout: Layout) -> bool:
    if layout.joined is not None:
        return False
    try:
        return any(not isinstance(found, BadRecord) for found in itertools.islice(layout.convert(path), TRIED))
    except UserError:
        return False


def _layouts(path: Path) -> list[tuple[tuple[bool, bool], str, str]]:
    """(are folder and file called otherwise, NAME or NAME:PART, layout) of the catalogue, the likeliest first."""
    found = []
    for name, entry in entries().items():
        for number, part in enumerate(entry.parts):
            patterns = [one for one in (*part.files, *part.held_out) if len(Path(one).stem.strip("*?_-.")) > 3]
            called = any(fnmatch.fnmatch(path.name, pattern.rpartition("/")[2]) for pattern in patterns)
            unlikely = (name not in path.absolute().parts, not called)
            found += [(unlikely, f"{name}:{part.name}" if number else name, layout) for layout in part.layouts]
    return sorted(found, key=lambda one: one[0])


def outcome(guess: Guess, row: Row) -> Record:
    """The record of a row read by a common shape; `BadRecord` where it has none."""
    if guess.shape is None:
        raise BadRecord(row.place, "no known shape")
    return convert(row, guess.columns, guess.shape)
