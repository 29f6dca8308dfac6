"""`carellama data check`: what is in a file, every problem with its lines, and the entry of dataset_info.json for it.

    carellama data check clinic.jsonl --stage sft

An error is a row that training refuses, a warning a row that looks wrong and can be used. One pass over the rows, and
24 bytes of memory a row beside them. Nothing of the texts is printed, and nothing is mended: that is `clean`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from carellama.config.data_commands import CheckOptions
from carellama.config.reader import parse_options
from carellama.data.check.known_datasets import datasets_for
from carellama.data.check.report import Check, Problem, lines, to_dict
from carellama.data.check.text_issues import faults_of, question_and_answer, unended
from carellama.data.convert import BadRecord, texts_of
from carellama.data.datasets import INFO
from carellama.data.detect_format import STAGE_KINDS, detect_file, first_rows
from carellama.data.file_bytes import read_head
from carellama.data.file_format import KIND_NAMES
from carellama.data.file_type import ENCODING_NAMES, KNOWN, detect_file_type
from carellama.data.readers import BadRow, Row, is_data_file, rows
from carellama.errors import DataError, UserError
from carellama.files import refuse_existing, write_json
from carellama.records import Chat, Pair, Record
from carellama.text import language

MEASURED = 1000  # records whose language is measured, after which every tenth is
UNENDED_SHARE = 0.1  # of the answers: from here on that they do not end like sentences is a warning
# Details that tell of the form of a row; others may quote it, and texts are not printed.
FORMAL = re.compile(r"found \w+|turn \d+|column '[^']{1,40}' has \d+|\d+ under a header of \d+|Expecting|Unterminated")
QUOTES = re.compile(r"(turn \d+)( is '.*)")


def run(argv: Sequence[str]) -> None:
    """Check the files, print what was found, and leave with exit code 1 when something is wrong."""
    (arguments,) = parse_options((CheckOptions,), argv, "carellama data check FILE...", positional="files")
    paths = files_of(arguments.files)
    if arguments.report:
        refuse_existing(Path(arguments.report), paths, overwrite=arguments.overwrite, option="report")
    found = []
    for path in paths:
        found.append(checked(path, arguments))
        print("\n".join(lines(found[-1])), flush=True)
    if arguments.report:
        write_json(Path(arguments.report), [to_dict(check) for check in found])
    if any(check.errors or (arguments.strict and check.warnings) for check in found):
        raise SystemExit(1)


def files_of(names: Sequence[str]) -> list[Path]:
    """The files named, and those in the folders named. `UserError` for what is not there or cannot be checked."""
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
            known = [one for one in inside if is_data_file(one) and one.name != INFO]
            others = [str(one.relative_to(path)) for one in inside if one not in known]
            if others:
                shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
                print(f"{path}: {len(others)} not checked, as they hold no rows: {shown}")
            if not known:
                raise UserError(f"{path} holds no file that can be checked; known: {KNOWN}")
            found += known
        elif path.is_file():
            if not is_data_file(path):
                detect_file_type(path)  # raises where the content is no rows either
            found.append(path)
        else:
            raise UserError(f"no such file or folder: {path}")
    return found


def checked(path: Path, arguments: CheckOptions) -> Check:
    """Read a file once and judge each of its rows; a file that breaks off is judged up to there."""
    check = Check(path, most_shown=arguments.most_shown)
    try:
        check.kind, check.encoding = form_of(path)
        check.format = detect_file(path)
        first = [row for row in first_rows(path) if isinstance(row, Row)]
        check.datasets = datasets_for(path, check.format, first)
        names = Counter(tuple(row.fields) for row in first).most_common(1)
        check.columns = names[0][0] if names else ()
        judge = _Judge(check, arguments)
        for row in check.format.rows(path) if check.format.row_format else rows(path):
            judge.row(row)
        check.format = replace(check.format, columns=judge.columns, unused=tuple(judge.unused))
    except UserError as error:
        check.error(*_line_and_reason(error, path))
    if not check.rows and not check.errors:
        check.error(1, "the file holds no row")
    _finish(check)
    return check


class _Judge:
    """Counts what is wrong with the rows of one file."""

    def __init__(self, check: Check, arguments: CheckOptions) -> None:
        self.check = check
        self.arguments = arguments
        self.takes = STAGE_KINDS[arguments.stage] if arguments.stage else None
        self.columns = check.format.columns  # with those that begin after the first rows
        self.unused = dict.fromkeys(check.format.unused)

    def row(self, row: Row | BadRow) -> None:
        """Judge a row."""
        check = self.check
        check.rows += 1
        check.unit = row.place.unit
        if isinstance(row, BadRow):
            check.error(row.place, row.reason, _formal(row.detail))
            return
        if check.format.row_format is None:
            check.error(row.place, "the format is not clear" if check.format.unclear else "no known format")
            return
        if check.format.layout is None and row.fields.keys() != set(check.columns):
            self.differs(row)
        try:
            record = check.format.record(row)
        except BadRecord as error:
            check.error(error.place, error.reason, _formal(error.detail))
            return
        if check.format.has_late(row):
            self.late(row)
        self.record(record)

    def late(self, row: Row) -> None:
        """Take the columns of a row that begin after the first rows into the entry, or count them as not used."""
        found = self.check.format
        try:
            self.columns = found.with_late(row, self.columns)
        except BadRecord as error:
            self.check.warn(row.place, "columns that no single entry can name together", _formal(error.detail))
        known = {*found.names, *found.not_lost, *self.columns.used}
        self.unused |= dict.fromkeys(name for name in row.fields if name not in known)

    def differs(self, row: Row) -> None:
        """Warn of a row whose columns are not those of most rows, naming the first column that differs."""
        usual = set(self.check.columns)
        extra = next((name for name in row.fields if name not in usual), None)
        name = extra if extra is not None else min(usual - row.fields.keys())
        detail = f"{'has' if extra is not None else 'has no'} {name[:40]!r}"
        self.check.warn(row.place, "other columns than most rows", detail)

    def record(self, record: Record) -> None:
        """Judge a record."""
        check, line = self.check, record.place
        if self.takes is not None and not isinstance(record, self.takes):
            takes = f"--stage {self.arguments.stage} takes {KIND_NAMES[self.takes]}"
            check.error(line, f"{takes}, the row is one of {KIND_NAMES[type(record)]}")
            return
        check.add_lengths(record)
        text = "\n".join(texts_of(record))
        for fault in faults_of(record, text, longest=self.arguments.longest, shortest=self.arguments.shortest):
            check.warn(line, fault)
        check.lines.append(line.line)
        check.hashes.append(hash("".join(text.lower().split())))
        if isinstance(record, (Chat, Pair)):
            check.answers += 1
            check.unended += unended(question_and_answer(record)[1])
        if check.usable <= MEASURED or check.usable % 10 == 0:
            check.languages[language(text)] += 1


def _finish(check: Check) -> None:
    """Count what only all rows together show."""
    again, firsts = duplicates(np.array(check.hashes), np.array(check.lines))
    if len(again):
        shown: list[int | str] = [int(line) for line in again[: check.most_shown]]
        check.warnings["the same as an earlier row"] = Problem(len(again), shown, f"line {firsts[0]} again")
    if check.answers and check.unended / check.answers >= UNENDED_SHARE:
        share = f"{check.unended / check.answers:.0%} of the answers"
        check.warnings["answers that do not end like a sentence, perhaps cut off"] = Problem(check.unended, [], share)
    made = check.format.entry(check.path) if check.usable else None
    if made is not None:
        check.entry = {Path(check.path.name.removesuffix(".gz")).stem: made}


def duplicates(
    hashes: npt.NDArray[np.int64], lines: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(lines of the rows that repeat an earlier one, in order; the line of the row that each repeats). (N,) each."""
    _, index, group = np.unique(hashes, return_index=True, return_inverse=True)
    first = index[group]  # (N,) the first row with the same hash
    again = np.flatnonzero(first != np.arange(len(first)))
    return lines[again], lines[first[again]]


