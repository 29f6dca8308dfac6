"""What is suspicious in the text of a record that could still be trained on; `carellama data check` counts it.

    list(faults_of(record, text, longest=8000, shortest=4))     # ["HTML left in the text", "very short answer"]

What is looked for in texts is listed in `text_issues.yaml`. The identifiers are a cheap hint, not the search of
`carellama data clean --deidentify`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from carellama.package_data import package_yaml
from carellama.records import Chat, Pair, Record, Text

IDENTIFIERS = "possible identifiers (carellama data clean --deidentify mask)"
MAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w")
NUMBERS = re.compile(r"(?<![0-9])(?:1[3-9][0-9]{9}|[1-9][0-9]{16}[0-9Xx])(?![0-9])")  # Chinese mobile, identity card
LONG_NUMBER = re.compile(r"[0-9]{11}")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SENTENCE_END = tuple("。！？…；.!?;~～\"'”’」』）)]】>》:：")


def faults_of(record: Record, text: str, *, longest: int, shortest: int) -> Iterator[str]:
    """Yield the name of each fault of a record, whose texts are `text` when joined, once.

    An answer (or text) of more than `longest` characters is very long, an answer of less than `shortest` very short.
    """
    yield from text_faults(text)
    if isinstance(record, Text):
        if len(record.text) > longest:
            yield f"very long text (over {longest} characters)"
    elif isinstance(record, (Chat, Pair)):
        question, answer = question_and_answer(record)
        if len(answer) > longest:
            yield f"very long answer (over {longest} characters)"
        short = answer.strip()
        if len(short) < shortest:
            yield f"very short answer (under {shortest} characters)"
        if len(answer) == len(question) and answer == question:
            yield "answer equal to the question"
        if answer.startswith(("http://", "https://", "www.")) and " " not in short and "\n" not in short:
            yield "answer is only an address"
        if isinstance(record, Pair) and record.chosen.split() == record.rejected.split():
            yield "chosen and rejected differ only in white space"


@cache
def _scans() -> list[tuple[str, list[str], re.Pattern[str]]]:
    """What may be wrong with a text: its name, what must stand in the text for it, and what it looks like."""
    found = package_yaml("data/text_issues.yaml")
    return [(name, one["needs"], re.compile(one["pattern"])) for name, one in found.items()]


def text_faults(text: str) -> Iterator[str]:
    """Yield the name of each fault of a text, once."""
    for name, needs, pattern in _scans():
        for needed in needs:
            if needed in text:
                if pattern.search(text):
                    yield name
                break
    # each such number has a 1 or (a birth year 20..) a 2 in it, which is found sooner than a run of digits
    numbers = ("1" in text or "2" in text) and LONG_NUMBER.search(text) and NUMBERS.search(text)
    if numbers or ("@" in text and MAIL.search(text)):
        yield IDENTIFIERS
    if CONTROL.search(text):
        yield "control characters"


def question_and_answer(record: Chat | Pair) -> tuple[str, str]:
    """The last question of a record and its (better) answer."""
    asked = next(turn.content for turn in reversed(record.prompt) if turn.role == "user")
    if isinstance(record, Chat):
        last = record.messages[-1]
        return asked, last.content or " ".join(call.arguments for call in last.calls)
    return asked, record.chosen


def unended(answer: str) -> bool:
    """Whether an answer does not end as a sentence does: it may have been cut off."""
    return not answer.rstrip().endswith(SENTENCE_END)
