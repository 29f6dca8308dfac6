"""One decision on what a file is: each command says the same of it, whatever it is called, or asks.

The faults D1, D2, D6 to D12, D15 and D20 were different answers of the commands, or a wrong one without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carellama.config.data import DataOptions
from carellama.data import view
from carellama.data.catalogue.convert import of_unknown
from carellama.data.catalogue.convert import run as run_convert
from carellama.data.check.report import lines
from carellama.data.check.report import to_dict as check_report
from carellama.data.clean.clean import run as run_clean
from carellama.data.convert import lengths_of
from carellama.data.datasets import load_datasets
from carellama.data.detect_format import detect_file
from carellama.data.stats import measured, summary
from carellama.errors import UserError
from carellama.records import Chat, Message, Pair, Question, Record, Text
from file_rows import (
    AB,
    ASK,
    CHAT,
    NO,
    PASSAGE,
    REST,
    SAY,
    SMOKE,
    STEM,
    bare,
    check,
    dataset,
    entry,
    exam,
    records,
    write,
)

EXAM = Question("1", STEM, AB, ("A",))
TURNS = Chat(
    (Message("user", "头痛"), Message("assistant", "多久了？"), Message("user", "三天"), Message("assistant", SAY))
)
PAIR = Pair((Message("user", ASK),), SAY, NO)

# rows as different people write them, all of the same exam question
EXAMS: dict[str, dict[str, Any]] = {
    "options-list": {"question": STEM, "options": [REST, SMOKE], "answer": "A", "explanation": ""},
    "options-lettered": {"question": STEM, "options": [f"A. {REST}", f"B. {SMOKE}"], "answer": "A"},
    "options-text": {"question": STEM, "options": f"A. {REST} B. {SMOKE}", "answer": "A"},
    "options-lines": {"Question": STEM, "Options": f"A {REST}\nB {SMOKE}", "Answer": "A"},
    "options-object": {"question": STEM, "options": AB, "answer": "A"},
    "options-key-value": {
        "question": STEM, "options": [{"key": one, "value": text} for one, text in AB.items()], "answer": "A",
    },
    "options-label-text": {
        "question": STEM, "choices": [{"label": one, "text": text} for one, text in AB.items()], "answerKey": "A",
    },
    "options-two-lists": {"question": STEM, "choices": {"label": ["A", "B"], "text": [REST, SMOKE]}, "answerKey": "A"},
    "options-columns": {"question": STEM, "opa": REST, "opb": SMOKE, "answer": "A"},
    "options-numbered": {"question": STEM, "option1": REST, "option2": SMOKE, "answer": 1},
    "options-small": {"question": STEM, "options": f"(a) {REST} (b) {SMOKE}", "answer": "a"},
    "options-counted": {"question": STEM, "options": f"1. {REST}\n2. {SMOKE}", "answer": "1"},
    "options-parted": {"question": STEM, "options": f"{REST}|{SMOKE}", "answer": "A"},
    "options-two-columns": {"question": STEM, "A": REST, "B": SMOKE, "answer": "A"},
    "options-in-input": {"instruction": STEM, "input": f"A. {REST}\nB. {SMOKE}", "output": "A"},
    "options-zh": {"题干": STEM, "选项": [REST, SMOKE], "正确答案": "A", "解析": ""},
    "options-in-question": {"question": f"{STEM}\nA. {REST}\nB. {SMOKE}", "answer": "A"},
    "options-in-prompt": {"instruction": f"{STEM}\nA: {REST}\nB: {SMOKE}\nAnswer:", "output": "A"},
    "answer-text": {"question": STEM, "options": [REST, SMOKE], "answer": REST},
    "answer-twice": {"question": STEM, "answer": REST, "options": AB, "answer_idx": "A", "meta_info": "x"},
    "answer-with-its-text": {"question": STEM, "options": [REST, SMOKE], "answer": f"A. {REST}"},
    "answer-and-index": {"question": STEM, "options": [REST, SMOKE], "answer": "A", "answer_index": 0},
    "answer-from-0": {"question": STEM, "choices": [REST, SMOKE], "answer": 0},
    "answer-small-letter": {"problem_id": "1", "problem_text": STEM, "choices": [REST, SMOKE], "answer": ["a"]},
}  # fmt: skip
# a row as somebody writes it, and the record that it is
DIALECTS: dict[str, tuple[dict[str, Any], Record]] = {
    **{name: (row, EXAM) for name, row in EXAMS.items()},
    "passage": (
        {"question": STEM, "context": PASSAGE, "options": [REST, SMOKE], "answer": "A"},
        Question("1", f"{PASSAGE}\n{STEM}", AB, ("A",)),
    ),
    "passages": (
        {"question": STEM, "context": {"contexts": [PASSAGE], "labels": ["x"]}, "options": AB, "answer": "A"},
        Question("1", f"{PASSAGE}\n{STEM}", AB, ("A",)),
    ),
    "question-answer": ({"question": ASK, "answer": SAY}, CHAT),
    "alpaca": ({"instruction": ASK, "input": "", "output": SAY, "history": []}, CHAT),
    "zh": ({"问": ASK, "答": SAY}, CHAT),
    "question-with-passage": (
        {"question": ASK, "context": [PASSAGE], "answer": SAY},
        Chat((Message("user", f"{PASSAGE}\n{ASK}"), Message("assistant", SAY))),
    ),
    "sharegpt": ({"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}]}, CHAT),
    "openai": ({"dialogue": [{"role": "user", "content": ASK}, {"role": "assistant", "content": SAY}]}, CHAT),
    "ranked-2": ({"instruction": ASK, "output": [SAY, NO]}, PAIR),
    "ranked-3": ({"instruction": ASK, "output": [SAY, "休息。", NO]}, PAIR),
    "chosen": ({"question": ASK, "response_chosen": SAY, "response_rejected": NO}, PAIR),
    "marks": ({"input": "病人：头痛\n医生：多久了？\n病人：三天\n医生：", "target": SAY}, TURNS),
    "marks-escaped": ({"input": "病人：头痛\\n医生：多久了？\\n病人：三天\\n医生：", "target": SAY}, TURNS),
    "marks-in-line": ({"instruction": "<user>: 头痛 <bot>: 多久了？ <user>: 三天", "input": "", "output": SAY}, TURNS),
    "marks-of-both": ({"question": f"问：{ASK}", "answer": f"答：{SAY}"}, CHAT),
    "marks-ranked": ({"question": f"病人：{ASK}\n医生：", "chosen": f"医生：{SAY}", "rejected": f"医生：{NO}"}, PAIR),
    "utterances": ({"utterances": [f"patient: {ASK}", f"doctor: {SAY}"]}, CHAT),
    "text": ({"title": "Colds", "content": SAY}, Text(SAY)),
}  # fmt: skip
FILES = ("a.jsonl", "cmcqa/medical_sft.json", "medmcqa/train.json", "hh-rlhf/exam.jsonl")


@pytest.mark.parametrize("name", DIALECTS)
def test_all_commands_read_a_file_alike_whatever_it_is_called(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """D1, D2, D6, D7, D11."""
    row, expected = DIALECTS[name]
    formats = []
    for file in FILES:
        path = write(tmp_path / file, row)
        found, made = check(path), dataset(path)
        assert not found.errors and found.kinds.total() == 1
        conversion = of_unknown(path)
        assert found.format == made.format == detect_file(path)
        assert list(conversion.formats.values()) + list(conversion.layouts) in ([found.format], [found.format.layout])
        assert records(made) == ([bare(expected)], [])
        assert [bare(record) for outcome in conversion.outcomes() for record in outcome] == [bare(expected)]
        assert measured(made).kinds == found.kinds
        formats.append(found.format)
    assert formats[1:] == formats[:-1]
    view.run([str(path)])
    assert "not usable" not in capsys.readouterr().out
    run_convert([str(path), "--output", str(tmp_path / "out.jsonl")])
    assert records(dataset(tmp_path / "out.jsonl")) == ([bare(expected)], [])


def test_clean_reads_a_file_as_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DIALECTS["options-columns"][0])
    run_clean([str(path), "--output", str(tmp_path / "out.jsonl"), "--catalogue_exams", "false"])
    assert records(dataset(tmp_path / "out.jsonl")) == ([bare(EXAM)], [])


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "utterances"])
def test_the_suggested_entry_reads_the_same(tmp_path: Path, name: str) -> None:
    row, expected = DIALECTS[name]
    found = check(write(tmp_path / "a.jsonl", row))
    assert found.entry is not None
    (tmp_path / "dataset_info.json").write_text(json.dumps(found.entry), encoding="utf-8")
    (made,) = load_datasets(["a"], DataOptions(dataset_dir=str(tmp_path)))
    assert records(made) == ([bare(expected)], [])


def test_columns_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D2: nothing is dropped without a word."""
    path = write(tmp_path / "a.jsonl", {"question": ASK, "answer": SAY, "triage_note": "x"})
    assert "not used  column 'triage_note'" in "\n".join(lines(check(path)))
    assert check_report(check(path))["columns_not_used"] == ["triage_note"]
    dataset(path)
    assert "columns not used: 'triage_note'" in capsys.readouterr().err
    run_convert([str(path), "--output", str(tmp_path / "out.jsonl")])
    assert "columns not used: 'triage_note'" in capsys.readouterr().err


