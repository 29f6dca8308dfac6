"""Columns of rows by their names: which hold questions, answers, options, turns, texts, and what a row itself shows.

    first_of(names_of("questions"), lower_names(rows))      # "Question"
    has_options(row.fields)                     # whether it is an exam question

The columns of a whole file are guessed by `carellama.data.guess_columns`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from carellama.data.csv_reader import SIMPLIFIED
from carellama.data.exam_answers import AnswerForm
from carellama.data.exam_options import options_of, unpacked
from carellama.data.readers import Row
from carellama.data.speakers import Speakers
from carellama.package_data import flat_terms, package_yaml
from carellama.records import BadRecord, JSONObject


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; None: there is no such column (`""` in dataset_info.json).

    A name with dots that is no column is a path into objects: "data.question".
    """

    prompt: str | None = "instruction"  # of a text: the text; of an exam: the question
    query: str | None = "input"  # more of the question
    response: str | None = "output"  # of an exam: the answer
    history: str | None = None
    system: str | None = None
    chosen: str | None = "chosen"
    rejected: str | None = "rejected"
    messages: str | None = None  # the list of a sharegpt or openai row
    good: str | None = None  # true or false: whether a person found the answer good
    context: str | None = None  # a passage that the question is about; goes before it
    options: tuple[str, ...] | None = None  # of an exam: one column, or one for each; (): they are in the question
    explanation: str | None = None
    id: str | None = None
    answer_check: str | None = None  # a second column with the answer, which must agree
    answer_form: AnswerForm = "letters"
    speakers: Speakers | None = None  # marks in the question that part turns; (): there are none; None: refuse them

    @property
    def used(self) -> set[str]:
        """The columns of a row that a record is made of."""
        single = (
            self.prompt, self.query, self.response, self.history, self.system, self.chosen, self.rejected,
            self.messages, self.good, self.context, self.explanation, self.id, self.answer_check,
        )  # fmt: skip
        named = {*filter(None, single), *(self.options or ())}
        return named | {name.partition(".")[0] for name in named}


EXAM = Columns(
    prompt="question", query=None, response="answer", options=("options",), explanation="explanation", id="id"
)
NONE = Columns(None, None, None, None, None, None, None)

DATA = "data/column_names.yaml"
OPTION_COLUMN = re.compile(r"(op|opt|option|choice|ending|选项|备选)?[ _.\-]?([a-j]|10|[0-9])")
NAME_PARTS = re.compile(r"[\s\-_]+|(?<=[a-z0-9])(?=[A-Z])")
ADDED_LATE = ("system", "good", "history", "query", "context", "explanation")  # the rest changes what a row is
LETTERS_ONLY = re.compile(r"\W*[A-H](?:\W*[A-H])*\W*")  # the answers of an exam


@cache
def names_of(kind: str) -> tuple[str, ...]:
    """The names by which a kind of column is known, likeliest first: those of `column_names.yaml`."""
    return tuple(flat_terms(package_yaml(DATA)[kind]))


def query_names(prompt: str | None) -> tuple[str, ...]:
    """The names of a column that has more of the question, beside a prompt of this name."""
    return tuple(package_yaml(DATA)["queries"].get(plain_name(prompt or ""), ()))


@cache
def verdict_words() -> Mapping[str, bool]:
    """What says in a row that an answer is good (True) or bad."""
    return {word: kind == "good" for kind, words in package_yaml(DATA)["verdict_words"].items() for word in words}


def plain_name(name: str) -> str:
    """A column's name as the known ones are written: "Correct Answer" and "correctAnswer" are "correct_answer"."""
    return NAME_PARTS.sub("_", name.strip()).lower().translate(SIMPLIFIED)


def lower_names(rows: Sequence[Row], *, share: float = 0.5) -> dict[str, str]:
    """The columns that so many of the rows have, by their plain names."""
    counts = Counter(name for row in rows for name in row.fields)
    return {plain_name(name): name for name, count in reversed(counts.items()) if count >= share * len(rows)}


def first_of(known: Iterable[str], among: Mapping[str, str]) -> str | None:
    """The column that has the likeliest of some names."""
    return next((among[name] for name in known if name in among), None)


