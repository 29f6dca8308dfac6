"""Checking a file: a fault is reported with exactly its line, a file without faults has none, nothing is quoted."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import preloaded
from carellama.config.data import DataOptions
from carellama.config.data_commands import CheckOptions
from carellama.data.check.check import checked, duplicates, run
from carellama.data.check.report import Check, lines, to_dict
from carellama.data.convert import BadRecord
from carellama.data.datasets import load_datasets
from carellama.errors import UserError
from carellama.records import Chat, Pair, Question, Text

ANSWER = "Drink water and rest. See a clinician if it gets worse."
IDENTIFIERS = "possible identifiers (carellama data clean --deidentify mask)"


def check(path: Path, **options: object) -> Check:
    return checked(path, CheckOptions(files=[str(path)], **options))  # type: ignore[arg-type]


def write(path: Path, rows: list[object]) -> Path:
    texts = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def good(number: int) -> dict[str, object]:
    return {"question": f"What helps against cold number {number}?", "answer": f"{ANSWER} ({number})"}


def counts(found: Check) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Lines of the errors and of the warnings by reason."""
    return tuple({name: one.lines for name, one in table.items()} for table in (found.errors, found.warnings))  # type: ignore[return-value]


ERRORS = [
    ({"question": "Is a rash urgent?", "answer": " "}, "empty answer"),
    ({"question": "", "answer": ANSWER}, "empty question"),
    ({"question": "Is a rash urgent?", "answer": 3}, "column 'answer' is not text"),
    ({"query": "Is a rash urgent?", "answer": ANSWER}, "no column 'question'"),
    ('{"question": "Is a rash urgent?", "answer": "' + ANSWER, "broken JSON"),
    ('{"question": "Is a rash urgent? \\ud83d", "answer": "' + ANSWER + '"}', "not Unicode text"),
    ("7", "not an object"),
]
WARNINGS = [
    ("decoded \ufffd wrongly.", "replacement characters (U+FFFD): the text was decoded wrongly"),
    ("锟斤拷锟斤拷", "garbled text: it was decoded with the wrong encoding"),
    ("Itâ€™s a cold.", "garbled text: it was decoded with the wrong encoding"),
    ("A cafÃ© visit.", "garbled text: it was decoded with the wrong encoding"),
    ("A null \x00 in it.", "control characters"),
    ("A zero width \u200b space.", "invisible characters"),
    ("Rest.<br>Drink water.", "HTML left in the text"),
    ("Rest &amp; drink water.", "HTML left in the text"),
    ("Rest.</s>", "prompt markup left in the text"),
    ("[INST] Rest. [/INST]", "prompt markup left in the text"),
    ("Rest.<|im_end|>", "prompt markup left in the text"),
    ("### Response:\nRest.", "prompt markup left in the text"),
    ("答：多喝水，注意休息。", "prompt markup left in the text"),
    ("医生：多喝水，注意休息。", "prompt markup left in the text"),
    ("Rest. <user>: And then? <bot>: Drink.", "prompt markup left in the text"),
    ("Rest.\\nDrink water.", "line breaks written as \\n"),
    ("Dear <NAME>, rest.", "placeholder left in the text"),
    ("Dear {name}, rest.", "placeholder left in the text"),
    ("作为AI语言模型，我不能诊断。", "boilerplate of a language model"),
    ("As an AI language model I can not say.", "boilerplate of a language model"),
    ("https://example.org/colds", "answer is only an address"),
    ("What may it be?", "answer equal to the question"),
    ("No.", "very short answer (under 4 characters)"),
    ("Rest. " * 1500, "very long answer (over 8000 characters)"),
    ("Ring 13800138000 today.", IDENTIFIERS),
    ("Card 11010519491231002X was seen.", IDENTIFIERS),
    ("Write to nobody@example.org today.", IDENTIFIERS),
]
HARMLESS = [
    "Less than 5 <mmol> or more, see a clinician.",
    "The formula is $\\frac{alpha}{beta}$, written out.",
    "The number 123456789012345 is of no one.",
    "体温超过 38.5℃ 时请就医；问题不大。",
    "The gradient $\\nabla f$ and the unit Patient: day are no marks.",
    "Â is a letter, and so is Ã in SÃO.",
]


@pytest.mark.parametrize(("row", "reason"), ERRORS, ids=[reason for _, reason in ERRORS])
@pytest.mark.parametrize("line", [1, 4, 6])
def test_an_error_has_exactly_its_line(tmp_path: Path, row: object, reason: str, line: int) -> None:
    rows: list[object] = [good(number) for number in range(5)]
    rows.insert(line - 1, row)
    found = check(write(tmp_path / "a.jsonl", rows))
    errors, _ = counts(found)
    assert errors == {reason: [line]}
    assert (found.rows, found.usable) == (6, 5)


