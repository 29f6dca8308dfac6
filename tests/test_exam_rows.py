"""Exam questions of any file: options and answers mean what their writer meant, or their owner is asked.

The faults D1 and D15 were options that were dropped, and answers that were refused or read as something else.
"""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carellama.data.catalogue.convert import of_unknown
from carellama.data.check.report import lines
from carellama.errors import UserError
from carellama.records import Message
from file_rows import AB, ASK, CHAT, REST, SAY, SMOKE, STEM, check, dataset, entry, exam, records, write


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        ([exam(2), exam(4)], "BD"),  # a 4 of 4: from 1
        ([exam(2), exam(0)], "CA"),  # a 0: from 0
        ([exam("2"), exam("4")], "BD"),
        ([exam(1), exam(2, explanation="Ans. is 'c'")], "BC"),  # the explanation tells
        ([exam("a"), exam("A,C"), exam(["A", "C"]), exam("AC")], "A AC AC AC"),
        ([exam("10", tuple("abcdefghij"))], "J"),
        ([exam("1,3"), exam("4")], "AC D"),
        ([exam(2, {"1": "w", "2": "x", "3": "y"})], "B"),  # the options' own numbers tell
        ([exam("AB", ("O", "A", "B", "AB")), exam("D", ("O", "A", "B", "AB"))], " D"),  # letters, or the fourth text
        ([exam("y"), exam("X")], "CB"),  # texts of options
    ],
)
def test_answers_are_read_by_the_evidence_of_all_rows(tmp_path: Path, rows: list[dict[str, Any]], answers: str) -> None:
    """D1, D15."""
    made = records(dataset(write(tmp_path / "a.jsonl", *rows)))[0]
    assert ["".join(one[2]) for one in made] == (
        [one for one in answers.split(" ") if one] if " " in answers else list(answers)
    )


@pytest.mark.parametrize(
    "rows",
    [
        [exam(1), exam(3)],  # from 0 or from 1
        [exam(0), exam(4)],  # from neither
        [exam("3", ("2", "3", "4", "5"))],  # the second text, or the third option
        [exam("A", ("O", "A", "B", "AB"))],  # the letter, or the second text
    ],
)
def test_unclear_answers_are_asked_for(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(UserError, match="answer_form") as refused:
        dataset(path)
    assert str(refused.value).count(str(path)) == 1
    with pytest.raises(UserError, match="answer_form"):
        of_unknown(path)
    assert "answer_form" in "\n".join(lines(check(path)))
    for form in ("index_from_0", "letters", "text"):
        assert entry(tmp_path, "a.jsonl", answer_form=form).format.columns.answer_form == form


@pytest.mark.parametrize("options", [["0.5 mg", "1.5 mg"], ["A cells", "B cells"], ["1:2", "2:3"], ["2 h", "4 h"]])
def test_the_texts_of_options_stay_whole(tmp_path: Path, options: list[str]) -> None:
    """A dose is no numbered option, and cells of a kind are no letter."""
    for written in (options, "|".join(options)):
        made = records(dataset(write(tmp_path / "a.jsonl", exam("A", written))))[0]
        assert list(made[0][1].values()) == options


def test_a_column_that_may_hold_options_is_asked_for(tmp_path: Path) -> None:
    row = {"question": ASK, "answer": SAY, "options": {"temperature": 1}}
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError, match="'options' may hold the options of an exam"):
        dataset(path)
    assert records(entry(tmp_path, "a.jsonl", formatting="alpaca"))[0] == [CHAT.messages]


@pytest.mark.parametrize("answer", ["AA", "E", "略", None, "AAC"])
def test_an_answer_that_is_none_is_a_counted_row(tmp_path: Path, answer: Any) -> None:
    made, refused = records(dataset(write(tmp_path / "a.jsonl", exam("A"), exam("B"), exam(answer))))
    assert len(made) == 2 and len(refused) == 1


def test_answers_that_disagree_are_refused(tmp_path: Path) -> None:
    row = {"question": STEM, "options": AB, "answer": REST, "answer_idx": "A"}
    made, refused = records(dataset(write(tmp_path / "a.jsonl", row, row | {"answer_idx": "B"})))
    assert len(made) == 1 and refused == ["columns 'answer_idx' and 'answer' disagree"]


def test_a_row_with_options_is_never_a_question_with_an_answer(tmp_path: Path) -> None:
    """D1: also where most rows of the file are, and where the row comes late."""
    path = write(tmp_path / "a.jsonl", *({"question": ASK, "answer": SAY} for _ in range(150)), exam("A"))
    made, refused = records(dataset(path))
    assert len(made) == 150 and refused == ["another format than the file's: exam, not alpaca"]


