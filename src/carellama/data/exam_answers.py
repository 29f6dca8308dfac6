"""Answers of exam questions: the letters that they name, and how the answers of a file are written.

    letters_of(row, "A,C", options)                 # ("A", "C")
    answer_forms(samples)                           # ("index_from_1",), by evidence over the rows

An answer that names no option, or that can be read in two ways, is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from carellama.data.exam_options import LETTERS, PREFIX, without_empty
from carellama.data.readers import Row
from carellama.records import BadRecord, Question
from carellama.text import counted

AnswerForm = Literal["letters", "text", "index_from_0", "index_from_1"]
FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)
OPTION_WORD = re.compile(r"^\W*(?:option|choice|选项)[\s_\-]*(?=(?:[A-J]|\d+)\W*$)", re.IGNORECASE)  # "Option 3"
ANSWER_WORDS = re.compile(r"^(?:THE|CORRECT|RIGHT|ANSWER|IS|正确|参考|答案|选项|应?选|[为是:\s])+", re.IGNORECASE)
BETWEEN = re.compile(r"[\s,，、;；/|&()\[\]【】.。'\"]+|和|及|AND")
# how explanations name the right option: "Ans. is 'c' i.e. ...", "Ans. (B)", "Ans: D"
EXPLAINED = re.compile(
    r"\W*(?:correct )?ans(?:wer)?(?: is)?[\s.:,-]*(?:is\b)?[\s:]*[('\"‘“\[]*([a-j])\b", re.IGNORECASE
)


def make_question(
    row: Row,
    stem: str,
    options: Mapping[str, str],
    answer: object,
    *,
    form: AnswerForm = "letters",
    explanation: object = None,
    **about: object,
) -> Question:
    """Return the question of a row. `about` is what else is known (`id` is its id); empty options are left out.

    Raises `BadRecord` where there are fewer than two options, no answer, or one that is not among them.
    """
    given = without_empty(options)
    if not stem.strip():
        raise BadRecord(row.place, "empty question")
    if len(given) < 2:
        raise BadRecord(row.place, "fewer than two options")
    meta = {
        name: str(value).strip() for name, value in about.items()
        if isinstance(value, str | int) and str(value).strip() and name != "id"
    }  # fmt: skip
    number = about.get("id")
    return Question(
        id=str(row.place.line if number in (None, "") else number),
        stem=stem.strip(),
        options=given,
        answers=letters_of(row, answer, given, form),
        explanation=explanation_of(explanation),
        place=row.place,
        meta=meta,
    )


def explanation_of(value: object) -> str:
    """Return an explanation as text: of a list the texts below each other, of an object each behind its key."""
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {text}" for key, one in value.items() if (text := explanation_of(one)))
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(explanation_of, value)))
    return "" if value is None or value != value else str(value).strip()


def letters_of(row: Row, answer: object, options: Mapping[str, str], form: AnswerForm = "letters") -> tuple[str, ...]:
    """Return the letters that an answer names, sorted.

    letters: "D", "(D)", "ＡＣ", "A,C", "答案：A", ["a", "c"], "A. its text", or an option's text.
    text: an option's text only. index_from_0, index_from_1: 2, "2", "1,3" or [1, 3]; letters are read there as well.

    Raises `BadRecord` for no answer, something else than these, a letter twice, and what is no option.
    """
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if answer is None or answer != answer or (isinstance(answer, str | list) and not _stripped(answer)):
        raise BadRecord(row.place, "no answer")
    numbers = numbers_of(answer)
    if form.startswith("index") and numbers is not None:
        return _by_number(row, numbers, options, int(form[-1]))
    if isinstance(answer, list) and all(isinstance(one, str) for one in answer):
        if all(len(one.strip()) == 1 for one in answer):
            answer = ",".join(answer)
        else:
            return tuple(sorted({letter for one in answer for letter in letters_of(row, one, options, form)}))
    plain = unicodedata.normalize("NFKC", str(answer)).strip()
    same = _same_text(plain, options)
    if form == "text" or (numbers is not None and same):
        if len(same) != 1:
            raise BadRecord(row.place, "the answer is not the text of one option", _size(plain))
        return same
    if not isinstance(answer, str):
        raise BadRecord(row.place, "the answer is not letters", f"found {type(answer).__name__}")
    letters = BETWEEN.sub("", ANSWER_WORDS.sub("", OPTION_WORD.sub("", plain)).upper())
    if not letters or not set(letters) <= set(LETTERS):
        return _by_text(row, plain, same, options)
    if not set(letters) <= set(options):
        if len(same) == 1:
            return same
        raise BadRecord(row.place, "the answer is not an option", f"{letters} of {', '.join(options)}")
    if len(set(letters)) < len(letters):
        raise BadRecord(row.place, "the answer names a letter twice", letters)
    if len(letters) > 1 and len(same) == 1 and options[same[0]] == plain:  # blood groups: "AB" may be option D
        raise BadRecord(row.place, "the answer may be letters or the text of one option", letters)
    return tuple(sorted(letters))


def _by_text(row: Row, plain: str, same: tuple[str, ...], options: Mapping[str, str]) -> tuple[str, ...]:
    """The letter of an option's text, or of "A. its text"; `same`: the options whose text the answer is."""
    if len(same) == 1:
        return same
    found = PREFIX.match(plain)
    if found and _same_text(plain[found.end() :], options) == (found[1] or found[2],):
        return (found[1] or found[2],)
    raise BadRecord(row.place, "the answer is not letters", _size(plain))


