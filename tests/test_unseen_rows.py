"""Rows in the styles of published datasets whose answers, order or passages a careless reader gets wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carellama.data.check.check import files_of
from carellama.data.check.report import lines
from carellama.data.detect_format import FIRST_ROWS
from carellama.data.exam_options import first_key, options_of
from carellama.errors import UserError
from carellama.privacy.deidentify import Deidentifier
from carellama.records import Chat, Message, Pair, Question, Record
from file_rows import ASK, CHAT, NO, PASSAGE, REST, SAY, SMOKE, STEM, bare, check, dataset, entry, exam, records, write
from test_prepare import config_of, prepared

ASKED = {"role": "user", "content": ASK}
PAIR = Pair((Message("user", ASK),), SAY, NO)


def _turns(answer: str) -> list[dict[str, str]]:
    return [ASKED, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["B. beta", "A. alpha", "C. gamma"], {"B": "beta", "A": "alpha", "C": "gamma"}),
        (["A. alpha", "C. gamma", "D. delta"], {"A": "alpha", "C": "gamma", "D": "delta"}),
        (["A. alpha", None, "C. gamma"], {"A": "alpha", "C": "gamma"}),
        (["2. beta", "1. alpha"], {"B": "beta", "A": "alpha"}),
        (["E. coli", "C. difficile", "B. cereus"], {"A": "E. coli", "B": "C. difficile", "C": "B. cereus"}),
        (["0.5 mg", "1.5 mg"], {"A": "0.5 mg", "B": "1.5 mg"}),
    ],
)
def test_options_keep_the_letters_and_numbers_that_they_begin_with(options: Any, expected: dict[str, str]) -> None:
    """Listed in another order, or without one, they had the letters of their positions: a wrong answer was right."""
    assert options_of(options) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"label": ["1", "2", "3", "4"], "text": ["w", "x", "y", "z"]},
        [{"key": str(number), "value": text} for number, text in enumerate("wxyz", 1)],
        ["2. x", "1. w", "3. y", "4. z"],
    ],
)
def test_the_numbers_of_options_tell_what_their_answers_count_from(options: Any, tmp_path: Path) -> None:
    assert first_key(options) == 1
    found = dataset(write(tmp_path / "a.jsonl", *(exam(answer, options) for answer in ("1", "2", "3"))))
    assert [made[2] for made in records(found)[0]] == [("A",), ("B",), ("C",)]


ROWS: dict[str, tuple[dict[str, Any], Record]] = {
    "pair beside all turns": ({"messages": _turns(SAY), "chosen": _turns(SAY), "rejected": _turns(NO)}, PAIR),
    "pair of texts beside all turns": ({"messages": _turns(SAY), "chosen": SAY, "rejected": NO}, PAIR),
    "pair of conversations": ({"prompt": ASK, "chosen": _turns(SAY), "rejected": _turns(NO)}, PAIR),
    "pair behind turns": ({"prompt": [ASKED], "chosen": _turns(SAY)[1:], "rejected": _turns(NO)[1:]}, PAIR),
    "judged by words": (
        {"prompt": ASK, "completion": NO, "label": "False"},
        Chat((Message("user", ASK), Message("assistant", NO)), good=False),
    ),
    "passage of a patient": (
        {"Patient Note": PASSAGE, "question": ASK, "answer": SAY},
        Chat((Message("user", f"{PASSAGE}\n{ASK}"), Message("assistant", SAY))),
    ),
    "scenario of an exam": (
        {"scenario": PASSAGE, "question": STEM, "options": [REST, SMOKE], "answer": "A"},
        Question("1", f"{PASSAGE}\n{STEM}", {"A": REST, "B": SMOKE}, ("A",)),
    ),
    "passage with numbers": (
        {"context": {"age": 45, "bp": "150/95"}, "question": ASK, "answer": SAY},
        Chat((Message("user", f"age: 45\nbp: 150/95\n{ASK}"), Message("assistant", SAY))),
    ),
    "passage in the second column": (
        {"context": "", "abstract": PASSAGE, "question": ASK, "answer": SAY},
        Chat((Message("user", f"{PASSAGE}\n{ASK}"), Message("assistant", SAY))),
    ),
    "passage named as a text": (
        {"document": PASSAGE, "question": ASK, "answer": SAY},
        Chat((Message("user", f"{PASSAGE}\n{ASK}"), Message("assistant", SAY))),
    ),
    "the prompt once more": ({"text": f"Q: {ASK} A: {SAY}", "question": ASK, "answer": SAY}, CHAT),
    "more of a question": (
        {"question": ASK, "input": PASSAGE, "output": SAY},
        Chat((Message("user", f"{ASK}\n{PASSAGE}"), Message("assistant", SAY))),
    ),
    "names in capitals": (
        {"Question": STEM, "OptionA": REST, "OptionB": SMOKE, "CorrectAnswer": "B"},
        Question("1", STEM, {"A": REST, "B": SMOKE}, ("B",)),
    ),
    "answer by the name of its column": (
        {"Question": STEM, "Option 1": REST, "Option 2": SMOKE, "Correct Answer": "Option 2"},
        Question("1", STEM, {"A": REST, "B": SMOKE}, ("B",)),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_nothing_of_a_row_is_lost(name: str, tmp_path: Path) -> None:
    row, expected = ROWS[name]
    found = dataset(write(tmp_path / "a.jsonl", row))
    assert records(found) == ([bare(expected)], [])
    if isinstance(expected, Chat):
        (made,) = (found.record(one) for one in found.rows())
        assert isinstance(made, Chat) and made.good == expected.good


@pytest.mark.parametrize("labels", [[1, 0], ["true", "false"], [True, False, None], ["desirable", "undesirable"]])
def test_answers_that_a_person_found_bad_are_not_taken_for_good(labels: list[Any], tmp_path: Path) -> None:
    """Words, 0 and 1, or one null among true and false made the column unknown: all were learned alike."""
    rows = [{"prompt": f"{ASK}{number}", "completion": SAY, "label": label} for number, label in enumerate(labels)]
    found = dataset(write(tmp_path / "a.jsonl", *rows))
    made = [found.record(row) for row in found.rows()]
    assert [one.good for one in made if isinstance(one, Chat)] == [True, False, None][: len(labels)]


def test_a_label_of_zero_alone_may_be_a_class_and_one_of_one_alone_is_a_judgement(tmp_path: Path) -> None:
    """Where the first hundred labels are 1, a 0 behind them was learned as a good answer."""
    assert "label" in check(write(tmp_path / "a.jsonl", {"question": ASK, "answer": SAY, "label": 0})).format.unused
    rows = [{"question": f"{ASK}{number}", "answer": SAY, "label": int(number < 120)} for number in range(121)]
    found = dataset(write(tmp_path / "b.jsonl", *rows))
    last = [found.record(row) for row in found.rows()][-1]
    assert isinstance(last, Chat) and last.good is False


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": ASK, "output": [NO, SAY], "scores": [1.0, 5.0]}, "another order"),
        ({"instruction": ASK, "output": [NO, SAY], "rank": [2, 1]}, "another order"),
        ({"input": ASK, "reasoning_content": "x", "content": SAY}, "may be the answer to 'input'"),
        ({"background": "Flu.", "case": PASSAGE, "question": ASK, "answer": SAY}, "may both hold what"),
        ({"query": ASK, "passage": PASSAGE}, "may be the answer to 'query'"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """The worse answer was the better one; the question was left out, and its answer learned as a plain text."""
    found = check(write(tmp_path / "a.jsonl", row))
    assert reason in found.format.problem and not found.kinds


def test_ranked_answers_in_the_order_of_their_scores_are_read(tmp_path: Path) -> None:
    row = {"instruction": ASK, "output": [SAY, NO], "scores": [5.0, 1.0], "rank": [1, 2]}
    assert records(dataset(write(tmp_path / "a.jsonl", row))) == ([bare(PAIR)], [])


def test_questions_in_columns_are_not_cut_to_the_first(tmp_path: Path) -> None:
    row = {"questions": [ASK, "头痛？"], "answers": [SAY, "休息。"]}
    assert not check(write(tmp_path / "a.jsonl", row)).kinds


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("My address is 221B Baker Street, London. My husband takes a drug.", ". My husband takes a drug."),
        ("I live at 12 oak street, takes aspirin 81 mg.", ", takes aspirin 81 mg."),
        ("phone 415-555-2671, 5 tablets a day", ", 5 tablets a day"),
        ("电话13812345678 120/80", " 120/80"),
        ("电话13812345678，2型糖尿病", "，2型糖尿病"),
    ],
)
def test_an_identifier_ends_before_the_words_behind_it(text: str, kept: str) -> None:
    """The town ran on over 25 characters, the number over the dose behind it, the name over a verb."""
    clean, _ = Deidentifier()(text)
    assert clean.endswith(f"]{kept}")


def test_a_name_with_a_verb_behind_it_has_the_number_of_the_name() -> None:
    assert Deidentifier()("丈夫孙浩。孙浩应查精液")[0] == "丈夫[NAME_1]。[NAME_1]应查精液"


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (
            {"source": "x", "instruction": ASK, "completions": [{"response": SAY}]},
            "'completions' holds a list of objects",
        ),
        ({"title": "x", "description": PASSAGE, "questions": [exam("A")]}, "'questions' holds a list of objects"),
        ({"id": "x", "question": ASK, "context": PASSAGE, "answers": {"text": [SAY]}}, "known to hold the answer"),
    ],
)
def test_the_advice_names_no_column_at_random_as_the_answer(row: dict[str, Any], advice: str, tmp_path: Path) -> None:
    problem = check(write(tmp_path / "a.jsonl", row)).format.problem
    assert advice in problem and '"response": "source"' not in problem and '"response": "context"' not in problem


@pytest.mark.parametrize(("name", "text"), [("a.html", "<html><p>5 mg</p></html>"), ("a.md", "# Dose\n\n5 mg\n")])
def test_check_says_of_a_document_that_it_is_one(name: str, text: str, tmp_path: Path) -> None:
    """It called a guideline an error page, and advised to download it once more, though convert reads it."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="data convert turns documents into texts"):
        files_of([str(tmp_path / name)])


