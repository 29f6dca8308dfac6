"""What to do with rows of no known or no clear format: the columns, the nearest format, the entry to try.

    advice("clinic.jsonl", "", {}, rows)

Only names of columns are told, never a value; in a table without a header the first row's texts stand where names
should, so that the names of a table are told only where one of them is known.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from carellama.data import column_names as known
from carellama.data.column_names import NONE, Columns, first_of, lower_names
from carellama.data.readers import BadRow, Row
from carellama.text import counted

MOST_NAMES = 20  # columns that are named
LONGEST_NAME = 40
QUESTION_ENDS = ("question", "query", "ask", "prompt", "patient", "问")
ANSWER_ENDS = ("answer", "response", "reply", "output", "doctor", "答")
LIST_NUMBER = re.compile(r"\W*\w{1,4}\W*")
DEEPEST = 4  # objects within objects
KINDS = (
    *("prompts", "responses", "chosen", "rejected", "histories", "systems", "contexts", "texts", "turns", "stems"),
    *("options", "keys", "explanations"),
)


@cache
def _known_names() -> frozenset[str]:
    """All names by which a column is known."""
    return frozenset(name for kind in KINDS for name in known.names_of(kind))


def advice(
    name: str, unclear: str, choices: Mapping[str, object], rows: Sequence[Row] = (), bad: BadRow | None = None
) -> str:
    """Return one line: why the rows of a file are not read, and the entry of dataset_info.json to write."""
    if unclear and not choices:
        return unclear
    if unclear:
        first = {key: value[0] if isinstance(value, tuple) else value for key, value in choices.items()}
        return f"{unclear}; write in dataset_info.json {_entry(name, first)}{_other_choice(choices)}"
    if rows:
        return f"no known format: {nearest(name, rows)}"
    if bad is None:
        return "no row can be read"
    what = f"no row can be read: {bad.place.unit} {bad.place.line} is {bad.reason}"
    if bad.reason == "not an object":
        what += "; write each row as an object with named columns, such as question and answer"
    return what


def _other_choice(choices: Mapping[str, Any]) -> str:
    """The other value of a key that chooses between readings."""
    if "answer_form" in choices:
        return "".join(f', or "{form}"' for form in choices["answer_form"][1:])
    if "speakers" in choices:
        return ', or "speakers": {} to leave the marks in the text'
    if choices.get("formatting") == "alpaca":
        return " to leave it out, or write the options as a list"
    if choices.get("formatting") == "exam":
        return ', or "formatting": "alpaca" to leave the options out'
    if known.plain_name(choices["columns"].get("response") or "") in known.names_of("texts"):
        return ', or "formatting": "text" to leave the question out'
    return ", or the other column"


def _entry(name: str, more: Mapping[str, object]) -> str:
    stem = name.removesuffix(".gz").rpartition(".")[0] or name or "NAME"
    return json.dumps({stem: {"file_name": name or "FILE", **more}}, ensure_ascii=False)


def nearest(name: str, rows: Sequence[Row]) -> str:
    """Return the columns of the rows, and the entry that is likeliest to read them."""
    paths = text_paths(rows)
    if not _may_be_told(name, rows):
        count = len(lower_names(rows, share=0))
        how = "name them in the first line, such as question and answer, or in dataset_info.json (columns)"
        return f"{counted(count, 'column')}; {how}"
    if len(rows) == 1 and len(rows[0].fields) > 1 and all(isinstance(value, dict) for value in rows[0].fields.values()):
        return "the file is one object; rows stand in an array, or one a line"
    names = list(dict.fromkeys(path for row in rows for path in row.fields))
    if len(names) > MOST_NAMES:
        return f"{counted(len(names), 'column')}; name those of the question and the answer in dataset_info.json"
    told = ", ".join(repr(one[:LONGEST_NAME]) for one in names)
    if lists := [one for one in names if _holds_objects(rows, one)]:
        return (
            f"the columns are {told}; {lists[0][:LONGEST_NAME]!r} holds a list of objects that no format reads: write "
            "a row for each, with columns such as question and answer, or turns with role and content"
        )
    columns = _likely(paths)
    if columns is None:
        return f"the columns are {told}, and none of them holds a text"
    what = f"nearest: {'alpaca' if columns.response else 'text'}; try"
    response = columns.response or ""
    if not response and known.plain_name(columns.prompt or "") in known.names_of("questions"):
        what, response = f"none of them is known to hold the answer to {columns.prompt!r}: name it", "..."
    kept = {"prompt": columns.prompt, "query": "", "response": response, "history": ""}
    return f"the columns are {told}; {what} in dataset_info.json {_entry(name, {'columns': kept})}"


def table_reason(rows: Sequence[Row | BadRow], name: str) -> str:
    """Return why lines of text may be a table without a header, and what to write for either; "" where they are text.

    Tabs divide each of them alike, and behind a number at the beginning, as in a list, there are more."""
    cells = [str(row.fields.get("text", "")).strip().split("\t") for row in rows if isinstance(row, Row)]
    counts = {len(one) for one in cells}
    if len(cells) < 2 or len(counts) != 1 or counts <= {1}:
        return ""
    if counts == {2} and all(LIST_NUMBER.fullmatch(one[0]) for one in cells):
        return ""
    return (
        f"each line has {counts.pop()} columns, divided by tabs: name them in the first line, such as question and "
        f"answer, or to train on the lines as texts write in dataset_info.json {_entry(name, {'formatting': 'text'})}"
    )


def _holds_objects(rows: Sequence[Row], column: str) -> bool:
    """Whether a column of most rows is a list of objects."""
    values = [row.fields.get(column) for row in rows]
    held = [isinstance(value, list) and bool(value) and isinstance(value[0], dict) for value in values]
    return 2 * sum(held) > len(rows)


def _may_be_told(name: str, rows: Sequence[Row]) -> bool:
    """Whether the columns are sure to be names: those of a table are where one of them is known."""
    if not name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".xlsx", ".xls")):
        return True
    return any(column in _known_names() for column in lower_names(rows, share=0))


def text_paths(rows: Sequence[Row]) -> dict[str, int]:
    """Return where the texts of rows are, "data.question" in objects, and how many characters each holds in all."""
    sizes: Counter[str] = Counter()
    for row in rows:
        for path, text in _texts(row.fields, ""):
            sizes[path] += len(text)
    return dict(sizes)


def _texts(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value.strip():
        yield path, value
    elif isinstance(value, dict) and depth < DEEPEST:
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else str(key), depth + 1)


def _likely(paths: Mapping[str, int]) -> Columns | None:
    """The columns likeliest to hold a question and its answer, or a text."""
    by_end = {path.rpartition(".")[2].lower(): path for path in reversed(list(paths))}
    prompt = first_of(known.names_of("prompts"), by_end) or _ending(by_end, QUESTION_ENDS)
    others = {end: path for end, path in by_end.items() if path != prompt}
    response = first_of(known.names_of("responses"), others) or _ending(others, ANSWER_ENDS)
    if prompt is None and response is None:
        longest = max(paths, key=lambda path: paths[path], default=None)
        return None if longest is None else replace(NONE, prompt=longest)
    if prompt is None:
        rest = [path for path in paths if path != response]
        prompt = max(rest, key=lambda path: paths[path], default=None)
    return replace(NONE, prompt=prompt or response, response=response if prompt else None)


def _ending(names: Mapping[str, str], ends: Sequence[str]) -> str | None:
    return next((path for end in ends for name, path in names.items() if name.endswith(end)), None)
