"""Sets of questions with right and wrong answers: cMedQA2, joined by ids, and webMedQA, five answers a question.

    LAYOUTS["cmedqa2-pairs"].joined([Path("train_candidates.zip")])  # question and answer files lie beside it

Files may lie in the .zip they come in. A wrong answer here is another question's answer: a weak preference.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from carellama.data.catalogue.layout import Layout, Outcome, make_chat
from carellama.data.convert import BadRecord
from carellama.data.readers import open_reader
from carellama.errors import DataError, UserError, read_failure
from carellama.records import Message, Pair, Place

Kind = Literal["questions", "answers", "triples", "labels"]
STAMP = re.compile(r"\s*\d{4}-\d{2}-\d{2} ?\d{2}:\d{2}(?::\d{2})?\s*$")  # glued to the end of webMedQA's answers
ANSWER_START = re.compile(r"^\s*[:：]+\s*")
SUFFIXES = (".csv", ".txt", ".tsv", ".zip")
ANOTHER_SPLIT = "a question of another split"


@contextmanager
def _open_archive_text(path: Path) -> Iterator[TextIO]:
    """The text of a file, or of the only (or largest) file in a .zip, line breaks as they are."""
    try:
        if path.suffix.lower() != ".zip":
            with open_reader(path, newline="") as text:
                yield text
            return
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if not one.is_dir() and "__MACOSX" not in one.filename]
            if not members:
                raise UserError(f"{path} holds no file")
            with archive.open(max(members, key=lambda one: one.file_size)) as member:
                yield io.TextIOWrapper(member, encoding="utf-8-sig", newline="")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason})") from error


def _kind(path: Path) -> Kind | None:
    """Which file of cMedQA (version 1 or 2) this is, by its header."""
    if path.suffix.lower() not in SUFFIXES:
        return None
    with _open_archive_text(path) as text:
        header = set(text.readline(4096).strip().split(","))
    if not header & {"question_id", "que_id"}:
        return None
    if "pos_ans_id" in header:
        return "triples"
    if {"ans_id", "label"} <= header:
        return "labels"
    if {"ans_id", "content"} <= header:
        return "answers"
    return "questions" if "content" in header else None


def _cells(path: Path) -> Iterator[tuple[Place, dict[str, str]]]:
    """The rows under the header; `que_id` of version 1 is `question_id`."""
    csv.field_size_limit(1 << 30)
    with _open_archive_text(path) as text:
        reader = csv.DictReader(text)
        before = 1
        try:
            for fields in reader:
                place, before = Place(str(path), before + 1), reader.line_num
                cells = {key: value or "" for key, value in fields.items() if key is not None}
                if "que_id" in cells:
                    cells["question_id"] = cells["que_id"]
                yield place, cells
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: broken CSV ({error})") from error


def _family(paths: Sequence[Path]) -> dict[Kind, list[Path]]:
    """The files of the set: the given ones and, for questions and answers, those beside them."""
    found: dict[Kind, list[Path]] = {"questions": [], "answers": [], "triples": [], "labels": []}
    for path in unpacked(paths):
        if (own := _kind(path)) is not None:
            found[own].append(path)
    both: tuple[Kind, Kind] = ("questions", "answers")
    for kind in both:
        if not found[kind]:
            found[kind] = [path for path in _beside(paths) if _kind(path) == kind][:1]
        if not found[kind]:
            raise UserError(
                f"{paths[0]} holds ids only: the {kind[:-1]} file of cMedQA2 ({kind[:-1]}.csv or {kind[:-1]}.zip) "
                "must lie in the same folder (unpacked or not)"
            )
    return found


def _beside(paths: Sequence[Path]) -> list[Path]:
    """The files of the same folders, and of the folders that the set's .zip files were unpacked to (stem/stem.csv)."""
    folders = dict.fromkeys(path.parent.parent if path.parent.name == path.stem else path.parent for path in paths)
    own = [path for folder in folders for path in folder.glob("*")]
    own += [path for folder in folders for path in folder.glob("*/*") if path.parent.name == path.stem]
    there = sorted(path for path in own if path.suffix.lower() in SUFFIXES)
    return [path for path in unpacked(there) if _kind_or_none(path)]


def _kind_or_none(path: Path) -> Kind | None:
    try:
        return _kind(path)
    except UserError:  # another file of the folder, of whatever encoding
        return None


def unpacked(paths: Sequence[Path]) -> list[Path]:
    """The files without each .zip whose content lies unpacked beside it."""
    plain = {(path.parent, path.stem) for path in paths if path.suffix.lower() != ".zip"}
    return [path for path in paths if path.suffix.lower() != ".zip" or (path.parent, path.stem) not in plain]


def _texts(paths: Sequence[Path], key: str) -> dict[str, str]:
    """id -> text."""
    return {cells[key]: ANSWER_START.sub("", cells["content"]).strip() for path in paths for _, cells in _cells(path)}


def _ids(paths: Sequence[Path]) -> set[str]:
    return {cells["question_id"] for path in paths for _, cells in _cells(path)}