def _stripped(answer: str | list[object]) -> bool:
    return bool(answer.strip()) if isinstance(answer, str) else any(one not in (None, "") for one in answer)


def _size(text: str) -> str:
    return f"{counted(len(text), 'character')} of other text"


def _same_text(answer: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letters of the options that have the text of an answer."""
    exact = tuple(letter for letter, text in options.items() if text == answer)
    return exact or tuple(letter for letter, text in options.items() if _folded(text) == _folded(answer))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().rstrip(".。").casefold()


def numbers_of(answer: Any) -> list[int] | None:
    """The whole numbers that an answer consists of: 2, 2.0, "2", "1,3", [1, 3]; None for all others."""
    if isinstance(answer, str):
        parts: list[Any] = re.split(r"[,，、;；\s]+", OPTION_WORD.sub("", answer).strip())
    else:
        parts = answer if isinstance(answer, list) else [answer]
    found = []
    for part in parts:
        try:
            number = float(unicodedata.normalize("NFKC", part)) if isinstance(part, str) else float(part)
        except (TypeError, ValueError):
            return None
        if isinstance(part, bool) or not number.is_integer():
            return None
        found.append(int(number))
    return found


def _by_number(row: Row, numbers: Sequence[int], options: Mapping[str, str], first: int) -> tuple[str, ...]:
    letters = [LETTERS[number - first] if 0 <= number - first < len(LETTERS) else "" for number in numbers]
    if any(number < 0 for number in numbers):
        raise BadRecord(row.place, "no answer", "a negative number, as in a test split without answers")
    if not all(letter and letter in options for letter in letters):
        raise BadRecord(row.place, "the answer is not an option", f"counted from {first}, of {len(options)} options")
    if len(set(letters)) < len(letters):
        raise BadRecord(row.place, "the answer names an option twice")
    return tuple(sorted(letters))


@dataclass(frozen=True)
class Sample:
    """One answer, its options, and what else tells how it is written."""

    row: Row
    answer: object
    options: Mapping[str, str]
    explanation: object = None
    first: int | None = None  # what the options' own numbers count from


def answer_forms(samples: Iterable[Sample]) -> tuple[AnswerForm, ...]:
    """Return the ways in which the answers of a file may be written, by evidence over its rows: one where it is clear.

    A 0 tells that numbers count from 0, the number of the last option that they count from 1; where neither occurs an
    explanation may tell ("Ans. is 'c'"), or the options' own numbers.
    """
    fits: dict[AnswerForm, int] = dict.fromkeys(FORMS, 0)
    votes: dict[AnswerForm, int] = dict.fromkeys(FORMS, 0)
    only: set[AnswerForm] = set()
    differ: set[frozenset[AnswerForm]] = set()
    for sample in samples:
        readings = _readings(sample)
        said = EXPLAINED.match(sample.explanation) if isinstance(sample.explanation, str) else None
        for form, letters in readings.items():
            fits[form] += 1
            votes[form] += said is not None and letters == (said[1].upper(),)
            votes[form] += sample.first is not None and form == f"index_from_{sample.first}"
            differ |= {frozenset({form, other}) for other, theirs in readings.items() if theirs != letters}
        indexes = {form for form in readings if form.startswith("index")}
        if len(indexes) == 1 and numbers_of(sample.answer) is not None:
            only |= indexes
    if len(only) == 2:  # a 0 and the number of the last option
        return tuple(sorted(only))
    most = max(fits.values())
    best = [form for form in FORMS if fits[form] == most and most] or list(FORMS[:1])
    rivals = [form for form in best if frozenset({form, best[0]}) in differ or form == best[0]]
    voted = sorted(rivals, key=lambda form: -votes[form])
    return tuple(voted[:1] if len(voted) == 1 or votes[voted[0]] > votes[voted[1]] else rivals)


def _readings(sample: Sample) -> dict[AnswerForm, tuple[str, ...]]:
    """What an answer means in each form that fits it."""
    found: dict[AnswerForm, tuple[str, ...]] = {}
    numeric = numbers_of(sample.answer) is not None
    for form in FORMS:
        if form.startswith("index") and not numeric:
            continue
        try:
            found[form] = letters_of(sample.row, sample.answer, sample.options, form)
        except BadRecord:
            continue
    return found