@pytest.mark.parametrize("first", [2, 3])
def test_ranked_answers_are_pairs_whatever_row_comes_first(tmp_path: Path, first: int) -> None:
    """D6."""
    rows = [
        {"instruction": ASK, "input": "", "output": [SAY, "休息。", NO, "睡觉。"][:count]}
        for count in (first, 5 - first, 4, 1)
    ]
    made, refused = records(dataset(write(tmp_path / "a.jsonl", *rows)))
    ends = {2: "休息。", 3: NO, 4: "睡觉。"}
    assert [pair[1:] for pair in made] == [(SAY, ends[count]) for count in (first, 5 - first, 4)]
    assert refused == ["fewer than two ranked answers"]


def test_texts_with_marks_are_asked_for(tmp_path: Path) -> None:
    """D7: a text of turns is a conversation or plain text; nobody but its owner knows."""
    path = write(tmp_path / "a.jsonl", {"text": f"### Human: {ASK}\n### Assistant: {SAY}"})
    with pytest.raises(UserError, match=r'### Human:, ### Assistant:.*"speakers"'):
        dataset(path)
    assert records(entry(tmp_path, "a.jsonl", speakers={"### Human:": "user", "Assistant": "assistant"}))[0] == [
        CHAT.messages
    ]
    plain = entry(tmp_path, "a.jsonl", speakers={})
    assert records(plain)[0] == [f"### Human: {ASK}\n### Assistant: {SAY}"]