NURSE = Message("system", "You are a nurse.")


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        ({"question": ASK, "answer": SAY}, {"context": PASSAGE}, Message("user", f"{PASSAGE}\n{ASK}")),
        ({"instruction": ASK, "output": SAY}, {"input": PASSAGE}, Message("user", f"{ASK}\n{PASSAGE}")),
        ({"instruction": ASK, "output": SAY}, {"system": NURSE.content}, NURSE),
        ({"messages": _turns(SAY)}, {"system": NURSE.content}, NURSE),
        ({"instruction": ASK, "output": SAY}, {"history": [[STEM, REST]]}, Message("user", STEM)),
    ],
)
def test_a_column_that_begins_late_is_read(
    row: dict[str, Any], more: dict[str, Any], expected: Message, tmp_path: Path
) -> None:
    """The columns are those of the first rows: the passage of a later row was left out of its question."""
    found = dataset(write(tmp_path / "a.jsonl", *[row] * FIRST_ROWS, {**row, **more}))
    made, refused = records(found)
    assert made[-1][0] == expected and made[0] == bare(CHAT) and not refused


def test_an_option_that_begins_late_is_refused(tmp_path: Path) -> None:
    row = {"question": STEM, "A": REST, "B": SMOKE, "C": "x", "answer": "A"}
    made, refused = records(dataset(write(tmp_path / "a.jsonl", *[row] * FIRST_ROWS, {**row, "D": "y"})))
    assert len(made) == FIRST_ROWS and refused == ["column 'D' is not in the first rows, so it would be lost"]