@pytest.mark.parametrize(("answer", "reason"), WARNINGS)
def test_a_warning_has_exactly_its_line(tmp_path: Path, answer: str, reason: str) -> None:
    rows: list[object] = [good(number) for number in range(20)]
    rows[7] = {"question": "What may it be?", "answer": answer}
    found = check(write(tmp_path / "a.jsonl", rows))
    assert counts(found) == ({}, {reason: [8]})
    assert found.usable == 20


@pytest.mark.parametrize("answer", HARMLESS)
def test_what_only_looks_like_a_fault_is_none(tmp_path: Path, answer: str) -> None:
    found = check(write(tmp_path / "a.jsonl", [{"question": "What may it be?", "answer": answer}]))
    assert counts(found) == ({}, {})


WORDS = st.text("abcdefgh 发烧咳嗽头痛。，.?", min_size=4, max_size=40).filter(lambda text: len(text.strip()) > 3)
FAULTS = st.sampled_from(["", "good", "broken"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(WORDS, WORDS, FAULTS), min_size=1, max_size=30))
def test_every_planted_fault_and_no_other_is_found(tmp_path: Path, drawn: list[tuple[str, str, str]]) -> None:
    rows: list[object] = [good(0)]
    planted: dict[str, list[int]] = {}
    for number, (question, answer, fault) in enumerate(drawn, 2):
        if fault == "broken":
            rows.append('{"question": ')
            planted.setdefault("broken JSON", []).append(number)
        else:
            rows.append({"question": question, "answer": answer if fault else ""})
            if not fault:
                planted.setdefault("empty answer", []).append(number)
    found = check(write(tmp_path / "a.jsonl", rows), most_shown=100)
    assert counts(found)[0] == planted
    assert found.rows == len(rows) == found.usable + sum(map(len, planted.values()))


@given(st.lists(st.integers(-3, 3), max_size=30))
def test_a_repeated_row_names_the_first_of_its_kind(hashes: list[int]) -> None:
    repeated, firsts = duplicates(np.array(hashes, dtype=np.int64), np.arange(1, len(hashes) + 1))
    expected = [(at + 1, hashes.index(one) + 1) for at, one in enumerate(hashes) if one in hashes[:at]]
    assert list(zip(repeated.tolist(), firsts.tolist(), strict=True)) == expected


def test_a_spreadsheet_without_known_columns_is_converted_as_a_document(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["Dose", "Drug"])
    book.active.append([5, "x"])
    book.save(tmp_path / "a.xlsx")
    assert check(tmp_path / "a.xlsx").command == f"carellama data convert {tmp_path / 'a.xlsx'}"


def test_rows_that_are_the_same_but_for_case_and_spaces_are_repeated(tmp_path: Path) -> None:
    rows: list[object] = [good(0), good(1), {key: str(text).upper() + " " for key, text in good(0).items()}]
    found = check(write(tmp_path / "a.jsonl", rows)).warnings["the same as an earlier row"]
    assert (found.count, found.lines, found.detail) == (1, [3], "line 1 again")


def test_other_columns_name_the_first_that_differs(tmp_path: Path) -> None:
    rows: list[object] = [good(0), good(1), good(2) | {"note": "x"}, good(3)]
    (found,) = check(write(tmp_path / "a.jsonl", rows)).warnings.values()
    assert (found.lines, found.detail) == ([3], "has 'note'")


def test_answers_that_break_off_are_a_warning_by_their_share(tmp_path: Path) -> None:
    rows: list[object] = [{"question": f"Question {number}?", "answer": "Drink water and"} for number in range(4)]
    (found,) = check(write(tmp_path / "a.jsonl", rows)).warnings.values()
    assert (found.count, found.lines, found.detail) == (4, [], "100% of the answers")


