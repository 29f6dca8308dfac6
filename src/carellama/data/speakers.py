r"""Speaker marks inside one text, as in "病人：…\n医生：…" or "<user>: ... <bot>: ...", and the turns they part.

    evidence = speaker_evidence([("", "病人：头痛\n医生：", "请休息。")])
    split_turns("病人：头痛\n医生：", evidence.speakers)      # ("", [("user", "头痛"), ("assistant", "")])

A text is a conversation only where it begins with the mark of one who asks and holds, or is answered by, one who
answers. It does not change texts that only quote such a mark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Speaker = Literal["user", "assistant"]
Speakers = tuple[tuple[str, Speaker], ...]
Turn = tuple[Speaker, str]
# names that stand together in one conversation: those who ask, those who answer
FAMILIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("病人", "患者", "患者家属", "家属", "patient"), ("医生", "大夫", "专家", "doctor")),
    (("human", "user", "用户"), ("assistant", "bot", "gpt", "ai", "助手")),
    (("问", "问题", "提问", "question", "q"), ("答", "回答", "answer", "a")),
)
FIRST = re.compile(  # a text that may begin with a mark: all others cost no more than this
    r"\s*(?:<s>\s*)?(?:\\n)*(?:#{2,3}\s*)?[<\[【]?("
    + "|".join(sorted((name for users, _ in FAMILIES for name in users), key=len, reverse=True))
    + r")[>\]】]?\s*[:：]",
    re.IGNORECASE,
)
BRACKETED = re.compile(r"<(user|human)>\s*[:：].*<(bot|assistant|gpt)>\s*[:：]", re.IGNORECASE | re.DOTALL)
ESCAPED_BREAK = re.compile(r"\\n")


@dataclass(frozen=True)
class SpeakerEvidence:
    """What the first rows of a file say of marks in their questions."""

    speakers: Speakers = ()  # the marks that part turns
    rows: int = 0  # that begin with one
    transcripts: int = 0  # that end with an answer of their own: a transcript to work on, not a conversation
    unclear: int = 0  # that have other text before the first mark
    marks: tuple[str, ...] = ()  # as they are written, for messages


def named(name: str) -> str:
    """The bare name of a mark: "病人" for "病人：", "user" for "<user>:"."""
    return name.strip().strip("#<>[]【】:： \t").lower()


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Marks at the beginning of a line; within one only those in brackets, capitalised, or Chinese."""
    ordered = sorted(names, key=len, reverse=True)
    anyhow = "|".join(map(re.escape, ordered))
    written = "|".join(re.escape(form) for name in ordered for form in dict.fromkeys((name.capitalize(), name.upper())))
    line = rf"(?:^|(?<=\n)|(?<=\\n))[ \t]*(?:<s>\s*)?(?:#{{2,3}}\s*)?[<\[【]?(?P<line>(?i:{anyhow}))[>\]】]?\s*[:：]\s*"
    name = rf"(?:[<\[【](?P<bracketed>(?i:{anyhow}))[>\]】]|(?P<word>{written}))"
    inside = rf"(?<=[\s。！？?!；;…>])(?:#{{2,3}}\s*)?{name}\s*[:：]\s*"
    return re.compile(f"{line}|{inside}")


def split_turns(text: str, speakers: Speakers) -> tuple[str, list[Turn]]:
    """Return the text before the first mark, and the turns in order; turns in a row of one speaker are joined."""
    if "\n" not in text.strip():
        text = ESCAPED_BREAK.sub("\n", text)
    roles = {named(name): role for name, role in speakers}
    marks = list(_pattern(tuple(roles)).finditer(text))
    if not marks:
        return text.strip(), []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns: list[Turn] = []
    for mark, end in zip(marks, ends, strict=True):
        role = roles[(mark["line"] or mark["bracketed"] or mark["word"]).lower()]
        content = text[mark.end() : end].strip()
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n{content}".strip())
        else:
            turns.append((role, content))
    return text[: marks[0].start()].strip(), turns


def family_of(text: str) -> Speakers:
    """The speakers of the family whose one that asks begins a text; () where none does."""
    first = FIRST.match(text)
    if first is None:
        return ()
    users, assistants = next(family for family in FAMILIES if first[1].lower() in family[0])
    return (*((name, "user") for name in users), *((name, "assistant") for name in assistants))


def is_marked(text: str, answer: str = "") -> bool:
    """Whether a text begins with the mark of one who asks, and one who answers has a mark in it or in the answer."""
    speakers = family_of(text)
    if not speakers:
        return False
    turns = split_turns(text, speakers)[1]
    return any(role == "assistant" for role, _ in turns) or bool(_answer_mark(answer, speakers))


def without_mark(answer: str, speakers: Speakers) -> str:
    """An answer without the mark of the one who answers."""
    mark = _answer_mark(answer, speakers)
    return answer[mark.end() :].strip() if mark else answer


def _answer_mark(answer: str, speakers: Speakers) -> re.Match[str] | None:
    names = tuple(named(name) for name, role in speakers if role == "assistant")
    return _pattern(names).match(answer) if names and answer else None


def speaker_evidence(rows: Sequence[tuple[str, str, str]]) -> SpeakerEvidence:
    """Weigh the (prompt, query, answer) texts of the first rows; an empty answer: the text holds it."""
    families = Counter[Speakers]()
    marks: dict[str, None] = {}
    begun = transcripts = unclear = 0
    for prompt, query, answer in rows:
        text = "\n".join(part for part in (prompt, query) if part)
        if is_marked(text, answer):
            speakers = family_of(text)
            turns = split_turns(text, speakers)[1]
            if answer and turns[-1][0] == "assistant" and turns[-1][1]:
                transcripts += 1
                continue
            begun += 1
            families[speakers] += 1
        elif (prompt and query and is_marked(query, answer)) or BRACKETED.search(text):
            unclear += 1
            speakers = family_of(query) or family_of("<user>:")
            text = query or text
        else:
            continue
        marks |= dict.fromkeys(found[0].strip() for found in _pattern(tuple(map(named, dict(speakers)))).finditer(text))
    speakers = tuple(dict.fromkeys(pair for family in families for pair in family))
    return SpeakerEvidence(speakers, begun, transcripts, unclear, tuple(marks)[:6])