def test_the_entry_of_check_names_columns_that_begin_late(tmp_path: Path) -> None:
    """The entry lacked the passage of a later row, so that the same file was read by it without the passage."""
    row = {"question": ASK, "answer": SAY}
    path = write(tmp_path / "a.jsonl", *[row] * FIRST_ROWS, {**row, "context": PASSAGE, "ward": "B12"})
    found = check(path)
    assert found.entry is not None and found.entry["a"]["columns"]["context"] == "context"
    assert found.format.unused == ("ward",)
    assert records(entry(tmp_path, path.name, **{k: v for k, v in found.entry["a"].items() if k != "file_name"})) == (
        records(dataset(path))
    )


def test_an_entry_that_ignores_a_column_is_told_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"question": ASK, "answer": SAY, "ward": "B12"}
    path = write(tmp_path / "a.jsonl", *[row] * FIRST_ROWS, {**row, "context": PASSAGE})
    columns = {"prompt": "question", "response": "answer"}
    made, refused = records(entry(tmp_path, path.name, columns=columns))
    assert "columns not used: 'ward'" in capsys.readouterr().err
    assert len(made) == FIRST_ROWS and refused == ["column 'context' is not in the first rows, so it would be lost"]
    assert records(entry(tmp_path, path.name, columns={**columns, "context": ""})) == ([bare(CHAT)] * 101, [])
    late = records(entry(tmp_path, path.name, columns={**columns, "context": "context"}))[0][-1]
    assert late[0].content == f"{PASSAGE}\n{ASK}"