TURNS = [{"from": "human", "value": "Is it a cold?"}, {"from": "gpt", "value": ANSWER}]
SAID = [{"role": "user", "content": "Is it a cold?"}, {"role": "assistant", "content": ANSWER}]
BETTER = {"chosen": ANSWER, "rejected": "It is surely nothing."}
SHAPES = {
    "alpaca": ({"instruction": "Is it a cold?", "input": "Since today.", "output": ANSWER, "history": []}, Chat),
    "query": ({"query": "Is it a cold?", "response": ANSWER}, Chat),
    "prompt": ({"prompt": "Is it a cold?", "completion": ANSWER}, Chat),
    "zh": ({"问": "感冒了怎么办？", "答": "多喝水，注意休息。"}, Chat),
    "title": ({"department": "chest", "title": "Is it a cold?", "ask": "I cough.", "answer": ANSWER}, Chat),
    "system": ({"system": "Be brief.", "question": "Is it a cold?", "answer": ANSWER}, Chat),
    "sharegpt": ({"conversations": TURNS}, Chat),
    "openai": ({"messages": SAID}, Chat),
    "dialogue": ({"dialogue": SAID}, Chat),
    "pairs": ({"question": "Is it a cold?", "response_chosen": ANSWER, "response_rejected": "Surely not."}, Pair),
    "output-pairs": ({"instruction": "Is it a cold?", "input": "", "output": [ANSWER, "Surely not."]}, Pair),
    "sharegpt-pairs": ({"conversations": TURNS[:1], **BETTER}, Pair),
    "text": ({"text": ANSWER}, Text),
    "content": ({"title": "Colds", "content": ANSWER}, Text),
    "exam": ({"id": "1", "question": "Which helps?", "options": {"A": "rest", "B": "smoke"}, "answer": "A"}, Question),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("form", ["lines", "array", "gz", "utf-16", "gb18030"])
def test_the_suggested_entry_loads_all_usable_records(tmp_path: Path, name: str, form: str) -> None:
    row, kind = SHAPES[name]
    broken = dict.fromkeys(row)  # type: ignore[call-overload]
    rows = [row, broken, row]
    text = json.dumps(rows, ensure_ascii=False, indent=1) if form == "array" else ""
    text = text or "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    data = text.encode(form if form in ("utf-16", "gb18030") else "utf-8")
    path = tmp_path / ("a.json.gz" if form == "gz" else "a.json")
    path.write_bytes(gzip.compress(data) if form == "gz" else data)
    found = check(path)
    assert found.entry is not None and list(found.entry) == ["a"]
    (tmp_path / "dataset_info.json").write_text(json.dumps(found.entry), encoding="utf-8")
    (dataset,) = load_datasets(["a"], DataOptions(dataset_dir=str(tmp_path)))
    records, refused = [], 0
    for one in dataset.rows():
        try:
            records.append(dataset.record(one))
        except BadRecord:
            refused += 1
    assert [type(record) for record in records] == [kind, kind]
    assert (len(records), refused) == (found.usable, 1) and found.rows == 3


def test_tables_and_texts_are_checked_too(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["ask", "answer"], ["Is it\na cold?", ANSWER], ["Is it hay fever?"], ["Why?", ""]])
    found = check(table)
    assert found.kind == "CSV" and counts(found)[0] == {"wrong number of fields": [4], "empty answer": [5]}
    text = tmp_path / "a.txt"
    text.write_text(f"{ANSWER}\n\n{ANSWER} Or call us.\n", encoding="utf-8-sig")
    found = check(text)
    assert (found.encoding, found.usable, found.format.row_format) == ("UTF-8 with BOM", 2, "text")


def test_a_file_that_breaks_off_is_judged_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([good(0), good(1), good(2)], indent=0)[:-60], encoding="utf-8")
    found = check(path)
    ((reason, lines_of),) = counts(found)[0].items()
    assert found.usable == 2 and "broken JSON" in reason and lines_of == [10]


def test_a_bad_byte_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        (json.dumps({"text": "发烧" * 30}, ensure_ascii=False) + "\n").encode() * 3 + b'{"text": "\xff"}\n'
    )
    ((reason, lines_of),) = counts(check(path))[0].items()
    assert "not UTF-8" in reason and lines_of == [4] and str(path) not in reason


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "Rest and drink."}\n' * 2000)[:-20])
    assert check(path).errors


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert counts(check(write(tmp_path / "a.jsonl", [])))[0] == {"the file holds no row": [1]}


def test_the_stage_refuses_other_kinds_of_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "Is it a cold?", **BETTER}])
    assert not check(path, stage="rm").errors
    found = check(path, stage="sft")
    assert list(found.errors) == ["--stage sft takes conversations, the row is one of preference pairs"]
    assert found.usable == 0


def test_a_layout_of_the_catalogue_says_how_to_convert(tmp_path: Path) -> None:
    row = {"utterances": ["patient: Is it a cold?", f"doctor: {ANSWER}"], "description": "Is it a cold?"}
    found = check(write(tmp_path / "a.jsonl", [row]))
    assert found.entry is None and found.command.startswith("carellama data convert medical-dialog-hf --from ")
    assert "medical-dialog-hf" in "\n".join(lines(found)) and to_dict(found)["catalogue"][0] == "medical-dialog-hf"