def test_who_declares_a_text_is_not_asked(tmp_path: Path) -> None:
    text = f"### Human: {ASK}\n### Assistant: {SAY}"
    write(tmp_path / "a.jsonl", {"text": text})
    columns = {"prompt": "text", "query": "", "response": "", "history": ""}
    assert records(entry(tmp_path, "a.jsonl", formatting="text"))[0] == [text]
    assert records(entry(tmp_path, "a.jsonl", columns=columns))[0] == [text]


def test_turns_that_marks_part_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D7: also where an entry names the columns, as its owner may not know of the marks."""
    row, expected = DIALECTS["marks"]
    write(tmp_path / "a.jsonl", row)
    made = entry(tmp_path, "a.jsonl", columns={"prompt": "input", "query": "", "response": "target", "history": ""})
    assert records(made)[0] == [bare(expected)]
    assert "parted into turns at their speaker marks" in capsys.readouterr().err


def test_marks_behind_an_instruction_are_asked_for(tmp_path: Path) -> None:
    """D7: the instruction may be a system message, or the dialogue a text to work on."""
    row = {"instruction": "你是医生。", "input": f"病人：{ASK}\n医生：", "output": SAY}
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError, match=r"病人：, 医生：.*speakers"):
        dataset(path)
    made = records(entry(tmp_path, "a.jsonl", speakers={"病人": "user", "医生": "assistant"}))[0]
    assert made == [(Message("system", "你是医生。"), *CHAT.messages)]
    (messages,) = records(entry(tmp_path, "a.jsonl", speakers={}))[0]
    assert messages[0].content == f"你是医生。\n病人：{ASK}\n医生："


def test_a_transcript_to_work_on_stays_a_text(tmp_path: Path) -> None:
    row = {"input": f"病人：{ASK}\n医生：{SAY}", "target": "感冒，已给建议。"}
    (messages,) = records(dataset(write(tmp_path / "a.jsonl", row)))[0]
    assert messages == (Message("user", row["input"]), Message("assistant", row["target"]))


def test_marks_that_come_late_are_refused(tmp_path: Path) -> None:
    """D7: a question with marks is not trained as one turn because the first rows have none."""
    plain = {"question": ASK, "answer": SAY}
    path = write(tmp_path / "a.jsonl", *[plain] * 120, plain | {"question": f"病人：{ASK}\n医生：哦\n病人：嗯"})
    assert records(dataset(path))[1] == ["speaker marks in the question"]


@pytest.mark.parametrize(
    "question", ["Patient: a man of 40 coughs. What helps?", "他问：怎么办？医生答：休息。对吗？", "Q: what is it?"]
)
def test_a_quoted_mark_is_text(tmp_path: Path, question: str) -> None:
    (messages,) = records(dataset(write(tmp_path / "a.jsonl", {"question": question, "answer": SAY})))[0]
    assert messages[0].content == question


def test_a_folder_of_several_kinds_has_an_output_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D8."""
    write(tmp_path / "in" / "a.jsonl", exam("A"))
    write(tmp_path / "in" / "b.jsonl", {"question": ASK, "answer": SAY})
    write(tmp_path / "in" / "c.jsonl", {"问": ASK, "答": SAY})
    run_convert([str(tmp_path / "in"), "--output", str(tmp_path / "out.jsonl")])
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "out-conversations.jsonl",
        "out-exam-questions.jsonl",
    ]
    assert "1 exam question" in capsys.readouterr().out
    for path, kind in (("out-conversations", Chat), ("out-exam-questions", Question)):
        made = dataset(tmp_path / f"{path}.jsonl")
        assert made.format.kind is kind and not records(made)[1]


