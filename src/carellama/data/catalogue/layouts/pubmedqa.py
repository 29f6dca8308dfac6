"""PubMedQA: questions on abstracts, a JSON object by PMID. The 500 test questions never become training records.

    LAYOUTS["pubmedqa"].joined([Path("ori_pqal.json")])

Which those are says test_ground_truth.json beside the file. Without it labelled questions are exam questions only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from carellama.data.catalogue.layout import Layout, Outcome, make_chat, outcomes, text_of
from carellama.data.convert import BadRecord
from carellama.data.readers import BadRow, Row, keyed, kind_of, rows
from carellama.errors import DataError, UserError
from carellama.records import Chat, Question, Record

PROMPT = "Answer the biomedical question using the given abstract with yes, no or maybe."
OPEN_PROMPT = "Answer the biomedical question using the given abstract."
OPTIONS = {"A": "yes", "B": "no", "C": "maybe"}


def test_decisions(path: Path) -> dict[str, str] | None:
    """PMID -> decision of the test questions, None where their file is not beside `path`."""
    beside = path.parent / "test_ground_truth.json"
    if not beside.is_file():
        return None
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {beside}: {error}") from error
    return {str(pmid): str(decision) for pmid, decision in found.items()}


def _rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a JSON object by PMID, or of the hub's Parquet files with the same names."""
    if kind_of(path) != "parquet":
        yield from keyed(path)
        return
    for row in rows(path):
        if isinstance(row, BadRow):
            yield row
            continue
        fields, context = row.fields, row.fields.get("context")
        if not isinstance(context, dict) or fields.get("pubid") is None:
            yield BadRow(row.place, "no pubid, or no context with contexts and labels")
            continue
        native = {
            "key": str(fields["pubid"]), "QUESTION": fields.get("question"), "LONG_ANSWER": fields.get("long_answer"),
            "CONTEXTS": context.get("contexts"), "LABELS": context.get("labels"),
        }  # fmt: skip
        if fields.get("final_decision"):
            native["final_decision"] = fields["final_decision"]
        reasoning = {name: value for name, value in {**fields, **context}.items() if name == "reasoning_required_pred"}
        yield Row({**native, **reasoning}, row.place)


def _first(path: Path) -> Row | None:
    """The first row, if the file has such rows."""
    if kind_of(path) not in ("parquet", "json"):
        return None
    try:
        found = next(_rows(path), None)
    except DataError:  # no object
        return None
    return found if isinstance(found, Row) and {"QUESTION", "CONTEXTS"} <= set(found.fields) else None


def _hand_labelled(path: Path, first: Row) -> bool:
    """PQA-L, where the test questions are from: PQA-U has no decision, and PQA-A no reasoning and no "maybe"."""
    if "final_decision" not in first.fields:
        return False
    if {"reasoning_required_pred", "YEAR"} & set(first.fields) or "pqa_labeled" in path.as_posix():
        return True
    return kind_of(path) == "parquet" and any(
        isinstance(row, Row) and row.fields.get("final_decision") == "maybe" for row in _rows(path)
    )


def _teaches(path: Path) -> bool:
    first = _first(path)
    return first is not None and (not _hand_labelled(path, first) or test_decisions(path) is not None)


def _examines(path: Path) -> bool:
    first = _first(path)
    return first is not None and "final_decision" in first.fields


def _abstract(row: Row) -> str:
    """The abstract without its conclusion, which is the answer: "LABEL: context", a line each."""
    contexts, labels = row.fields.get("CONTEXTS"), row.fields.get("LABELS") or []
    if not isinstance(contexts, list) or not all(isinstance(one, str) for one in contexts):
        raise BadRecord(row.place, "column 'CONTEXTS' is not a list of texts")
    if len(labels) != len(contexts):
        labels = [""] * len(contexts)
    return "\n".join(
        f"{label}: {text.strip()}" if label else text.strip()
        for label, text in zip(labels, contexts, strict=True)
        if text.strip()
    )


def _decision(row: Row) -> str:
    decision = text_of(row, "final_decision").lower()
    if decision not in OPTIONS.values():
        raise BadRecord(row.place, "the decision is not yes, no or maybe", repr(decision))
    return decision


def _chat(row: Row) -> Chat:
    abstract, conclusion = _abstract(row), text_of(row, "LONG_ANSWER")
    answer, prompt = conclusion, OPEN_PROMPT
    if "final_decision" in row.fields:
        answer, prompt = f"{_decision(row)}. {conclusion}", PROMPT
    return make_chat(row.place, f"{prompt}\n{text_of(row, 'QUESTION')}\n{abstract}", answer, id=row.fields["key"])


def _question(row: Row) -> Question:
    decision = _decision(row)
    letter = next(letter for letter, text in OPTIONS.items() if text == decision)
    stem = f"{_abstract(row)}\n{text_of(row, 'QUESTION')}"
    return Question(row.fields["key"], stem, dict(OPTIONS), (letter,), place=row.place)


def _record(row: Row, held_out: dict[str, str] | None, *, labelled: bool, exam: bool) -> Record:
    key = row.fields["key"]
    if not exam:
        if held_out is not None and key in held_out:
            raise BadRecord(row.place, "a question of the test split")
        if held_out is None and labelled:
            raise BadRecord(row.place, "perhaps a question of the test split: test_ground_truth.json is missing")
        return _chat(row)
    if held_out is not None:
        if key not in held_out:
            raise BadRecord(row.place, "not a question of the test split")
        if held_out[key] != _decision(row):
            raise BadRecord(row.place, "final_decision and test_ground_truth.json disagree")
    return _question(row)


def _all(paths: Sequence[Path], *, exam: bool) -> Iterator[Outcome]:
    for path in paths:
        first = _first(path)
        labelled = first is not None and _hand_labelled(path, first)
        yield from outcomes(_rows(path), partial(_record, held_out=test_decisions(path), labelled=labelled, exam=exam))


LAYOUTS: dict[str, Layout] = {
    "pubmedqa": Layout("sft", recognises=_teaches, joined=lambda paths: _all(paths, exam=False)),
    "pubmedqa-exam": Layout("exam", recognises=_examines, joined=lambda paths: _all(paths, exam=True)),
}