def test_no_text_is_shown(tmp_path: Path) -> None:
    """Whatever is wrong with a row, what the patient said is not in the report."""
    secret = "zebrafish"
    bad: list[object] = [
        {"question": secret, "answer": ""},
        {"question": 1, "answer": secret},
        {"conversations": [{"from": secret, "value": secret}]},
        {"question": "x", "options": {"A": secret, "B": "b"}, "answer": secret},
        '{"question": "' + secret,
        {"question": f"{secret} 13800138000", "answer": f"{secret} <NAME>"},
    ]
    for number, row in enumerate(bad):
        for rows in ([row], [good(0), row], [SHAPES["exam"][0], row], [SHAPES["sharegpt"][0], row]):
            found = check(write(tmp_path / f"{number}.jsonl", list(rows)))
            assert secret not in "\n".join(lines(found)) and secret not in json.dumps(to_dict(found))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "zebrafish,zebrafish\n1,2\n"),
        ("a.csv", "zebrafish,Rest and drink.\nzebrafish,Rest.\n"),
        ("a.json", json.dumps({"zebrafish": {"a": 1}, "b": {"a": 2}})),
        ("a.json", '[{"text": "Rest and drink."}, {"text": "zebrafish"'),
        ("a.json", '[{"text": "Rest and drink."} zebrafish'),
    ],
)
def test_no_text_is_shown_of_a_file_that_has_no_rows(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = check(path)
    assert found.errors and "zebrafish" not in "\n".join(lines(found)) + json.dumps(to_dict(found))


def test_most_shown_bounds_the_lines_not_the_count(tmp_path: Path) -> None:
    rows: list[object] = [good(0), *({"question": "Is it?", "answer": ""} for _ in range(9))]
    (found,) = check(write(tmp_path / "a.jsonl", rows), most_shown=2).errors.values()
    assert (found.count, found.lines) == (9, [2, 3])


def test_a_folder_is_checked_file_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.jsonl", [good(0)])
    write(tmp_path / "b.jsonl", [good(0) | {"answer": ""}, good(1)])
    (tmp_path / "c.docx").write_bytes(b"x")
    with pytest.raises(SystemExit) as left:
        run([str(tmp_path), "--report", str(tmp_path / "out" / "report.json")])
    shown = capsys.readouterr().out
    assert left.value.code == 1 and "1 not checked, as they hold no rows: c.docx" in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [len(file["errors"]) for file in report] == [0, 1]


def test_warnings_end_in_failure_only_when_strict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "Is it?", "answer": "Rest.<br>Drink."}])
    run([str(path)])
    with pytest.raises(SystemExit):
        run([str(path), "--strict"])


def test_what_can_not_be_checked_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    write(tmp_path / "a.jsonl", [good(0)])
    for words in (["none.json"], [str(tmp_path / "a.docx")], [str(tmp_path / "a.jsonl"), "--most_shown", "0"]):
        with pytest.raises(UserError):
            run(words)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "code"), [([good(0)], 0), ([good(0), good(1) | {"answer": ""}], 1), (None, 2)])
def test_the_command_ends_with_its_code(tmp_path: Path, rows: list[object] | None, code: int) -> None:
    path = tmp_path / "a.jsonl"
    if rows is not None:
        write(path, rows)
    command = [preloaded.python(), "-m", "carellama", "data", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "\x1b" not in done.stdout
    assert done.stderr == ("" if code < 2 else f"error: no such file or folder: {path}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "usable"),
    [
        ("carellama-upstream/self_cognition.json", "alpaca", 80),
        ("chinese-medical-dialogue/样例_内科5000-6000.head.csv", "alpaca", 3332),
        ("medicalgpt-reward/dpo_zh_500.jsonl", "sharegpt", 499),
        ("carellama-upstream/导诊指导.json", "text", 60),
        ("cmexam/cmexam_test_01_clinical_depart.csv", "exam", 606),
    ],
)
def test_real_files(real_data: Path, name: str, shape: str | None, usable: int) -> None:
    found = check(real_data / name)
    assert (found.format.row_format, found.usable, found.rows, found.errors) == (shape, usable, usable, {})


@pytest.mark.slow
def test_a_file_of_a_common_shape_also_names_its_dataset(real_data: Path) -> None:
    """The dataset's own converter may use rows that the plain shape refuses; both ways are said."""
    found = check(real_data / "imcs-v2" / "IMCS-V2_dev_conversation.head.json")
    assert found.format.row_format == "sharegpt" and found.entry is not None
    assert found.command.startswith("carellama data convert imcs-v2 --from ")
    assert f"  or        {found.command}" in lines(found)


def test_a_comma_behind_each_object_is_read_as_training_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    row = {"instruction": "What helps a cough?", "output": "Honey may soothe it."}
    path.write_text(f"{json.dumps(row)},\n" * 3)
    check = checked(path, CheckOptions(files=[str(path)]))
    assert check.usable == 3 and not check.errors and check.entry is not None