def test_a_dataset_does_not_mix_kinds(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", exam("A"))
    write(tmp_path / "in" / "b.jsonl", {"question": ASK, "answer": SAY})
    with pytest.raises(UserError, match=r"a\.jsonl holds exam questions, .*b\.jsonl conversations"):
        entry(tmp_path, "in")


def test_the_format_of_most_rows_decides_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D9: the first row does not decide."""
    odd = {"note": "header", "version": 2}
    path = write(tmp_path / "a.jsonl", {"question": ASK, "answer": SAY}, odd, *[exam("A")] * 5)
    found = check(path)
    assert found.usable == 5 and sorted(line for one in found.errors.values() for line in one.lines) == [1, 2]
    assert found.errors["another format than the file's: alpaca, not exam"].lines == [1]
    assert len(records(dataset(path))[0]) == 5
    assert "2 of the first 7 rows do not fit: lines 1, 2" in capsys.readouterr().err


def test_files_that_a_dataset_does_not_name_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D10."""
    rows = [{"query": ASK, "response": SAY}]
    for name in ("ChatMed_Consult-v0.3.json", "mine.json", "notes.txt"):
        write(tmp_path / "in" / name, *rows)
    run_convert(["chatmed-consult", "--from", str(tmp_path / "in"), "--output", str(tmp_path / "out.jsonl")])
    said = capsys.readouterr().err
    assert "left out: 2 files" in said and "mine.json, notes.txt" in said


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"type": "t", "question": ASK, "reference_answer": SAY},
            ('"prompt": "question"', '"response": "reference_answer"'),
        ),
        ({"id": 1, "data": {"q": ASK, "a": SAY}}, ('"prompt": "data.q"', '"response": "data.a"')),
        (
            {"id": 7, "patient_question": ASK, "doctor_reply": SAY},
            ('"prompt": "patient_question"', '"response": "doctor_reply"'),
        ),
    ],
)
def test_a_file_of_no_known_format_says_what_to_write(
    tmp_path: Path, row: dict[str, Any], expected: tuple[str, str]
) -> None:
    """D12: the columns, the nearest format, the entry, and the path once; and the entry works."""
    path = write(tmp_path / "mine.jsonl", row)
    with pytest.raises(UserError) as refused:
        dataset(path)
    told = str(refused.value)
    assert told.count(str(path)) == 1 and "\n" not in told and "nearest: alpaca" in told
    assert all(repr(name) in told for name in row) and all(part in told for part in expected)
    assert SAY not in told and ASK not in told
    with pytest.raises(UserError) as converting:
        of_unknown(path)
    assert str(converting.value) == told
    (tmp_path / "dataset_info.json").write_text(told[told.index("{") :], encoding="utf-8")
    (made,) = load_datasets(["mine"], DataOptions(dataset_dir=str(tmp_path)))
    assert records(made)[0] == [CHAT.messages]


