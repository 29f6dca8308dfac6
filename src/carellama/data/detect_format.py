"""Which format a file has: its row format with its columns, or the layout of a known dataset.

    found = detect_file(Path("clinic.csv"))     # FileFormat(row_format="alpaca", columns=Columns(prompt="问", ...))

This is the one place of the decision: `data check`, `convert`, `view`, `stats`, `clean` and `--dataset` all ask it. The
format that fits most of the first rows is the file's; the rows that it does not fit are counted where they are read.
What the file or its folder is called does not matter. Where two readings are possible `problem` says so, with the
entry of dataset_info.json that chooses one.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from carellama.data.catalogue.layout import Layout
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.column_names import LETTERS_ONLY, Columns, has_options, lower_names, option_cells, turns_in
from carellama.data.convert import texts_of
from carellama.data.exam_answers import AnswerForm
from carellama.data.file_format import FileFormat, RowFormat, format_of
from carellama.data.guess_columns import Guess, chat_columns, exam_columns, other_order, text_columns, turn_columns
from carellama.data.nearest_format import advice, table_reason
from carellama.data.readers import BadRow, Row, kind_of, rows
from carellama.data.speakers import FAMILIES, Speakers, is_marked, named, speaker_evidence
from carellama.data.write import COLUMNS as WRITTEN
from carellama.errors import UserError
from carellama.records import BadRecord, Chat, Pair, Place, Question, Record, Text

FIRST_ROWS = 100  # of which the format is seen
TEXT_ROW = {"text", "meta", "id", "title"}  # the columns of a row that is a text, whatever an entry says
SURE_FIELDS = 3  # columns by which a layout is believed though no row becomes a record
BESIDE_OPTIONS = ("prompt-cblue", "imcs-report-pairs")  # layouts whose options are the labels of a task
COMPARED_ROWS = 20  # whose texts are looked for in the records of a layout
TELLING_CHARS = 6  # of a text that can be looked for; shorter ones are letters, labels and identifiers
ROLE_KEYS = ("role", "from", "speaker")  # of a turn: what they hold is no text of it
MOST_LINES = 5  # named of the first rows that another format has
STAGE_KINDS: dict[str, type[Text] | type[Chat] | type[Pair] | type[Question]] = {
    "pt": Text, "sft": Chat, "rm": Pair, "exam": Question,
}  # fmt: skip
STAGE_FORMATS: dict[str, RowFormat] = {"pt": "text", "sft": "alpaca", "rm": "alpaca", "exam": "exam"}


@dataclass(frozen=True)
class Declared:
    """What an entry of dataset_info.json says of the format; None: nothing, so it is detected."""

    columns: Columns | None = None
    row_format: RowFormat | None = None
    speakers: Speakers | None = None
    answer_form: AnswerForm | None = None
    left_out: frozenset[str] = frozenset()  # keys of `columns` that are "": there is no such column


def detect_file(path: Path, declared: Declared | None = None) -> FileFormat:
    """Detect the format of a file from its first rows. Raises `UserError` for a file that cannot be read at all."""
    declared = declared or Declared()
    if declared.columns is not None or declared.row_format is not None:
        expected = declared.columns.used if declared.columns else ()
        return detect_rows(first_rows(path, expected), declared, path.name)
    try:
        kind = kind_of(path)
    except UserError:  # the type is not one of rows: only layouts read it
        found = _of_layouts(path, ())
        if found is None:
            raise
        return found
    first = first_rows(path)
    if kind == "txt":
        found = _of_layouts(path, (), is_text=True) if first else None
        if found:
            return replace(found, seen=max(found.seen, len(first)))
        if unclear := table_reason(first, path.name):
            return FileFormat(seen=len(first), problem=unclear, unclear=True)
        return detect_rows(first, declared, path.name)
    plain = detect_rows(first, declared, path.name)
    usable = [row for row in first if isinstance(row, Row)]
    fits = plain.seen - plain.others if plain.row_format is not None else 0
    if plain.unclear or 2 * fits >= max(1, len(usable)):
        return plain
    found = _of_layouts(path, usable, plain.columns.used if plain.row_format else ())
    if found is not None and (found.seen - found.others > fits or (found.problem and not fits)):
        return replace(found, seen=max(found.seen, plain.seen))
    return plain


def first_rows(path: Path, expected: Collection[str] = ()) -> list[Row | BadRow]:
    """The first rows; of a file that breaks off within them, those up to there (reading on says where)."""
    found: list[Row | BadRow] = []
    try:
        found.extend(itertools.islice(rows(path, expected), FIRST_ROWS))
    except UserError:
        if not found:
            raise
    return found


def detect_rows(first: Sequence[Row | BadRow], declared: Declared | None = None, name: str = "") -> FileFormat:
    """Detect the format of the rows that a file begins with; `problem` says why where it is not known."""
    declared = declared or Declared()
    rows = [row for row in first if isinstance(row, Row)]
    readings = [_declared(rows, declared)] if declared.columns is not None else _candidates(rows, declared)
    best: FileFormat | None = None
    for row_format, guess in readings:
        columns, unclear, choices = _settle(rows, row_format, guess, declared)
        found = _fitted(rows, FileFormat(row_format, columns))
        if best is None or found.seen - found.others > best.seen - best.others:
            best = replace(found, problem=unclear and advice(name, unclear, choices))
    if best is None or best.row_format is None:
        bad = next((row for row in first if isinstance(row, BadRow)), None)
        return FileFormat(seen=len(rows), problem=advice(name, "", {}, rows, bad))
    if best.problem:
        return replace(best, row_format=None, unclear=True)
    names = tuple(dict.fromkeys(name for row in rows for name in row.fields))
    return replace(best, names=names, left_out=None if declared.columns is None else declared.left_out)


def _candidates(rows: Sequence[Row], declared: Declared) -> list[tuple[RowFormat, Guess]]:
    """The formats that some of the rows have, that of most rows first, each with the columns of those rows."""
    groups: dict[RowFormat, list[Row]] = {}
    for row in rows:
        row_format = declared.row_format or format_of(row.fields)
        if row_format is not None:
            groups.setdefault(row_format, []).append(row)
    found: list[tuple[RowFormat, Guess]] = []
    for row_format, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        guess = _columns_for(row_format, group, groups.get("alpaca", ()))
        if guess is not None and declared.row_format and guess.choices.get("formatting") == declared.row_format:
            guess = Guess(replace(guess.columns, options=()))  # the entry has chosen
        if guess is not None and declared.row_format == "text":
            guess = Guess(guess.columns)
        exam = exam_columns(group) if row_format == "alpaca" and not declared.row_format else None
        if exam is not None and _mostly_exam(group, exam):
            row_format, guess = "exam", exam
        if guess is None and declared.row_format:
            guess = Guess(Columns(history="history", system="system"))
        if guess is not None:
            found.append((row_format, guess))
    return found


def _mostly_exam(rows: Sequence[Row], guess: Guess) -> bool:
    """Whether most of the rows, whose options are in their questions, have bare letters as answer."""
    answers = [row.fields.get(guess.columns.response or "") for row in rows]
    return 2 * sum(isinstance(one, str) and bool(LETTERS_ONLY.fullmatch(one.upper())) for one in answers) > len(rows)


def _columns_for(row_format: RowFormat, rows: Sequence[Row], alpaca: Sequence[Row]) -> Guess | None:
    if row_format == "exam":
        return exam_columns(rows)
    if row_format in ("sharegpt", "openai"):
        columns = Counter(found[0] for row in rows if (found := turns_in(row.fields)))
        if not columns:
            return None
        return turn_columns(rows, columns.most_common(1)[0][0], chat_columns(alpaca) if alpaca else None)
    return text_columns(rows) if row_format == "text" else chat_columns(rows)


def _declared(rows: Sequence[Row], declared: Declared) -> tuple[RowFormat, Guess]:
    """The format of rows whose columns an entry names."""
    columns = declared.columns
    assert columns is not None
    if declared.row_format is not None:
        if declared.row_format == "alpaca" and columns.options is None:
            columns = replace(columns, options=())  # who writes the format wants it, options or not
        if declared.row_format == "exam" and columns.options is None:
            seen = exam_columns(rows)
            columns = replace(columns, options=seen.columns.options if seen else ())
        return declared.row_format, Guess(columns)
    turns = Counter(
        found[1] for row in rows if (found := turns_in(row.fields, [columns.messages] if columns.messages else ()))
    )
    if 2 * turns.total() > len(rows) and (columns.messages or not _has_prompt(rows, columns)):
        return ("openai" if turns.most_common(1)[0][0] == "openai" else "sharegpt"), Guess(columns)
    if columns.options is not None:
        return "exam", Guess(columns)
    if columns.messages and rows:
        return "sharegpt", Guess(columns)
    if 2 * sum(has_options(row.fields) for row in rows) > len(rows):
        exam = exam_columns(rows)
        if exam is not None and columns.prompt in (None, exam.columns.prompt):
            choices = {"formatting": "exam"}
            return "exam", Guess(exam.columns, "the rows have options, which the entry's columns do not name", choices)
    if rows and not _has_prompt(rows, columns) and all(row.fields.keys() <= TEXT_ROW for row in rows):
        return "text", Guess(columns)
    if columns.response is None and not (columns.chosen and columns.rejected and lower_names(rows).get(columns.chosen)):
        return "text", Guess(columns)
    if columns.response and (order := other_order(rows, lower_names(rows), columns.response)):
        why = f"{columns.response!r} holds ranked answers, and {order!r} another order: sort them, best first"
        return "alpaca", Guess(columns, why)
    return "alpaca", Guess(columns)


def _has_prompt(rows: Sequence[Row], columns: Columns) -> bool:
    return any(columns.prompt in row.fields for row in rows)


def _settle(
    rows: Sequence[Row], row_format: RowFormat, guess: Guess, declared: Declared
) -> tuple[Columns, str, Mapping[str, object]]:
    """The columns with what the entry says or the rows show of marks and answers; why they are not clear; the keys."""
    columns, unclear, choices = guess.columns, guess.unclear, guess.choices
    if declared.answer_form is not None:
        columns = replace(columns, answer_form=declared.answer_form)
        unclear = "" if "answer_form" in choices else unclear
    elif row_format == "exam" and declared.columns is not None and columns.options is not None:
        seen = exam_columns([Row(_renamed(row, columns), row.place) for row in rows])
        if seen is not None and seen.columns.options == ("options",):
            columns = replace(columns, answer_form=seen.columns.answer_form)
            if "answer_form" in seen.choices:
                unclear, choices = seen.unclear, seen.choices
    if declared.speakers is not None:
        return replace(columns, speakers=declared.speakers), unclear, choices
    if row_format == "text":
        texts = [_texts(row, columns)[0] for row in rows]
        if (declared.columns, declared.row_format) == (None, None) and 2 * sum(map(is_marked, texts)) > len(rows):
            evidence = speaker_evidence([(text, "", "") for text in texts])
            why = f"the texts hold turns with the marks {', '.join(evidence.marks)}: conversations, or plain text?"
            return columns, why, {"speakers": _by_mark(evidence.marks)}
        return replace(columns, speakers=()), unclear, choices
    if row_format != "alpaca":
        return columns, unclear, choices
    evidence = speaker_evidence([_texts(row, columns) for row in rows])
    if evidence.unclear > evidence.rows and 2 * evidence.unclear > len(rows):
        why = f"the questions hold the speaker marks {', '.join(evidence.marks)} behind other text"
        return columns, why, {"speakers": _by_mark(evidence.marks)}
    if evidence.rows and evidence.rows >= evidence.transcripts:
        return replace(columns, speakers=evidence.speakers), unclear, choices
    return replace(columns, speakers=()) if evidence.transcripts else columns, unclear, choices


def _renamed(row: Row, columns: Columns) -> dict[str, object]:
    """The fields of an exam row under the usual names."""
    names = {"question": columns.prompt, "answer": columns.response, "explanation": columns.explanation}
    found = {usual: row.fields.get(name or "") for usual, name in names.items()}
    return found | {"options": option_cells(row.fields, columns.options or ())}


def _by_mark(marks: Iterable[str]) -> dict[str, str]:
    """Who speaks behind each mark, as an entry of dataset_info.json says it."""
    askers = {name for users, _ in FAMILIES for name in users}
    return {mark: "user" if named(mark) in askers else "assistant" for mark in marks}


def _texts(row: Row, columns: Columns) -> tuple[str, str, str]:
    found = [row.fields.get(name) if name else "" for name in (columns.prompt, columns.query, columns.response)]
    prompt, query, answer = (value if isinstance(value, str) else "" for value in found)
    return prompt, query, answer


def _fitted(rows: Sequence[Row], found: FileFormat) -> FileFormat:
    """The format with what it does with the first rows: the kind of most records, rows that do not fit, columns."""
    kinds: list[type[Record] | None] = []
    for row in rows:
        try:
            kinds.append(type(found.record(row)))
        except BadRecord:
            kinds.append(None)
    most = Counter(kind for kind in kinds if kind is not None).most_common(1)
    kind = most[0][0] if most else None
    missed = [row.place.line for row, own in zip(rows, kinds, strict=True) if own is None or own is not kind]
    names = dict.fromkeys(name for row in rows for name, value in row.fields.items() if value not in (None, "", [], {}))
    used = found.columns.used | found.not_lost
    return replace(
        found, kind=kind, others=len(missed), other_lines=tuple(missed[:MOST_LINES]), seen=len(rows),
        unit=rows[0].place.unit if rows else "line",
        unused=tuple(name for name in names if name not in used),
    )  # fmt: skip


def _of_layouts(
    path: Path, first: Sequence[Row], usual: Collection[str] = (), *, is_text: bool = False
) -> FileFormat | None:
    """The layout by which most of a file's first rows become records; None where none does.

    Where no row becomes a record, a layout is named that asks for other columns than the `usual` ones of a row format.
    """
    common = set(lower_names(first).values())
    fits: dict[str, _Tried] = {}
    empty: dict[str, str] = {}  # layouts that a file has, by which no row becomes a record, and why
    optioned = 2 * sum(has_options(row.fields) for row in first) > len(first)
    for name, layout in LAYOUTS.items():
        if optioned and layout.stage != "exam" and name not in BESIDE_OPTIONS:
            continue
        if (is_text and name in ("lines", "text-rows")) or not _may_have(path, common, layout):
            continue
        own = _Tried(1, 1) if name == "document" else _tried(path, layout)  # a document is not read twice
        if own.made:
            fits[name] = own
        elif layout.recognises is not None or (
            len(layout.fields) >= SURE_FIELDS and not set(layout.fields) <= set(usual)
        ):
            empty[name] = own.reason
    if not fits:
        problems = (f"it has the layout {name}, by which no row becomes a record: {empty[name]}" for name in empty)
        return FileFormat(problem=next(problems)) if empty else None
    # of layouts that fit alike, the one that asks for most columns
    best = max(fits, key=lambda name: (fits[name].made, len(LAYOUTS[name].fields)))
    stage = LAYOUTS[best].stage
    also = tuple(name for name in fits if name != best and fits[name].made == fits[best].made)
    own = fits[best]
    unused, partly = _columns_lost(own.records, first) if LAYOUTS[best].record is not None else ((), ())
    return FileFormat(
        STAGE_FORMATS[stage], replace(WRITTEN, speakers=()), STAGE_KINDS[stage], best, also, unused, partly,
        seen=own.rows, others=own.rows - own.made,
    )  # fmt: skip


def _columns_lost(
    made: Mapping[Place, Sequence[Record]], first: Sequence[Row]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns with texts of which none comes into the records that a layout made of the first rows, and those with
    lists of texts of which some do not."""
    kept: dict[str, bool] = {}
    partly: dict[str, None] = {}
    for row in first[:COMPARED_ROWS]:
        records = made.get(row.place)
        if not records:
            continue
        text = squeezed(" ".join(part for record in records for part in (*texts_of(record), *record.meta.values())))
        for name, value in row.fields.items():
            if parts := [end for part in leaves(value) for line in part.splitlines() if (end := telling_end(line))]:
                found = [part in text for part in parts]
                kept[name] = kept.get(name, False) or any(found)
                if isinstance(value, list) and not all(found):
                    partly[name] = None
    lost = tuple(name for name, is_kept in kept.items() if not is_kept)
    return lost, tuple(name for name in partly if kept[name])


