"""carellama task, where it lost or changed something without a word: files replaced, columns lost, quotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carellama.batch.clinical_tasks import BadReply, read_json_reply
from carellama.batch.text_checks import SourceText
from carellama.errors import UserError
from task_command import SchemaEngine, run_task, written

GOOD = json.dumps({"exam": "CT", "findings": [], "impression": [], "measurements": []})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("Take 1 50 mg tablet twice daily", "150 mg"),
        ("Metoprolol 2 5 mg", "25 mg"),
        ("a typical chest pain", "atypical chest pain"),
        ("BP 120 80", "12080"),
        ("fever", "feve r"),
        ("dose 150 mg", "1 50 mg"),
    ],
)
def test_a_space_between_two_numbers_or_words_is_part_of_a_quotation(text: str, quote: str) -> None:
    """All spaces were ignored, so that a dose of 150 mg was borne out by "1 50 mg tablet"."""
    assert not SourceText(text).has(quote)


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("RUL nodule 8 mm", "8mm"), ("血压120/ 80", "120/80"), ("肺 癌", "肺癌"),
        ("high blood\n  pressure", "high blood pressure"),
        ("5mg bid", "5 mg"), ("发热3天", "发热 3 天"),
    ],
)  # fmt: skip
def test_other_spaces_are_not(text: str, quote: str) -> None:
    assert SourceText(text).has(quote)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_cannot_hold_is_no_reply(number: str) -> None:
    """It was written to the output, whose line no other reader of JSON takes."""
    with pytest.raises(BadReply, match="number"):
        read_json_reply(f'{{"n": {number}}}')
    assert read_json_reply('{"n": 1.5e3}') == {"n": 1500.0}


def test_a_reply_that_was_cut_off_names_the_option() -> None:
    """The row said what the model is told: "it must be shorter"."""
    code, rows = run_task(SchemaEngine(GOOD), "structure", ["CT"], "--max_new_tokens", "9", "--retries", "1")
    assert code == 1
    assert rows[0]["error"] == "unusable reply: it was cut off after 9 tokens; --max_new_tokens takes more"


def test_the_report_does_not_replace_the_input() -> None:
    """--output notes has its report in notes.json, which was the input."""
    Path("out.jsonl.json").write_text(json.dumps([{"text": "CT of chest"}]))
    with pytest.raises(UserError, match="report would replace"):
        run_task(SchemaEngine(GOOD), "structure", "out.jsonl.json")
    assert json.loads(Path("out.jsonl.json").read_text()) == [{"text": "CT of chest"}]


def test_the_report_does_not_replace_another_file() -> None:
    Path("out.jsonl.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="another file"):
        run_task(SchemaEngine(GOOD), "structure", ["CT of chest"])
    assert Path("out.jsonl.json").read_text() == '{"mine": 1}'


def test_a_column_of_a_later_row_is_not_replaced() -> None:
    """Only the first row was looked at; what a later one had under `error` was lost."""
    rows = [{"text": "CT one"}, {"text": "CT two", "error": "mine"}]
    with pytest.raises(UserError, match=r"in\.jsonl:2.*'error'.*--prefix"):
        run_task(SchemaEngine(GOOD), "structure", rows)
    _, found = run_task(SchemaEngine(GOOD), "structure", rows, "--prefix", "task_")
    assert [row.get("error") for row in found] == [None, "mine"]


def test_a_line_ends_at_a_line_break_only() -> None:
    """A form feed and a line separator within a line made further rows."""
    Path("in.txt").write_bytes("CT one\u2028still\x0cone\nCT two\r\n".encode())
    run_task(SchemaEngine(GOOD), "structure", "in.txt", "--text_unit", "line")
    lines = Path("out.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["CT one\u2028still\x0cone", "CT two"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--template", "llama2"], ["--template", "vanilla"]),
        (["--endpoint", "http://127.0.0.1:1/v1"], ["--endpoint", "http://127.0.0.1:2/v1"]),
        (["--quantization_bit", "4"], []),
    ],
)
def test_another_template_endpoint_or_precision_does_not_continue_an_output(first: list[str], then: list[str]) -> None:
    """Rows of two models stood in one file."""
    run_task(SchemaEngine(GOOD), "structure", ["CT one", "CT two"], "--max_rows", "1", *first)
    with pytest.raises(UserError, match="made otherwise"):
        run_task(SchemaEngine(GOOD), "structure", ["CT one", "CT two"], *then)
    assert len(written()) == 1


@pytest.mark.parametrize(
    ("text", "finding"),
    [("No significant change in the nodule.", "nodule"), ("Not only fever but cough.", "fever"),
     ("不排除肺癌。", "肺癌"), ("不能排除肺癌。", "肺癌"), ("Infarction not excluded.", "infarction")],
)  # fmt: skip
def test_what_is_unchanged_or_not_ruled_out_is_not_denied(text: str, finding: str) -> None:
    """A finding that the text has was flagged as denied there."""
    assert not SourceText(text).denies(finding)
    assert SourceText("No nodule. 排除骨折。 Not febrile.").denies("nodule")