def test_a_table_may_hold_options_as_text(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(
        [["question", "options", "answer"], [STEM, repr([REST, SMOKE]), "2"], [STEM, json.dumps(AB), "1"]]
    )
    (tmp_path / "a.csv").write_text(text.getvalue())
    made, refused = records(dataset(tmp_path / "a.csv"))
    assert [one[1:3] for one in made] == [(AB, ("B",)), (AB, ("A",))] and not refused


def test_an_entry_that_leaves_options_out_has_to_say_so(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", exam("A"))
    columns = {"prompt": "question", "query": "", "response": "answer", "history": ""}
    with pytest.raises(UserError, match=r'"formatting": "exam".*"formatting": "alpaca"'):
        entry(tmp_path, "a.jsonl", columns=columns)
    assert records(entry(tmp_path, "a.jsonl", columns=columns, formatting="alpaca"))[0] == [
        (Message("user", STEM), Message("assistant", "A"))
    ]


@pytest.mark.parametrize(
    "text", ["A.甲；B.乙；C.丙", "A.甲；B.乙；C.丙。", "A. 甲; B. 乙; C. 丙;", "(A)甲，(B)乙，(C)丙"]
)
def test_what_parts_the_options_of_a_cell_is_no_part_of_them(text: str, tmp_path: Path) -> None:
    made, _ = records(dataset(write(tmp_path / "a.jsonl", exam("B", text))))
    assert made[0][1] == {"A": "甲", "B": "乙", "C": "丙"}


def _flagged(*right: bool, name: str = "is_correct") -> list[dict[str, Any]]:
    return [{"text": text, name: flag} for text, flag in zip((REST, SMOKE), right, strict=True)]


@pytest.mark.parametrize("name", ["is_correct", "isCorrect", "correct"])
def test_options_that_say_whether_they_are_right_are_the_answer(name: str, tmp_path: Path) -> None:
    """They were refused, as no column holds the answer."""
    rows = [{"question": STEM, "options": _flagged(*right, name=name)} for right in ((False, True), (True, True))]
    path = write(tmp_path / "a.jsonl", *rows, {"question": STEM, "options": _flagged(False, False, name=name)})
    made, refused = records(dataset(path))
    assert [(one[1], one[2]) for one in made] == [(AB, ("B",)), (AB, ("A", "B"))]
    assert refused == ["no option is marked as right"]
    found = check(path).entry
    assert found is not None
    own = records(entry(tmp_path, path.name, **{key: value for key, value in found["a"].items() if key != "file_name"}))
    assert own == (made, refused)


def test_an_answer_that_the_options_do_not_mark_is_refused(tmp_path: Path) -> None:
    rows = [{"question": STEM, "options": _flagged(True, False), "answer": answer} for answer in "AAB"]
    made, refused = records(dataset(write(tmp_path / "a.jsonl", *rows)))
    assert len(made) == 2 and refused == ["column 'answer' and the option marked as right disagree"]


def test_options_in_columns_count_from_0(tmp_path: Path) -> None:
    """The first of them was left out, and the answer counted from the second."""
    row = {"question": STEM, "option_0": "w", "option_1": "x", "option_2": "y", "correct": "option_1"}
    made, _ = records(dataset(write(tmp_path / "a.jsonl", row)))
    assert made[0][1:3] == ({"A": "w", "B": "x", "C": "y"}, ("B",))


def test_small_letters_in_a_question_are_its_options(tmp_path: Path) -> None:
    """The question was learned with the bare letter as its answer."""
    rows = [{"input": f"{STEM} (a) 5 mg (b) 10 mg (c) 15 mg", "output": letter} for letter in "bc"]
    made, _ = records(dataset(write(tmp_path / "a.jsonl", *rows)))
    assert [one[:3] for one in made] == [
        (STEM, {"A": "5 mg", "B": "10 mg", "C": "15 mg"}, (letter,)) for letter in "BC"
    ]


def test_circled_numbers_begin_options(tmp_path: Path) -> None:
    rows = [exam("②", "① 5 mg ② 10 mg ③ 15 mg"), exam("①", "①5 mg；②10 mg；③15 mg")]
    made, _ = records(dataset(write(tmp_path / "a.jsonl", *rows)))
    assert [one[1] for one in made] == [{"A": "5 mg", "B": "10 mg", "C": "15 mg"}] * 2
    assert [one[2] for one in made] == [("B",), ("A",)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A、维生素C、叶酸B、铁C、钙D、锌", ["维生素C、叶酸", "铁", "钙", "锌"]),
        (
            "A. E. coli B. C. difficile C. S. aureus D. H. pylori",
            ["E. coli", "C. difficile", "S. aureus", "H. pylori"],
        ),
        ("A. E. coli B. H. pylori", ["E. coli", "H. pylori"]),
        ("A. B. fragilis B. E. coli", ["B. fragilis", "E. coli"]),
        ([{"A": "5"}, {"B": "10"}], ["5", "10"]),
        ([["A", "5"], ["B", "10"]], ["5", "10"]),
        ("A. 1.5; B. 2.5; C. 3.5.", ["1.5", "2.5", "3.5"]),
    ],
)
def test_a_letter_within_an_option_begins_no_option(text: Any, options: list[str], tmp_path: Path) -> None:
    """The C of vitamin C was option C, so that B was lost, and of two bacteria "coli B." was left."""
    made, _ = records(dataset(write(tmp_path / "a.jsonl", exam("B", text))))
    assert made[0][1] == dict(zip("ABCD", options, strict=False))
    inside = f"{STEM} {text}" if isinstance(text, str) and text.startswith("A. ") else None
    asked = [{"question": inside or STEM, "answer": "B", **({} if inside else {"options": text})}]
    assert records(dataset(write(tmp_path / "b.jsonl", *asked)))[0] == made


@pytest.mark.parametrize("given", [["one 1", "two 2"], {"A": "one 1", "B": "two 2"}, 12])
def test_an_explanation_may_be_a_list_or_an_object(given: Any, tmp_path: Path) -> None:
    """It was read as none, although its column was said to be used."""
    made, _ = records(dataset(write(tmp_path / "a.jsonl", exam("B", explanation=given))))
    expected = {list: "one 1\ntwo 2", dict: "A: one 1\nB: two 2", int: "12"}
    assert made[0][3] == expected[type(given)]


def test_columns_in_traditional_characters_and_decimals(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made, _ = records(dataset(write(tmp_path / "a.jsonl", {"題目": STEM, "選項": AB, "答案": "B"})))
    assert made[0][:3] == (STEM, AB, ("B",))
    row = {"question": STEM, "A": Decimal("0.50"), "B": Decimal("1.50"), "answer": "B"}
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert records(dataset(tmp_path / "a.parquet"))[0][0][1] == {"A": "0.50", "B": "1.50"}