@lru_cache(maxsize=256)
def option_columns(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Columns that may hold options: one that holds them all, or several ("opa", "opb", ...) that hold one each."""
    lower = {plain_name(name): name for name in reversed(names)}
    found: list[tuple[str, ...]] = [(lower[name],) for name in names_of("options") if name in lower]
    groups: dict[str, dict[str, str]] = {}
    for name, column in lower.items():
        match = OPTION_COLUMN.fullmatch(name)
        if match and (match[1] or match[2].isalpha()):
            groups.setdefault(match[1] or "", {})[match[2]] = column
    for prefix, group in groups.items():
        for first in ("abcdefghij", [str(number) for number in range(10)], [str(number) for number in range(1, 11)]):
            columns = []
            for end in first:
                if end not in group:
                    break
                columns.append(group[end])
            if len(columns) >= (2 if prefix or columns == ["A", "B"] else 3):
                found.append(tuple(columns))
                break
    return tuple(found)


def options_in(fields: Mapping[str, object], columns: tuple[str, ...]) -> dict[str, str]:
    """The options of a row by letter; {} where it has none."""
    options = options_of(option_cells(fields, columns))
    return options if len(options) > 1 else {}


def option_cells(fields: Mapping[str, object], columns: Sequence[str]) -> object:
    """What holds the options of a row: the value of one column, or those of several."""
    return fields.get(columns[0]) if len(columns) == 1 else [fields.get(name) for name in columns]


def has_options(fields: Mapping[str, object]) -> bool:
    """Whether a row has options: then it is an exam question, whatever else it has."""
    return any(options_in(fields, columns) for columns in option_columns(tuple(fields)))


def with_late_columns(
    row: Row, columns: Columns, seen: Collection[str], row_format: str, left_out: Collection[str] | None = None
) -> Columns:
    """The columns of a row with those that none of the first rows had; `BadRecord` for one that would be lost.

    `left_out` are the keys that an entry of dataset_info.json says there is no column for. It names all others, so that
    none is added to them; None: no entry names any.
    """
    for name in row.fields:
        if name in seen or name in columns.used or row.fields[name] in (None, "", []):
            continue
        key = _late_key(plain_name(name), columns, row_format)
        if key is None:
            continue
        free = getattr(columns, key) is None
        if left_out is None and free and key in ADDED_LATE:
            own: JSONObject = {key: name}
            columns = replace(columns, **own)
        elif left_out is None or (free and key not in left_out):
            reason = f"column {name!r} is not in the first rows, so it would be lost"
            or_not = f', or leave it out with "{key}": ""' if left_out is not None else ""
            raise BadRecord(row.place, reason, f'name it under "columns" in dataset_info.json{or_not}')
    return columns


def _late_key(plain: str, columns: Columns, row_format: str) -> str | None:
    """What a column that begins after the first rows holds, by its plain name; None where nothing is known of it."""
    option = OPTION_COLUMN.fullmatch(plain)
    if plain in names_of("systems"):
        return "system"
    if plain in names_of("verdicts")[2:] or plain == "good":
        return "good"
    if row_format in ("sharegpt", "openai"):
        if plain in ("chosen", "rejected"):
            return plain
        return "chosen" if plain in names_of("chosen") + names_of("rejected") else None
    if plain in names_of("histories") and row_format == "alpaca":
        return "history"
    if plain in query_names(columns.prompt) and columns.query is None:
        return "query"
    if plain in names_of("contexts") and row_format != "text":
        return "context"
    if plain in names_of("explanations") and row_format == "exam":
        return "explanation"
    if plain in names_of("options") or (option and (option[1] or option[2].isalpha())):
        return "options"
    if plain in names_of("chosen") + names_of("rejected"):
        return "chosen" if plain in names_of("chosen") else "rejected"
    late = any(plain in names_of(kind) for kind in ("questions", "contexts"))
    return "prompt" if late or plain == "input" else None


def unread_options(fields: Mapping[str, object]) -> str | None:
    """The column of a row that is called as options are and holds something that is not read as options."""
    columns = option_columns(tuple(fields))
    column = columns[0][0] if columns and len(columns[0]) == 1 else None
    return column if column is not None and fields[column] not in (None, "", [], {}) else None


def may_be_exam(fields: Mapping[str, object]) -> bool:
    """Whether a row has options, or a column that may hold some: it is not trained as a question with an answer."""
    return bool(option_columns(tuple(fields))) and (has_options(fields) or unread_options(fields) is not None)


def turns_in(fields: Mapping[str, object], columns: Iterable[str] = ()) -> tuple[str, str] | None:
    """(column, row format) of a list of turns; None where a row has none. An empty list is none."""
    lower = {plain_name(name): name for name in reversed(list(fields))}
    for name in (*columns, *(lower[name] for name in names_of("turns") if name in lower)):
        value = unpacked(fields.get(name))
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and ("role" in first or "from" in first):
            return name, "openai" if "role" in first else "sharegpt"
    return None
