"""Layouts of exam questions: MedQA, MedMCQA, CMExam, CMMLU, MMLU, CMB, and the two benchmarks that render these.

    LAYOUTS["apollo-exam"].convert(Path("medqa-usmle_test.jsonl"))

Options and answers are read by `carellama.data.exam_options`. Where a training split may also teach, a second layout
of the same rows makes a conversation of each (`...-sft`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from carellama.data.catalogue.layout import Layout, Outcome, first_row, make_chat, meta_of, outcomes, text_of
from carellama.data.convert import BadRecord
from carellama.data.exam_answers import Sample, answer_forms, letters_of, make_question, numbers_of
from carellama.data.exam_options import in_text, listed
from carellama.data.readers import BadRow, Row, headless, kind_of, rows
from carellama.records import Chat, Message, Question
from carellama.text import HAN_CHARACTER

MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
COPS = ("opa", "opb", "opc", "opd")


def _apollo(row: Row) -> Question:
    """{question, option "(A) ….", a line each, anwer "(A)", source}, and PubMedQA's context: Apollo.

    Its rendering puts a full stop behind each option, which is taken off again.
    """
    options = {letter: text.removesuffix(".") for letter, text in in_text(text_of(row, "option"))[1].items()}
    answer = row.fields.get("anwer", row.fields.get("answer"))
    return make_question(row, _behind_context(row, "question"), options, answer, source=row.fields.get("source"))


def _behind_context(row: Row, column: str) -> str:
    stem, context = text_of(row, column), text_of(row, "context", required=False)
    return f"{context}\n{stem}" if context else stem


def _aist(row: Row) -> Question:
    """{problem_id, problem_text, choices, answer ["c"]}, and PubMedQA's context: aistairc/medLLM_QA_benchmark."""
    stem, options = _behind_context(row, "problem_text"), listed(row, "choices")
    return make_question(row, stem, options, row.fields.get("answer"), id=row.fields.get("problem_id"))


def _medqa(row: Row) -> Question:
    """{question, options, answer_idx "D", answer (its text), meta_info, rationale}: MedQA, MMedBench."""
    options = listed(row, "options")
    answer, letter = row.fields.get("answer"), row.fields.get("answer_idx")
    if letter not in (None, "") and isinstance(answer, str) and answer.strip():
        said = [one for one, text in options.items() if text == answer.strip()]
        if said and not set(said) & set(letters_of(row, letter, options)):
            raise BadRecord(row.place, "answer and answer_idx disagree", f"answer is option {said[0]}, not {letter}")
    return make_question(
        row,
        text_of(row, "question"),
        options,
        answer if letter in (None, "") else letter,
        explanation=row.fields.get("rationale"),
        source=row.fields.get("meta_info"),
    )