def _cmedqa2_answers(paths: Sequence[Path]) -> Iterator[Outcome]:
    """A conversation of each answer with its question.

    Of the split of the candidate files given; without any, of all questions that no dev or test candidates beside
    them name.
    """
    files = _family(paths)
    questions = _texts(files["questions"], "question_id")
    given = _ids([*files["triples"], *files["labels"]])
    others = set() if given else _ids([path for path in _beside(paths) if _kind(path) == "labels"])
    for path in files["answers"]:
        for place, cells in _cells(path):
            number, answer = cells["question_id"], ANSWER_START.sub("", cells["content"]).strip()
            if (given and number not in given) or number in others:
                yield BadRecord(place, ANOTHER_SPLIT)
            elif not questions.get(number):
                yield BadRecord(place, "no question of this id")
            elif not answer:
                yield BadRecord(place, "empty answer")
            else:
                yield (make_chat(place, questions[number], answer, id=number),)


def _cmedqa2_pairs(paths: Sequence[Path]) -> Iterator[Outcome]:
    """A pair of each triple (train), or of each wrong candidate with the first right one (dev, test)."""
    files = _family(paths)
    questions, answers = _texts(files["questions"], "question_id"), _texts(files["answers"], "ans_id")
    for path in files["triples"]:
        for place, cells in _cells(path):
            yield _pair(
                place, questions.get(cells["question_id"]), answers.get(cells["pos_ans_id"]),
                answers.get(cells["neg_ans_id"]), cells["question_id"],
            )  # fmt: skip
    for path in files["labels"]:
        right: dict[str, str] = {}
        for _, cells in _cells(path):
            if cells["label"].strip() == "1":
                right.setdefault(cells["question_id"], cells["ans_id"])
        for place, cells in _cells(path):
            number = cells["question_id"]
            if cells["label"].strip() == "1":
                yield BadRecord(place, "a right answer (the wrong ones are paired with it)")
            elif number not in right:
                yield BadRecord(place, "no right answer")
            else:
                yield _pair(
                    place, questions.get(number), answers.get(right[number]), answers.get(cells["ans_id"]), number
                )


def _pair(place: Place, question: str | None, chosen: str | None, rejected: str | None, number: str) -> Outcome:
    if not question:
        return BadRecord(place, "no question of this id")
    if not chosen or not rejected:
        return BadRecord(place, "no answer of this id")
    if chosen == rejected:
        return BadRecord(place, "chosen and rejected answers are the same")
    return (Pair((Message("user", question),), chosen, rejected, place, {"id": number}),)


def _is_webmedqa(path: Path) -> bool:
    """Five columns of a TSV without a header, the second of them 0 or 1."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    with _open_archive_text(path) as text:
        line = text.readline(1 << 20)
        while line.isspace():
            line = text.readline(1 << 20)
        cells = line.rstrip("\r\n").split("\t", 4)
    return len(cells) == 5 and cells[1].strip() in ("0", "1")


def _fives(path: Path) -> Iterator[tuple[Place, tuple[str, str, str, str, str] | None]]:
    """The rows as (department, label, id of the question, question, answer), None for one that is not.

    They are not read as CSV, for a field that begins with a quote would swallow the rows after it.
    """
    with _open_archive_text(path) as text:
        for line_number, line in enumerate(text, 1):
            if not line.strip():
                continue
            cells = line.rstrip("\r\n").split("\t", 4)
            place = Place(str(path), line_number)
            if len(cells) < 5 or cells[1].strip() not in ("0", "1"):
                yield place, None
                continue
            department, label, number, question, answer = map(str.strip, cells)
            yield place, (department, label, number, question, ANSWER_START.sub("", STAMP.sub("", answer)).strip())


NOT_FIVE = "not five columns with a label of 0 or 1"


def _webmedqa_answers(paths: Sequence[Path]) -> Iterator[Outcome]:
    for path in unpacked(paths):
        for place, five in _fives(path):
            if five is None:
                yield BadRecord(place, NOT_FIVE)
                continue
            department, label, number, question, answer = five
            if label == "0":
                yield BadRecord(place, "a wrong answer")
            elif not question or not answer:
                yield BadRecord(place, "empty question" if not question else "empty answer")
            else:
                yield (make_chat(place, question, answer, id=number, department=department),)


def _webmedqa_pairs(paths: Sequence[Path]) -> Iterator[Outcome]:
    for path in unpacked(paths):
        right: dict[str, str] = {}
        for _, five in _fives(path):
            if five is not None and five[1] == "1" and five[4]:
                right.setdefault(five[2], five[4])
        for place, five in _fives(path):
            if five is None:
                yield BadRecord(place, NOT_FIVE)
            elif five[1] == "1":
                yield BadRecord(place, "a right answer (the wrong ones are paired with it)")
            elif five[2] not in right:
                yield BadRecord(place, "no right answer")
            elif not five[4]:
                yield BadRecord(place, "empty answer")
            else:
                yield _pair(place, five[3], right[five[2]], five[4], five[2])


LAYOUTS: dict[str, Layout] = {
    "cmedqa2": Layout("sft", recognises=lambda path: _kind(path) is not None, joined=_cmedqa2_answers),
    "cmedqa2-pairs": Layout("rm", recognises=lambda path: _kind(path) is not None, joined=_cmedqa2_pairs),
    "webmedqa": Layout("sft", recognises=_is_webmedqa, joined=_webmedqa_answers),
    "webmedqa-pairs": Layout("rm", recognises=_is_webmedqa, joined=_webmedqa_pairs),
}
