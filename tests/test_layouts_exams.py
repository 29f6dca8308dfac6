"""Layouts of exams: whatever way a file writes options and answers, the letters mean the same options."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from carellama.config.data_commands import ConvertOptions
from carellama.config.reader import parse_options
from carellama.data.catalogue.convert import Conversion, planned
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.convert import BadRecord
from carellama.data.exam_answers import letters_of
from carellama.data.exam_options import in_text
from carellama.data.readers import Row
from carellama.errors import UserError
from carellama.records import NOWHERE, Chat, Question, Record

STEM = "正常人安静时每分钟呼吸多少次？"
OPTIONS = {"A": "2～4次", "B": "12～20次", "C": "60～80次", "D": "以上都不是"}


def plan(name: str, path: Path) -> Conversion:
    (arguments,) = parse_options((ConvertOptions,), [name, "--from_path", str(path)], "convert", positional="name")
    return planned(arguments)


def account(conversion: Conversion) -> tuple[list[Record], Counter[str]]:
    found: list[Record] = []
    skipped: Counter[str] = Counter()
    for outcome in conversion.outcomes():
        if isinstance(outcome, BadRecord):
            skipped[outcome.reason] += 1
        else:
            found += outcome
    return found, skipped


def converted(name: str, path: Path) -> tuple[list[Record], Counter[str]]:
    return account(plan(name, path))


def written(path: Path, value: Any) -> Path:
    text = value if isinstance(value, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value)
    path.write_text(text, encoding="utf-8")
    return path


CMEXAM = "Question,Options,Answer,Explanation,Medical Discipline,Difficulty level\n"
CELL = "\n".join(f"{letter} {text}" for letter, text in OPTIONS.items())
LINES = "\n".join(f"{letter}: {text}" for letter, text in OPTIONS.items())
CMB = {"exam_type": "医师考试", "question": STEM, "option": {**OPTIONS, "E": None, "F": ""}}


@pytest.mark.parametrize(
    ("name", "suffix", "rows"),
    [
        ("medqa", "jsonl", [{"question": STEM, "answer": "12～20次", "options": OPTIONS, "answer_idx": "B"}]),
        ("medqa", "jsonl", [{"question": STEM, "answer": "12～20次", "options": [
            {"key": letter, "value": text} for letter, text in OPTIONS.items()]}]),
        ("medqa", "jsonl", [{"question": STEM, "anwer": "(B)", "source": "x",
                             "option": "\n".join(f"({letter}) {text}." for letter, text in OPTIONS.items())}]),
        ("medmcqa", "jsonl", [
            {"question": STEM, "opa": "2～4次", "opb": "12～20次", "opc": "60～80次", "opd": "以上都不是", "cop": 2,
             "exp": "Ans. is 'b' i.e. 12～20次"}]),
        ("cmexam", "csv", f'{CMEXAM}{STEM},"{CELL}",B,,临床医学,1\n'),
        ("cmexam", "jsonl", [
            {"problem_id": 0, "problem_text": STEM, "choices": list(OPTIONS.values()), "answer": ["b"]}]),
        ("cmmlu-medical", "csv", f",Question,A,B,C,D,Answer\n0,{STEM},{','.join(OPTIONS.values())},B\n"),
        ("mmlu-medical", "csv", f'"{STEM}",{",".join(OPTIONS.values())},B\n'),
        ("mmlu-medical", "jsonl", [
            {"question": STEM, "subject": "anatomy", "choices": list(OPTIONS.values()), "answer": 1}]),
        ("cmb", "json", [{**CMB, "answer": "B"}]),
        ("cmb", "json", [{"question": f"{STEM}\n{LINES}\n", "answer": "B\n"}]),
    ],
)  # fmt: skip
def test_each_layout_gives_the_same_question(tmp_path: Path, name: str, suffix: str, rows: Any) -> None:
    (question,), skipped = converted(name, written(tmp_path / f"a file.{suffix}", rows))
    assert isinstance(question, Question) and not skipped
    assert (question.stem, question.options, question.answers) == (STEM, OPTIONS, ("B",))


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("AC", "AC"), ("CA", "AC"), ("A,C", "AC"), ("A、C", "AC"), ("ac", "AC"), ("ＡＣ", "AC"), ("(AC)", "AC"),
        ("答案：A", "A"), ("正确答案是A。", "A"), ("Answer: (D)", "D"), ("The correct answer is D", "D"),
        (["a", "c"], "AC"), ("12～20次", "B"), (" D\n", "D"), ("B. 12～20次", "B"), (["B"], "B"),
    ],
)  # fmt: skip
def test_answers_are_understood(answer: Any, letters: str) -> None:
    assert letters_of(Row({}, NOWHERE), answer, OPTIONS) == tuple(letters)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("E", "the answer is not an option"), ("AE", "the answer is not an option"), ("", "no answer"),
        (None, "no answer"), ([], "no answer"), (2, "the answer is not letters"), ("略", "the answer is not letters"),
        ("Both", "the answer is not letters"), ("AA", "the answer names a letter twice"),
        ("AAC", "the answer names a letter twice"), ("A. 12～20次", "the answer is not letters"),
    ],
)  # fmt: skip
def test_other_answers_are_a_counted_skip(answer: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as refused:
        letters_of(Row({}, NOWHERE), answer, OPTIONS)
    assert refused.value.reason == reason


def test_options_stand_in_lines_of_the_text() -> None:
    assert in_text("Which?\nA. one\nB、two\nstill two\nＣ：three") == (
        "Which?",
        {"A": "one", "B": "two\nstill two", "C": "three"},
    )
    assert in_text("A man of 40 coughs.\nA) one\nB) two")[0] == "A man of 40 coughs."
    assert in_text("(A) vitamin\nA (retinol)\n(B) vitamin D")[1]["A"].startswith("vitamin")
    assert in_text("A: one\nB: two\nD: four")[1] == {"A": "one", "B": "two", "D": "four"}
    assert in_text("A: one\nC. difficile\nB: two")[1] == {"A": "one\nC. difficile", "B": "two"}
    assert in_text("Which? A.one B.two C.three") == ("Which?", {"A": "one", "B": "two", "C": "three"})
    assert in_text("no options\nA. but one") == ("no options\nA. but one", {})


def medmcqa(cop: int, explanation: str = "") -> dict[str, Any]:
    return {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": cop, "exp": explanation}


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        ([medmcqa(1), medmcqa(4)], "AD"),  # a 4: the makers' files, from 1
        ([medmcqa(1), medmcqa(0)], "BA"),  # a 0: the hub's, from 0
        ([medmcqa(1), medmcqa(2, "Ans. is 'c' i.e. c")], "BC"),  # neither: the explanation tells
        ([medmcqa(1), medmcqa(2, "Ans: B")], "AB"),
        ([medmcqa(1), medmcqa(2)], ""),  # nothing tells: no guess
        ([medmcqa(0), medmcqa(4)], ""),
    ],
)
def test_what_cop_counts_from_is_known_or_there_is_no_answer(
    tmp_path: Path, rows: list[dict[str, Any]], answers: str
) -> None:
    found, skipped = converted("medmcqa", written(tmp_path / "a.jsonl", [*rows, medmcqa(-1)]))
    assert "".join(one.answers[0] for one in found if isinstance(one, Question)) == answers
    assert skipped["no answer"] == 1
    assert skipped["whether cop counts from 0 or from 1 is not known"] == (0 if answers else 2)


def test_test_questions_get_their_answers_by_id(tmp_path: Path) -> None:
    questions = [{"id": number, **CMB} for number in (1, 2, 3)]
    written(tmp_path / "CMB-test-choice-question-merge.json", questions)
    written(tmp_path / "CMB-test-choice-answer.part1of2.json", [{"id": 1, "exam_type": "x", "answer": "BC"}])
    written(
        tmp_path / "CMB-test-choice-answer.part2of2.json",
        [{"id": 2, "answer": "F"}, {"id": 9, "answer": "A"}, {"id": 1, "answer": "D"}],
    )
    arguments = ["cmb", "--from_path", str(tmp_path), "--split", "held_out"]
    found, skipped = account(planned(parse_options((ConvertOptions,), arguments, "convert", positional="name")[0]))
    assert [(one.id, one.answers) for one in found if isinstance(one, Question)] == [("1", ("B", "C"))]
    assert skipped == {
        "the answer is not an option": 1,
        "no answer": 1,
        "an answer without its question": 1,
        "a second answer with one id": 1,
    }


def test_a_case_is_one_conversation(tmp_path: Path) -> None:
    case = {"id": "0", "title": "咳嗽", "description": "病人咳嗽两天。", "QA_pairs": [
        {"question": "如何处理？", "answer": "多喝水。"}, {"question": "还有呢？", "solution": "休息。"}]}  # fmt: skip
    (chat,), _ = converted("cmb", written(tmp_path / "a.json", [case]))
    assert isinstance(chat, Chat)
    assert [one.content for one in chat.messages] == ["病人咳嗽两天。\n\n如何处理？", "多喝水。", "还有呢？", "休息。"]


def test_training_questions_can_be_conversations(tmp_path: Path) -> None:
    path = written(tmp_path / "CMB-train.json", [{**CMB, "answer": "B", "explanation": "安静时如此。"}])
    (chat,), _ = converted("cmb:sft", path)
    assert isinstance(chat, Chat)
    assert chat.messages[0].content == f"{STEM}\nA. 2～4次\nB. 12～20次\nC. 60～80次\nD. 以上都不是"
    assert chat.response == "答案：B\n安静时如此。"


def test_answers_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    row = {"question": STEM, "answer": "2～4次", "options": OPTIONS, "answer_idx": "B"}
    assert converted("medqa", written(tmp_path / "a.jsonl", [row])) == ([], {"answer and answer_idx disagree": 1})


def test_another_kind_of_file_is_refused_with_the_field_and_the_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl:1 has no 'Question', it has 'title'"):
        plan("cmmlu-medical", written(tmp_path / "a.jsonl", [{"title": "x"}]))


REAL = [
    ("medqa/apollo_medqa-mcmle_test.jsonl", "apollo-exam", 3426),
    ("medqa/apollo_medqa-mcmle_dev.jsonl", "apollo-exam", 171),
    ("medqa/apollo_medqa-usmle_test.jsonl", "apollo-exam", 1273),
    ("medqa/apollo_medqa-usmle_dev.jsonl", "apollo-exam", 63),
    ("cmexam/apollo_cmexam_test.jsonl", "apollo-exam", 2000),
    ("cmexam/apollo_cmexam_dev.jsonl", "apollo-exam", 100),
    ("cmexam/aist_cmexam_test.part1of2.jsonl", "aist-exam", 4801),
    ("cmexam/cmexam_test_01_clinical_depart.csv", "cmexam", 606),
    ("cmmlu-medical/test_clinical_knowledge.csv", "cmmlu", 237),
    ("cmmlu-medical/test_college_medicine.csv", "cmmlu", 273),
    ("cmmlu-medical/test_college_medical_statistics.csv", "cmmlu", 106),
    ("cmmlu-medical/test_professional_medicine.csv", "cmmlu", 376),
    ("cmmlu-medical/test_traditional_chinese_medicine.csv", "cmmlu", 185),
    ("cmmlu-medical/dev_anatomy.csv", "cmmlu", 5),
    ("cmb/CMB-Exam_Medical_Practitioner.json", "question-in-text", 500),
    ("cmb/CMB-Exam_Medical_Technology.json", "question-in-text", 500),
    ("cmb/CMB-Exam_Professional.json", "question-in-text", 500),
    ("cmb/CMB-Clin-qa.json", "cmb-clin", 74),
]


@pytest.mark.parametrize(("file", "layout", "rows"), REAL)
def test_real_files_are_read_whole(real_data: Path, file: str, layout: str, rows: int) -> None:
    conversion = plan(file.partition("/")[0], real_data / file)
    found, skipped = account(conversion)
    assert list(conversion.layouts) == [layout] and len(found) == rows and not skipped
    for one in found:
        if isinstance(one, Question):
            assert len(one.options) >= 2 and all(text.strip() for text in one.options.values()), one.place
            assert "".join(one.options) == "ABCDEFGH"[: len(one.options)], one.place


def test_answers_without_their_questions_are_a_row_each(real_data: Path) -> None:
    outcomes = list(LAYOUTS["cmb-test"].joined(sorted(real_data.glob("cmb/CMB-test-choice-answer.*"))))  # type: ignore[misc]
    assert Counter(one.reason for one in outcomes if isinstance(one, BadRecord)) == {
        "an answer without its question": 11200
    }


def test_a_question_without_an_answer_is_a_counted_skip(tmp_path: Path) -> None:
    rows = [{"question": f"{STEM}\n{LINES}"}, {"question": f"{STEM}\n{LINES}", "answer": "b"}]
    found, skipped = converted("cmb", written(tmp_path / "a.json", rows))
    assert len(found) == 1 and skipped == {"no answer": 1}