def _medmcqa_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a MedMCQA file, each with the field `base`: what its `cop` counts from, None where nothing tells.

    The makers' files count the right option from 1 to 4, those of the hub from 0 to 3. A 0 or a 4 anywhere in a
    file tells; in a file with neither the explanations do ("Ans. is 'c' i.e. ..."). An answer that is off by one is
    worse than none, so a file of which neither is known has no answers.
    """
    first = first_row(path)
    base = _base_of(path) if first is not None and "cop" in first.fields else None
    for row in rows(path):
        yield Row({**row.fields, "base": base}, row.place) if isinstance(row, Row) else row


def _base_of(path: Path) -> int | None:
    forms = answer_forms(
        Sample(row, _number(row.fields.get("cop")), dict(zip("ABCD", COPS, strict=True)), row.fields.get("exp"))
        for row in rows(path)
        if isinstance(row, Row) and _number(row.fields.get("cop")) is not None
    )
    return int(forms[0][-1]) if len(forms) == 1 and forms[0].startswith("index") else None


def _number(value: Any) -> int | None:
    """A whole number, also as text or 2.0; None for anything else (half of one would shift a whole file's answers)."""
    numbers = numbers_of(value) or []
    return numbers[0] if len(numbers) == 1 else None


def _medmcqa(row: Row) -> Question:
    """{question, opa … opd, cop, exp, subject_name, topic_name, choice_type, id}: MedMCQA."""
    options = {letter: text_of(row, column, required=False) for letter, column in zip("ABCD", COPS, strict=True)}
    cop, base = _number(row.fields.get("cop")), row.fields["base"]
    if cop is None or cop < 0:
        raise BadRecord(row.place, "no answer", "as in the test split, whose answers are not published")
    if base is None:
        raise BadRecord(row.place, "whether cop counts from 0 or from 1 is not known", "give the whole file")
    if not 0 <= cop - base < 4:
        raise BadRecord(row.place, "the answer is not an option", f"cop {cop}, counted from {base}")
    fields = row.fields
    return make_question(
        row, text_of(row, "question"), options, "ABCD"[cop - base], explanation=fields.get("exp"), id=fields.get("id"),
        subject=fields.get("subject_name"), topic=fields.get("topic_name"),
    )  # fmt: skip


def _cmexam(row: Row) -> Question:
    """Question, Options (one cell, a line an option), Answer "ABD", Explanation and what the question is about."""
    fields = {name: value for name, value in row.fields.items() if value != "不符合"}  # "does not apply"
    return make_question(
        row, text_of(row, "Question"), in_text(text_of(row, "Options"))[1], fields.get("Answer"),
        explanation=fields.get("Explanation"), subject=fields.get("Medical Discipline"),
        department=fields.get("Clinical Department"), disease=fields.get("Disease Group"),
        competency=fields.get("Area of Competency"), difficulty=fields.get("Difficulty level"),
    )  # fmt: skip


def _cmmlu(row: Row) -> Question:
    """ "", Question, A, B, C, D, Answer: CMMLU, a file a subject."""
    return _by_subject(row, "Question", "Answer", row.fields.get(""))


def _mmlu(row: Row) -> Question:
    """question, A, B, C, D, answer, without a header: MMLU, a file a subject."""
    return _by_subject(row, "question", "answer")


def _mmlu_hub(row: Row) -> Question:
    """{question, subject, choices, answer 0-3}: MMLU on the hub."""
    options, answer = listed(row, "choices"), _number(row.fields.get("answer"))
    letter = None if answer is None or answer < 0 else "ABCDEFGH"[answer : answer + 1]
    return make_question(row, text_of(row, "question"), options, letter, subject=row.fields.get("subject"))


def _by_subject(row: Row, question: str, answer: str, number: object = None) -> Question:
    """A row of the columns A to D; its subject is `anatomy` in test/anatomy.csv, test_anatomy.csv, anatomy_test.csv."""
    subject = Path(row.place.file).stem
    for split in ("test", "dev", "val"):
        subject = subject.removeprefix(f"{split}_").removesuffix(f"_{split}")
    options = {letter: text_of(row, letter, required=False) for letter in "ABCD"}
    return make_question(row, text_of(row, question), options, row.fields.get(answer), id=number, subject=subject)


def _is_mmlu(path: Path) -> bool:
    """Whether a file is CSV of six columns of which the last is a letter, from its first row on."""
    if kind_of(path) != "csv":
        return False
    first = next(headless(path, MMLU_COLUMNS), None)
    return isinstance(first, Row) and first.fields["answer"].strip() in tuple("ABCD")


def _cmb(row: Row) -> Question:
    """{exam_type, exam_class, exam_subject, question, option {A..F, null allowed}, answer "BCDE"}: CMB-Exam."""
    fields = row.fields
    return make_question(
        row, text_of(row, "question"), listed(row, "option"), fields.get("answer"), id=fields.get("id"),
        explanation=fields.get("explanation"), subject=fields.get("exam_subject"), exam=fields.get("exam_class"),
        source=fields.get("exam_type"), kind=fields.get("question_type"),
    )  # fmt: skip


def _has_options(path: Path, *, answered: bool) -> bool:
    row = first_row(path)
    if row is None or not isinstance(row.fields.get("option"), (dict, list)) or "question" not in row.fields:
        return False
    return bool(row.fields.get("answer")) == answered


def _is_cmb_test(path: Path) -> bool:
    """The test questions, which have no answers, or (a part of) the file of their answers, which has no questions."""
    row = first_row(path)
    answers = row is not None and {"id", "answer"} <= set(row.fields) and "question" not in row.fields
    return answers or _has_options(path, answered=False)


def _cmb_test(paths: Sequence[Path]) -> Iterator[Outcome]:
    """CMB's test questions with the answers that its own files give by id; an answer used is no row of its own."""
    answers: dict[str, Row] = {}
    questions = []
    for path in paths:
        if _has_options(path, answered=False):
            questions.append(path)
            continue
        for row in rows(path):
            if isinstance(row, BadRow) or row.fields.get("id") is None:
                yield BadRecord(row.place, "not an answer with an id")
            elif str(row.fields["id"]) in answers:
                yield BadRecord(row.place, "a second answer with one id", f"id {row.fields['id']}")
            else:
                answers[str(row.fields["id"])] = row
    used = set()

    def question(row: Row) -> Question:
        number = str(row.fields.get("id"))
        used.add(number)
        given = answers.get(number)
        answer = row.fields.get("answer") or (given and given.fields.get("answer"))
        return _cmb(replace(row, fields={**row.fields, "answer": answer}))

    for path in questions:
        yield from outcomes(rows(path), question)
    for number, row in answers.items():
        if number not in used:
            yield BadRecord(row.place, "an answer without its question", f"id {number}")


def _is_question_in_text(path: Path) -> bool:
    row = first_row(path)
    if row is None or {"option", "options"} & set(row.fields):
        return False
    text = row.fields.get("question")
    return isinstance(text, str) and len(in_text(text)[1]) > 1


def _question_in_text(row: Row) -> Question:
    """{question (its options in the last lines, "A: …"), answer "A"}: questions of CMB-Exam as others hand them on."""
    stem, options = in_text(text_of(row, "question"))
    return make_question(row, stem, options, row.fields.get("answer"), source=row.fields.get("source"))


def _cmb_clin(row: Row) -> Chat:
    """{id, title, description, QA_pairs [{question, answer}]}: CMB-Clin. A case is one conversation."""
    pairs = row.fields.get("QA_pairs")
    if not isinstance(pairs, list) or not pairs:
        raise BadRecord(row.place, "QA_pairs is not a list of questions")
    messages: list[Message] = []
    case = text_of(row, "description")
    for pair in pairs:
        question = question_of(row, pair, "question")
        answer = question_of(row, pair, "answer" if isinstance(pair, dict) and pair.get("answer") else "solution")
        messages += [Message("user", f"{case}\n\n{question}" if not messages else question)]
        messages += [Message("assistant", answer)]
    about = meta_of(id=row.fields.get("id"), title=text_of(row, "title", required=False))
    return Chat(tuple(messages), row.place, about)


def question_of(row: Row, pair: object, name: str) -> str:
    """A text of one of a row's questions; `BadRecord` where it is missing or empty."""
    if not isinstance(pair, dict):
        raise BadRecord(row.place, "a question is not an object", type(pair).__name__)
    return text_of(Row(pair, row.place), name)


def as_chat(question: Question) -> Chat:
    """A question as a conversation: it with its options, and "答案：X" ("Answer: X") with the explanation."""
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    chinese = HAN_CHARACTER.search(question.stem + options)
    answer = f"{'答案：' if chinese else 'Answer: '}{''.join(question.answers)}"
    if question.explanation:
        answer += f"\n{question.explanation}"
    return make_chat(question.place, f"{question.stem}\n{options}", answer, id=question.id, **question.meta)


def _taught(record: Callable[[Row], Question]) -> Callable[[Row], Chat]:
    return lambda row: as_chat(record(row))


LAYOUTS: dict[str, Layout] = {
    "apollo-exam": Layout("exam", ("question", "option", "anwer"), _apollo),
    "aist-exam": Layout("exam", ("problem_id", "problem_text", "choices", "answer"), _aist),
    "medqa": Layout("exam", ("question", "options"), _medqa),
    "medqa-sft": Layout("sft", ("question", "options"), _taught(_medqa)),
    "medmcqa": Layout("exam", ("question", *COPS, "cop"), _medmcqa, rows=_medmcqa_rows),
    "medmcqa-sft": Layout("sft", ("question", *COPS, "cop"), _taught(_medmcqa), rows=_medmcqa_rows),
    "cmexam": Layout("exam", ("Question", "Options", "Answer"), _cmexam),
    "cmexam-sft": Layout("sft", ("Question", "Options", "Answer"), _taught(_cmexam)),
    "cmmlu": Layout("exam", ("Question", "A", "B", "C", "D", "Answer"), _cmmlu),
    "mmlu": Layout("exam", MMLU_COLUMNS, _mmlu, rows=partial(headless, names=MMLU_COLUMNS), recognises=_is_mmlu),
    "mmlu-hub": Layout("exam", ("question", "subject", "choices", "answer"), _mmlu_hub),
    "cmb-exam": Layout("exam", ("question", "option", "answer"), _cmb, recognises=partial(_has_options, answered=True)),
    "cmb-exam-sft": Layout(
        "sft", ("question", "option", "answer"), _taught(_cmb), recognises=partial(_has_options, answered=True)
    ),
    "cmb-test": Layout("exam", recognises=_is_cmb_test, joined=_cmb_test),
    "question-in-text": Layout("exam", ("question", "answer"), _question_in_text, recognises=_is_question_in_text),
    "cmb-clin": Layout("sft", ("description", "QA_pairs"), _cmb_clin),
}