def test_a_table_named_txt_is_read_as_a_table(tmp_path: Path) -> None:
    """The header of a tab-separated table was a text to train on, as was each row."""
    path = tmp_path / "a.txt"
    path.write_text(f"question\tanswer\n{ASK}\t{SAY}\n", encoding="utf-8")
    assert records(dataset(path)) == ([bare(CHAT)], [])
    path.write_text(f"question,answer\n{ASK},{SAY}\n", encoding="utf-8")
    assert records(dataset(path)) == ([bare(CHAT)], [])
    path.write_text(f"{ASK}\t{SAY}\n{STEM}\t{REST}\n", encoding="utf-8")
    with pytest.raises(UserError, match="2 columns, divided by tabs"):
        dataset(path)
    assert len(records(entry(tmp_path, path.name, formatting="text"))[0]) == 2


@pytest.mark.parametrize(
    "text", ["1.\tDrink water.\n2.\tRest.\n", "Rest, water, text.\nDrink, sleep, eat.\n", f"{ASK}\n{SAY}"]
)
def test_texts_that_are_like_a_table_are_texts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    assert records(dataset(path)) == (text.splitlines(), [])


def test_a_file_without_answers_is_called_what_its_columns_say(tmp_path: Path) -> None:
    """It was said to have the layout of a dataset that it does not come from."""
    found = check(write(tmp_path / "a.json", *[{"instruction": ASK, "input": "", "output": ""}] * 2))
    assert found.format.row_format == "alpaca" and found.errors["empty answer"].lines == [1, 2]


def test_columns_that_are_not_used_are_in_the_report(tmp_path: Path, tiny_folder: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[{"question": ASK, "answer": SAY, "ward": "B12"}] * 3)
    for streaming in (False, True):
        found = prepared(config_of(tmp_path, path, streaming=streaming, max_steps=1), tiny_folder)
        assert found.report.to_dict()[str(path)]["said"] == ["columns not used: 'ward'"]


@pytest.mark.parametrize(("name", "up", "down"), [("label", 1, -1), ("thumbs", "up", "down"), ("标签", "好", "坏")])
def test_an_answer_that_a_person_did_not_like_is_not_learned(name: str, up: Any, down: Any, tmp_path: Path) -> None:
    """Only 1 and 0 were judgements; with 1 and -1 the bad answers were learned as the good ones."""
    rows = [{"prompt": ASK, "completion": SAY, name: value} for value in (up, down)]
    found = dataset(write(tmp_path / "a.jsonl", *rows))
    assert [found.record(row).good for row in found.rows()] == [True, False]
    graded = dataset(write(tmp_path / "b.jsonl", *rows, {**rows[0], name: 0}))
    assert graded.format.columns.good is None or name != "label"