def form_of(path: Path) -> tuple[str, str]:
    """Return what kind of file it is by its content, and its encoding. Raises `UserError` for one without rows."""
    form = detect_file_type(path)
    packed = ", packed" if form.compression else ""
    kind = {"csv": "CSV", "tsv": "TSV", "txt": "text", "parquet": "Parquet", "sheet": "spreadsheet"}.get(form.type, "")
    if not kind:
        head = read_head(path, 1 << 16).decode(form.encoding or "utf-8", "ignore").lstrip("\ufeff \t\r\n")
        first, end, _ = head.partition("\n")
        kind = "JSON array" if head.startswith("[") else "JSON Lines" if not end or _is_json(first) else "JSON objects"
    return kind + packed, ENCODING_NAMES.get(form.encoding, "")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return len(line) > 2  # "{" alone begins an object of several lines, a broken row does not
    return True


def _formal(detail: str) -> str:
    """The part of a detail that quotes nothing of the row."""
    return QUOTES.sub(r"\1", detail)[:80] if FORMAL.match(detail) else ""


def _line_and_reason(error: UserError, path: Path) -> tuple[int, str]:
    """The line that an error of a whole file names, 1 where it names none; and what it says."""
    text = str(error).removeprefix(str(path))
    found = re.match(r"(?::|, row )(\d+):", text)
    reason = text[found.end() if found else 0 :].strip(": ")
    line = int(found[1]) if found else 1
    return line, f"{reason}; the file was not read from there on" if isinstance(error, DataError) else reason