def leaves(value: object) -> Iterator[str]:
    """Yield the texts of a value, also within lists and objects; not who speaks them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        parts = [part for key, part in value.items() if key not in ROLE_KEYS] if isinstance(value, dict) else value
        for part in parts:
            yield from leaves(part)


def squeezed(text: str) -> str:
    """Return a text without white space, in lower case, so that layouts may rewrap it."""
    return "".join(text.split()).lower()


def telling_end(line: str) -> str:
    """Return the last words of a line, behind which no speaker's mark stands; "" where it has too few signs."""
    words = re.findall(r"\w+", squeezed(line)) if len(squeezed(line)) >= TELLING_CHARS else []
    return words[-1][-TELLING_CHARS:] if words and len(words[-1]) > 1 else ""


def _may_have(path: Path, names: set[str], layout: Layout) -> bool:
    if layout.recognises is None:
        return set(layout.fields) <= names if names else False
    try:
        return layout.recognises(path)
    except UserError:
        return False


@dataclass
class _Tried:
    """What a layout makes of the first rows of a file."""

    made: int = 0  # rows that become records
    rows: int = 0
    reason: str = ""  # why the first row that becomes none does not
    records: dict[Place, tuple[Record, ...]] = field(default_factory=dict)  # of the first rows, by their place


def _tried(path: Path, layout: Layout) -> _Tried:
    tried = _Tried()
    try:
        for outcome in itertools.islice(layout.convert(path), FIRST_ROWS):
            tried.rows += 1
            if isinstance(outcome, BadRecord):
                tried.reason = tried.reason or outcome.reason
                continue
            tried.made += 1
            if outcome and tried.rows <= COMPARED_ROWS:
                tried.records[outcome[0].place] = outcome
    except UserError as error:
        tried.reason = tried.reason or str(error).removeprefix(f"{path}").strip(" :")
    return tried
