"""Options and answers of exam questions, in whatever way a file writes them.

    options_of(["A. rest", "B. smoke"])             # {"A": "rest", "B": "smoke"}
    letters_of(row, "A,C", options)                 # ("A", "C")
    answer_form(samples)                            # "index_from_1", by evidence over the rows

It does not know which columns hold them: `carellama.data.column_names` does. An answer that names no option, or that
can be read in two ways, is refused.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from carellama.data.read import Row
from carellama.records import BadRecord, Question

AnswerForm = Literal["letters", "text", "index_from_0", "index_from_1"]
FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)
LETTERS = "ABCDEFGHIJ"
# a letter at the beginning of a line: (A) text, A. text, A: text, A、text, "A text", Ａ．text, A)text
MARK = re.compile(
    r"^[ \t\u3000]*(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])(?:[.．、:：)）]|(?=\s)|$))[ \t\u3000]*",
    re.MULTILINE,
)
# the same within a line, where no line begins with one: "A.this B.that"
INLINE = re.compile(r"(?:^|(?<=\s))(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])[.．、:：)）])[ \t\u3000]*")
# the same without a space before it, in a text that holds nothing but options: "A.这个B.那个"
TIGHT = re.compile(r"(?:^|(?<=[^A-Za-z]))(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）]|([A-JＡ-Ｊ])[.．、:：])[ \t\u3000]*")
# the same in small letters, or in numbers, in a text that holds nothing but options
SMALL = tuple(
    re.compile(one.pattern.replace("A-J", "a-j").replace("Ａ-Ｊ", "ａ-ｊ"), one.flags) for one in (MARK, INLINE)
)
NUMBERED = re.compile(r"(?:^|(?<=\s))[(（]?(10|[0-9])[.．、:：)）](?!\d)[ \t\u3000]*")  # not the 0. of "0.5 mg"
PREFIX = re.compile(
    r"\s*(?:[(（]\s*([A-JＡ-Ｊa-j])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])[.．、:：)）])\s*"
)  # not of "A cells"
ANSWER_WORDS = re.compile(r"^(?:THE|CORRECT|RIGHT|ANSWER|IS|正确|参考|答案|选项|应?选|[为是:\s])+", re.IGNORECASE)
BETWEEN = re.compile(r"[\s,，、;；/|&()\[\]【】.。'\"]+|和|及|AND")
STRAY_QUOTE = re.compile(r'\s*\n"(?=\.?$)')  # MedQA ends some last options with a line break and a quote
KEYS = ("key", "label", "letter", "id", "option", "index", "name")  # of an option that is an object
TEXTS = ("value", "text", "content", "option_text", "answer", "option", "description")
# how explanations name the right option: "Ans. is 'c' i.e. ...", "Ans. (B)", "Ans: D"
EXPLAINED = re.compile(
    r"\W*(?:correct )?ans(?:wer)?(?: is)?[\s.:,-]*(?:is\b)?[\s:]*[('\"‘“\[]*([a-j])\b", re.IGNORECASE
)


def in_text(text: str) -> tuple[str, dict[str, str]]:
    """Part a text into what stands before its options, and the options by letter. A line begins an option.

    Letters count up, and all are written as the first is ("A." or "(A)"): a line that begins otherwise belongs to
    the option before it. Where no line begins an option they are looked for within the lines.
    """
    return _parted(text, MARK, INLINE)


def _parted(text: str, *patterns: re.Pattern[str]) -> tuple[str, dict[str, str]]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    marks: list[tuple[str, re.Match[str]]] = []
    for pattern in patterns:
        if len(marks) < 2:
            marks = _marks(pattern, text)
    if len(marks) < 2:
        return text.strip(), {}
    ends = [match.start() for _, match in marks[1:]] + [len(text)]
    options = {letter: text[match.end() : end].strip() for (letter, match), end in zip(marks, ends, strict=True)}
    return text[: marks[0][1].start()].strip(), options


def _marks(pattern: re.Pattern[str], text: str) -> list[tuple[str, re.Match[str]]]:
    """The letters that begin the options of a text, from A on. One may be missing, but not where letters are bare."""
    marks: list[tuple[str, re.Match[str]]] = []
    for match in pattern.finditer(text):
        letter = unicodedata.normalize("NFKC", match[1] or match[2]).upper()
        bare = match[0].strip() == match[2]
        if letter == "A" and len(marks) == 1 and _frame(marks[0][1]) == "" and not bare:
            marks.clear()  # the first was a word of the stem: "A man of 40 ..."
        following = LETTERS[LETTERS.index(marks[-1][0]) + 1 :] if marks else "A"
        if letter == following[:1] or (letter in following and not bare and _frame(match) == _frame(marks[0][1])):
            marks.append((letter, match))
    return marks


def _frame(mark: re.Match[str]) -> str:
    """What stands around the letter of a mark: "()", ".", or nothing."""
    return mark[0].strip().replace(mark[1] or mark[2], "", 1)


def options_of(value: Any) -> dict[str, str]:
    """Return the options of a cell by letter; {} where it holds none. Empty options (padding) are left out.

    {"A": text}, {"1": text}, [text, ...], ["A. text", ...], [{"key": "A", "value": text}, ...],
    {"label": ["A", ...], "text": [...]}, "A. text B. text", a text a line, or a list written as text.
    """
    if isinstance(value, str):
        return _options_in(value.strip())
    if isinstance(value, Mapping):
        lists = [one for one in value.values() if isinstance(one, list)]
        if len(lists) == len(value) == 2 and len(lists[0]) == len(lists[1]):
            keys = next((value[name] for name in KEYS if name in value), None)
            texts = next((value[name] for name in TEXTS if name in value), None)
            return {} if keys is None or texts is None else _keyed(dict(zip(map(str, keys), texts, strict=True)))
        return _keyed({str(key): text for key, text in value.items()})
    if not isinstance(value, Sequence) or len(value) < 2:
        return {}
    if all(isinstance(one, Mapping) for one in value):
        return _of_objects(value)
    return _listed(value)


def _options_in(text: str) -> dict[str, str]:
    """The options of a text that holds nothing else."""
    if text[:1] in ("[", "{"):  # a list or an object in a table's cell
        for parse in (json.loads, ast.literal_eval):
            try:
                return options_of(parse(text)) if text else {}
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    for patterns in ((MARK, INLINE, TIGHT), SMALL):
        before, options = _parted(text, *patterns)
        if options and not before:
            return _filled(options)
    numbered = _numbered(text)
    if numbered:
        return _listed([text for _, text in numbered])
    parts = [part.strip() for part in re.split(r"[\r\n]+|[|;；]", text) if part.strip()]
    return _listed(parts) if len(parts) > 1 else {}


def _numbered(text: str) -> list[tuple[int, str]]:
    """The options of a text by the numbers before them, which count up from 0 or 1; [] where there are none."""
    marks = list(NUMBERED.finditer(text))
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return []
    numbers = [int(mark[1]) for mark in marks]
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(number, text[mark.end() : end].strip()) for number, mark, end in zip(numbers, marks, ends, strict=True)]


def _of_objects(value: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = set(value[0]).intersection(*value)
    key = next((name for name in KEYS if name in names), None)
    text = next((name for name in TEXTS if name in names and name != key), None)
    if text is None:
        return {}
    return _keyed({str(one[key]): one[text] for one in value}) if key else _listed([one[text] for one in value])


def _listed(value: Sequence[Any]) -> dict[str, str]:
    """The options of a list, whose letters are those that its texts begin with, or else count up."""
    if len(value) > len(LETTERS) or not all(isinstance(one, str | int | float | None) for one in value):
        return {}
    texts = [_plain(one) for one in value]
    if numbered := _numbered("\n".join(texts)):
        texts = [text for _, text in numbered] if len(numbered) == len(texts) else texts
    prefixes = [PREFIX.match(text) for text in texts]
    letters = [unicodedata.normalize("NFKC", found[1] or found[2]).upper() for found in prefixes if found]
    if letters == list(LETTERS[: len(texts)]):
        texts = [text[found.end() :] for text, found in zip(texts, prefixes, strict=True) if found]
    return _filled(dict(zip(LETTERS, texts, strict=False)))


def _keyed(value: Mapping[str, Any]) -> dict[str, str]:
    """The options of an object: its keys are letters, or numbers that count up from 0 or 1."""
    if not all(isinstance(text, str | int | float | None) for text in value.values()):
        return {}
    keys = [unicodedata.normalize("NFKC", key).strip().strip("().:").upper() for key in value]
    if first_key(value) is not None:
        keys = list(LETTERS[: len(keys)])
    if len(set(keys)) != len(keys) or not all(len(key) == 1 and key in LETTERS for key in keys):
        return {}
    return _filled({key: _plain(text) for key, text in zip(keys, value.values(), strict=True)})


def first_key(value: Any) -> int | None:
    """0 or 1 for options whose keys, or the numbers before them, count up from there; None for all others."""
    if isinstance(value, str | list | tuple):
        numbered = _numbered(value if isinstance(value, str) else "\n".join(map(_plain, value)))
        return numbered[0][0] if numbered else None
    keys = list(map(str, value)) if isinstance(value, Mapping) else []
    for first in (0, 1):
        if 2 <= len(keys) <= len(LETTERS) and keys == [str(number) for number in range(first, first + len(keys))]:
            return first
    return None


def _plain(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN: an empty cell of a table


def _filled(options: Mapping[str, str]) -> dict[str, str]:
    stripped = {letter: STRAY_QUOTE.sub("", text).strip() for letter, text in options.items()}
    return {letter: text for letter, text in stripped.items() if text}


def listed(row: Row, column: str) -> dict[str, str]:
    """Return the options of a column by letter. `BadRecord` where it holds none."""
    options = options_of(row.fields.get(column))
    if not options:
        found = type(row.fields.get(column)).__name__
        raise BadRecord(row.place, f"column {column!r} has no options", f"found {found}")
    return options


def make_question(
    row: Row,
    stem: str,
    options: Mapping[str, str],
    answer: Any,
    *,
    form: AnswerForm = "letters",
    explanation: Any = None,
    **about: Any,
) -> Question:
    """Return the question of a row. `about` is what else is known (`id` is its id); empty options are left out.

    Raises `BadRecord` where there are fewer than two options, no answer, or one that is not among them.
    """
    given = _filled(options)
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
        explanation=explanation.strip() if isinstance(explanation, str) else "",
        place=row.place,
        meta=meta,
    )


def letters_of(row: Row, answer: Any, options: Mapping[str, str], form: AnswerForm = "letters") -> tuple[str, ...]:
    """Return the letters that an answer names, sorted.

    letters: "D", "(D)", "ＡＣ", "A,C", "答案：A", ["a", "c"], "A. its text", or an option's text.
    text: an option's text only. index_from_0, index_from_1: 2, "2", "1,3" or [1, 3]; letters are read there as well.

    Raises `BadRecord` for no answer, something else than these, a letter twice, and what is no option.
    """
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if answer is None or answer != answer or (isinstance(answer, str | list) and not _stripped(answer)):
        raise BadRecord(row.place, "no answer")
    numbers = _numbers(answer)
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
    letters = BETWEEN.sub("", ANSWER_WORDS.sub("", plain).upper())
    if not letters or not set(letters) <= set(LETTERS):
        found = PREFIX.match(plain)
        if len(same) != 1 and found and _same_text(plain[found.end() :], options) == (found[1] or found[2],):
            return (found[1] or found[2],)  # "A. its text"
        if len(same) != 1:
            raise BadRecord(row.place, "the answer is not letters", _size(plain))
        return same
    if not set(letters) <= set(options):
        if len(same) == 1:
            return same
        raise BadRecord(row.place, "the answer is not an option", f"{letters} of {', '.join(options)}")
    if len(set(letters)) < len(letters):
        raise BadRecord(row.place, "the answer names a letter twice", letters)
    if len(letters) > 1 and len(same) == 1 and options[same[0]] == plain:  # blood groups: "AB" may be option D
        raise BadRecord(row.place, "the answer may be letters or the text of one option", letters)
    return tuple(sorted(letters))


def _stripped(answer: str | list[Any]) -> bool:
    return bool(answer.strip()) if isinstance(answer, str) else any(one not in (None, "") for one in answer)


def _size(text: str) -> str:
    return f"{len(text)} characters of other text"


def _same_text(answer: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letters of the options that have the text of an answer."""
    exact = tuple(letter for letter, text in options.items() if text == answer)
    return exact or tuple(letter for letter, text in options.items() if _folded(text) == _folded(answer))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().rstrip(".。").casefold()


def _numbers(answer: Any) -> list[int] | None:
    """The whole numbers that an answer consists of: 2, 2.0, "2", "1,3", [1, 3]; None for all others."""
    if isinstance(answer, str):
        parts: list[Any] = re.split(r"[,，、;；\s]+", answer.strip())
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
    answer: Any
    options: Mapping[str, str]
    explanation: Any = None
    first: int | None = None  # what the options' own numbers count from


def answer_form(samples: Iterable[Sample]) -> AnswerForm | None:
    """Return how the answers of a file are written; None where several ways fit them alike (`answer_forms`)."""
    forms = answer_forms(samples)
    return forms[0] if len(forms) == 1 else None


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
        if len(indexes) == 1 and _numbers(sample.answer) is not None:
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
    numeric = _numbers(sample.answer) is not None
    for form in FORMS:
        if form.startswith("index") and not numeric:
            continue
        try:
            found[form] = letters_of(sample.row, sample.answer, sample.options, form)
        except BadRecord:
            continue
    return found