def test_an_entry_of_ranked_answers_in_another_order_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[{"q": ASK, "responses": [NO, SAY], "scores": [1, 5]}] * 2)
    with pytest.raises(UserError, match="'scores' another order"):
        entry(tmp_path, path.name, columns={"prompt": "q", "response": "responses"})


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("conversations", '"[{""from"": ""human"", ""value"": ""%s""}, {""from"": ""gpt"", ""value"": ""%s""}]"'),
        ("messages", "\"[{'role': 'user', 'content': '%s'}, {'role': 'assistant', 'content': '%s'}]\""),
        ("instruction,output,history", "%s,%s,[]"),
        ("instruction,input,output", "%s,NaN,%s"),
    ],
)
def test_a_table_may_hold_lists_as_text_and_missing_values(header: str, cell: str, tmp_path: Path) -> None:
    """Turns as text were to be trained on as a text, every row with "[]" was refused, and NaN was asked."""
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n{cell % (ASK, SAY)}\n", encoding="utf-8")
    assert records(dataset(path)) == ([bare(CHAT)], [])


def test_an_array_a_line_is_no_list_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'["{ASK}", "{SAY}"]\n["{STEM}", "{REST}"]\n', encoding="utf-8")
    with pytest.raises(UserError, match="not an object"):
        dataset(path)


def test_a_comma_before_a_closing_bracket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"question": "q", "answer": "a",}]', encoding="utf-8")
    with pytest.raises(UserError, match="a comma before the closing bracket"):
        dataset(path)


def test_binary_columns_are_left_out_by_name(tmp_path: Path) -> None:
    """A column of bytes beside texts ended `check` with a traceback."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"note": b"\x89PNG", "question": ASK, "answer": SAY}, {"note": None, "question": "", "answer": ""}]
    parquet.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    assert check(tmp_path / "a.parquet").format.unused == ("note",)
    parquet.write_table(pa.Table.from_pylist([{"question": b"q", "answer": b"a"}]), tmp_path / "b.parquet")
    assert "column 'question' is not text" in check(tmp_path / "b.parquet").errors


def test_a_column_without_a_value_is_not_called_unused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,answer,\n{ASK},{SAY},\n", encoding="utf-8")
    assert check(path).format.unused == ()


def test_two_lines_are_no_conversation(tmp_path: Path) -> None:
    """They had the layout of a dataset of blocks, and a comma of the first was rewritten."""
    path = tmp_path / "a.txt"
    path.write_text("Rest, water and sleep.\nThey help, as a rule.\n")
    assert records(dataset(path))[0] == path.read_text().splitlines()


def test_the_sheet_of_a_row_is_named(tmp_path: Path) -> None:
    """Row 2 of the second sheet was told as row 2 of the file."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for sheet, answer in ((book.active, SAY), (book.create_sheet("b"), "")):
        sheet.append(["question", "answer"])
        sheet.append([ASK, answer])
    book.save(tmp_path / "a.xlsx")
    assert check(tmp_path / "a.xlsx").errors["empty answer"].lines == ["2 (sheet 2)"]


def test_turns_that_a_layout_leaves_out_are_told(tmp_path: Path) -> None:
    """A question without an answer at the end was left out of a conversation without a word."""
    turns = [("human", ASK), ("gpt", SAY), ("human", "那我明天可以去上班吗？")]
    rows = [{"conversations": [{"from": role, "value": text} for role, text in turns]}] * 3
    found = check(write(tmp_path / "a.jsonl", *rows))
    assert found.usable == 3 and found.format.partly == ("conversations",) and not found.format.unused
    assert any("questions without an answer" in one for one in dataset(tmp_path / "a.jsonl").remarks())
    assert any("in part" in line for line in lines(found))
