r"""What makes a record useless by itself: language, length, repetition, boilerplate.

    refusal(record, CleanOptions(names, languages="zh"))   # None, or (reason, detail)

Judged are all answers of a conversation (it stays while one of them is of use), the better one of a pair (the other may
be as bad as it likes) and the text of a text; of an exam question only its language and length.
Repetition is the measure of Rae et al. 2021 (arXiv:2112.11446, table A1) for repeated runs of words, with departures:
1. Runs are of 15 words and not of 5 to 10, the bound is 0.25 of the characters and not 0.15 to 0.10, and repeated lines
   and the most frequent short run are not looked at. Those bounds are for pages of the web: in answers of 100 to 300
   words they hit lists, forms and whoever names a disease three times: 52 of 60 removed rows that were read.
2. A Chinese character stands for half a word: runs are twice as long there.
3. Texts of fewer than 50 words (100 Chinese characters) are left alone.
What is boilerplate is listed in `boilerplate.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from carellama.config.data_commands import CleanOptions
from carellama.config.options import split_commas
from carellama.package_data import package_yaml
from carellama.records import Chat, Pair, Question, Record, Text
from carellama.text import counted, is_chinese, language, ngrams, words

FEWEST_WORDS = 50
RUN = 15  # words
REPEATED = 0.25  # of the characters, in runs that were there before
URLS_ONLY = re.compile(r"(?:\s*(?:https?://|www\.)\S+\s*)+")
Refusal = tuple[str, str]  # reason, detail; the detail holds no text of the record


def refusal(record: Record, bounds: CleanOptions) -> Refusal | None:
    """Why a record is of no use, None where it is."""
    question, answers = parts(record)
    if wanted := split_commas(bounds.languages):
        spoken = language("\n".join([question, *answers]))
        if spoken not in wanted:
            return "language", spoken
    if question and (found := _length(question, bounds.shortest_question, bounds.longest_question)):
        return f"question too {found[0]}", found[1]
    if not answers:
        return None
    if found := _length(max(answers, key=_letters), bounds.shortest_answer, 0):
        return f"answer too {found[0]}", found[1]
    if found := _length(max(answers, key=len), 0, bounds.longest_answer):
        return f"answer too {found[0]}", found[1]
    if bounds.boilerplate and not isinstance(record, Text):
        kinds = [boilerplate(answer) for answer in answers]
        if all(kinds):
            return "boilerplate", str(kinds[-1])
    if bounds.repetition and repeats("\n".join(answers)):
        return "repetition", f"runs of {RUN} words"
    return None


def parts(record: Record) -> tuple[str, list[str]]:
    """The last question of a record, and the answers that are judged."""
    if isinstance(record, Text):
        return "", [record.text]
    if isinstance(record, Question):
        return record.stem, []
    if isinstance(record, Pair):
        return record.prompt[-1].content, [record.chosen]
    assert isinstance(record, Chat)
    answers = [
        turn.content for turn in record.messages if turn.role == "assistant" and (turn.content or not turn.calls)
    ]
    question = next(turn.content for turn in reversed(record.messages) if turn.role == "user")
    return question, answers


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _length(text: str, shortest: int, longest: int) -> Refusal | None:
    """Too short: too few letters and digits, as a dash is no answer, but 7 is one; too long: too many characters."""
    if shortest and (letters := _letters(text)) < shortest:
        return "short", counted(letters, "character")
    return ("long", counted(len(text), "character")) if longest and len(text.strip()) > longest else None


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    lists = package_yaml("data/clean/boilerplate.yaml")
    found = {}
    for own in lists:
        whole = "|".join(f"(?:{pattern})" for pattern in lists[own]["whole"])
        found[f"nothing but a phrase ({own})"] = re.compile(rf"\W*(?:{whole})\W*", re.IGNORECASE)
        begin = "|".join(f"(?:{pattern})" for pattern in lists[own]["beginning"])
        found[f"begins as a machine's excuse ({own})"] = re.compile(rf"\W*(?:{begin}).*", re.IGNORECASE | re.DOTALL)
    return found


def boilerplate(answer: str) -> str | None:
    """What kind of boilerplate an answer is, if any."""
    for kind, pattern in _patterns().items():
        if pattern.fullmatch(answer):
            return kind
    return "addresses of pages only" if URLS_ONLY.fullmatch(answer) else None


def repeats(text: str) -> bool:
    """Whether a text repeats itself more than running text does."""
    items = words(text)
    stretch = 2 if is_chinese(items) else 1
    if len(items) < FEWEST_WORDS * stretch:
        return False
    return _repeated(items, RUN * stretch) > REPEATED * sum(map(len, items))


def _repeated(items: Sequence[str], length: int) -> int:
    """Characters of the runs that were there before, each once."""
    seen: set[tuple[str, ...]] = set()
    covered, end = 0, 0
    for at, run in enumerate(ngrams(items, length)):
        if run in seen:
            covered += sum(map(len, items[max(at, end) : at + length]))
            end = at + length
        seen.add(run)
    return covered