@pytest.mark.parametrize(
    ("row", "choice"),
    [
        ({"question": ASK, "answer": SAY, "response": NO}, "response"),
        ({"instruction": "Answer.", "question": ASK, "answer": SAY}, "question"),
        ({"question": ASK, "answer": SAY, "chosen": "x", "rejected": "y"}, "chosen"),
        ({"question": ASK, "answer": "B"}, "options"),
    ],
)
def test_two_columns_for_one_thing_are_asked_for(tmp_path: Path, row: dict[str, Any], choice: str) -> None:
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError, match=choice):
        dataset(path)
    assert check(path).errors and not check(path).usable


def test_rows_without_names_of_columns_say_how_to_write_them(tmp_path: Path) -> None:
    """D12."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([[ASK, SAY], [ASK, SAY]], ensure_ascii=False), encoding="utf-8")
    with pytest.raises(UserError, match="is not an object; write each row as an object with named columns") as refused:
        of_unknown(path)
    assert ASK not in str(refused.value)


def test_a_table_without_names_of_columns_shows_none_of_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zebrafish,Rest and drink.\nzebrafish,Rest.\n")
    for reading in (dataset, of_unknown):
        with pytest.raises(UserError) as refused:
            reading(path)
        assert "zebrafish" not in str(refused.value)


def test_check_and_stats_measure_the_same_under_the_same_names(tmp_path: Path) -> None:
    """D20."""
    turns = [
        {"from": who, "value": text}
        for who, text in (("human", "头痛"), ("gpt", "多久了？"), ("human", "三天"), ("gpt", SAY))
    ]
    path = write(tmp_path / "a.jsonl", *[{"conversations": turns}] * 3, {"conversations": turns[:2]})
    report, stats = check_report(check(path)), measured(dataset(path))
    for label, values in stats.measures:
        _, median, high, _, most = summary(values)
        assert report[label] == {"median": round(median), "p95": round(high), "most": round(most)}
    assert list(stats.asked) == [4, 4, 4, 2] and lengths_of(TURNS) == (4, 4 + len(SAY))


def test_the_answers_of_a_file_with_speaker_marks_keep_a_wrong_key_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": SAY})
    with pytest.raises(UserError, match='"user" or "assistant"'):
        entry(tmp_path, "a.jsonl", speakers={"病人": "patient"})
    with pytest.raises(UserError, match="answer_form"):
        entry(tmp_path, "a.jsonl", answer_form="numbers")


def test_a_layout_names_the_columns_that_it_does_not_use(tmp_path: Path) -> None:
    """A column that no record of a layout holds was dropped without a word."""
    path = tmp_path / "rows.jsonl"
    row = {
        "input": "我咳嗽三天了，需要吃药吗？选项：是，否", "target": "上述问题的答案：否", "task_dataset": "CHIP-X",
        "answer_choices": ["是", "否"], "note": "患者长期服用华法林抗凝治疗",
    }  # fmt: skip
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for _ in range(3)), encoding="utf-8")
    found = detect_file(path)
    assert found.layout == "prompt-cblue" and "note" in found.unused and "input" not in found.unused
    assert any("columns not used" in remark and "'note'" in remark for remark in found.remarks())
