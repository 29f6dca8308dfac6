"""Options and answers of exam questions, in whatever way a file writes them.

    stem, options = in_text(text)  # "Which one?" and {"A": "this", "B": "that"}

Nothing is guessed: an answer that is no letter of the options (nor the text of one) is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from carellama.data.catalogue.layout import text_of
from carellama.data.convert import BadRecord
from carellama.data.read import Row
from carellama.records import Chat, Message, Question

LETTERS = "ABCDEFGHIJ"
# a letter at the beginning of a line: (A) text, A. text, A: text, A、text, "A text", Ａ．text, A)text
MARK = re.compile(
    r"^[ \t\u3000]*(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])(?:[.．、:：)）]|(?=\s)|$))[ \t\u3000]*",
    re.MULTILINE,
)
# the same within a line, where no line begins with one: "A.this B.that"
INLINE = re.compile(r"(?:^|(?<=\s))(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])[.．、:：)）])[ \t\u3000]*")
ANSWER_WORDS = re.compile(r"^(?:THE|CORRECT|RIGHT|ANSWER|IS|正确|参考|答案|选项|应?选|[为是:\s])+", re.IGNORECASE)
BETWEEN = re.compile(r"[\s,，、;；/|&()\[\]【】.。'\"]+|和|及|AND")
STRAY_QUOTE = re.compile(r'\s*\n"(?=\.?$)')  # MedQA ends some last options with a line break and a quote


def in_text(text: str) -> tuple[str, dict[str, str]]:
    """Part a text into what stands before its options, and the options by letter. A line begins an option.

    Letters count up, and all are written as the first is ("A." or "(A)"): a line that begins otherwise belongs to
    the option before it. Where no line begins an option they are looked for within the lines.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    marks = _marks(MARK, text)
    if len(marks) < 2:
        marks = _marks(INLINE, text)
    if len(marks) < 2:
        return text.strip(), {}
    ends = [match.start() for _, match in marks[1:]] + [len(text)]
    options = {letter: text[match.end() : end].strip() for (letter, match), end in zip(marks, ends, strict=True)}
    return text[: marks[0][1].start()].strip(), options


def _marks(pattern: re.Pattern[str], text: str) -> list[tuple[str, re.Match[str]]]:
    """The letters that begin the options of a text, from A on. One may be missing, but not where letters are bare."""
    marks: list[tuple[str, re.Match[str]]] = []
    for match in pattern.finditer(text):
        letter = unicodedata.normalize("NFKC", match[1] or match[2])
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


def listed(row: Row, column: str) -> dict[str, str]:
    """The options of a column by letter: {"A": text}, [text, ...], or [{"key": "A", "value": text}, ...]."""
    value = row.fields.get(column)
    if isinstance(value, str):
        return in_text(value)[1]
    if isinstance(value, list):
        if all(isinstance(one, dict) and {"key", "value"} <= set(one) for one in value):
            value = {one["key"]: one["value"] for one in value}
        else:
            value = dict(zip(LETTERS, value, strict=False))
    if not isinstance(value, dict):
        raise BadRecord(row.place, f"column {column!r} has no options", f"found {type(value).__name__}")
    options = {}
    for key, text in value.items():
        letter = unicodedata.normalize("NFKC", str(key)).strip().upper()
        if len(letter) != 1 or letter not in LETTERS or not isinstance(text, str | int | float | None):
            raise BadRecord(row.place, f"column {column!r} is not texts by letter", f"option {key!r}")
        options[letter] = "" if text is None else str(text).strip()
    return options


def made(
    row: Row, stem: str, options: Mapping[str, str], answer: Any, *, explanation: Any = None, **about: Any
) -> Question:
    """The question of a row. `about` is what else is known (`id` is its id); empty options are padding, left out.

    Raises `BadRecord` where there are fewer than two options, no answer, or one that is not among them.
    """
    given = {letter: STRAY_QUOTE.sub("", text).strip() for letter, text in options.items()}
    given = {letter: text for letter, text in given.items() if text}
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
        answers=letters_of(row, answer, given),
        explanation=explanation.strip() if isinstance(explanation, str) else "",
        place=row.place,
        meta=meta,
    )


def letters_of(row: Row, answer: Any, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letters that an answer names, sorted: "D", "(D)", "ＡＣ", "A,C", "答案：A", ["a", "c"], or an option's text.

    Raises `BadRecord` for no answer, something else than letters, and a letter that is no option.
    """
    if isinstance(answer, list) and all(isinstance(one, str) for one in answer):
        answer = ",".join(answer)
    if answer is None or (isinstance(answer, str) and not answer.strip()) or answer == []:
        raise BadRecord(row.place, "no answer")
    if not isinstance(answer, str):
        raise BadRecord(row.place, "the answer is not letters", f"found {type(answer).__name__}")
    plain = unicodedata.normalize("NFKC", answer).strip()
    letters = BETWEEN.sub("", ANSWER_WORDS.sub("", plain).upper())
    if not letters or not set(letters) <= set(LETTERS):
        same = [letter for letter, text in options.items() if text == answer.strip()]
        if len(same) != 1:
            raise BadRecord(row.place, "the answer is not letters", f"{len(answer)} characters of other text")
        letters = same[0]
    if not set(letters) <= set(options):
        raise BadRecord(row.place, "the answer is not an option", f"{letters} of {', '.join(options)}")
    return tuple(sorted(set(letters)))


def question_of(row: Row, pair: Any, name: str) -> str:
    """A text of one of a row's questions; `BadRecord` where it is missing or empty."""
    if not isinstance(pair, dict):
        raise BadRecord(row.place, "a question is not an object", type(pair).__name__)
    return text_of(Row(pair, row.place), name)


def as_chat(question: Question) -> Chat:
    """A question as a conversation: it with its options, and "答案：X" ("Answer: X") with the explanation."""
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    chinese = not _latin(question.stem + options)
    answer = f"{'答案：' if chinese else 'Answer: '}{''.join(question.answers)}"
    if question.explanation:
        answer += f"\n{question.explanation}"
    messages = (Message("user", f"{question.stem}\n{options}"), Message("assistant", answer))
    return Chat(messages, question.place, {"id": question.id, **question.meta})


def _latin(text: str) -> bool:
    return not re.search("[\u4e00-\u9fff]", text)
