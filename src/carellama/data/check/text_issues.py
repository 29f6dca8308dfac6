"""What is suspicious in the text of a record that could still be trained on; `carellama data check` counts it.

    list(faults_of(record, text, Limits()))     # ["HTML left in the text", "very short answer"]

A scan is a regular expression that runs only where one of a few plain strings stands in the text, so that a million
clean records cost little. The identifiers are a cheap hint, not the search of `carellama data clean --deidentify`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from carellama.records import Chat, Pair, Record, Text


@dataclass(frozen=True)
class Limits:
    """Characters from which an answer (or text) is very long, and below which an answer is very short."""

    longest: int = 8000
    shortest: int = 4


@dataclass(frozen=True)
class Scan:
    """A fault, what must stand in a text for it to be possible, and what it looks like."""

    name: str
    needs: tuple[str, ...]
    pattern: re.Pattern[str]


TAG = "p|br|div|span|a|b|i|u|em|strong|li|ul|ol|td|tr|th|table|tbody|img|font|h[1-6]|sub|sup|script|style|center|hr|pre"
MARKUP = ("<s>", "</s>", "INST]", "<|", "<<SYS", "###", "问：", "答：", "问:", "答:", "Human:", "Assistant:", "USER:",
          "ASSISTANT:", "Human：", "Assistant：", "病人：", "病人:", "患者：", "患者:", "医生：", "医生:",
          "<user>", "<bot>", "<human>", "Doctor:", "Patient:")  # fmt: skip
IDENTIFIERS = "possible identifiers (carellama data clean --deidentify mask)"
SCANS = (
    Scan("replacement characters (U+FFFD): the text was decoded wrongly", ("�",), re.compile("�")),
    Scan(
        "garbled text: it was decoded with the wrong encoding",
        ("锟斤", "烫烫烫", "â€", "Ã", "Â", "ï¼", "ã€", "ä¸"),
        re.compile("锟斤|烫烫烫|â€|Ã[\x80-\xbf–—‘’“”•…†‡€ŠšŒœŽžŸ¼½¾©¨§¢£¤¥¦ª«¬®¯°±²³´µ¶·¸¹º»¿]|Â[\xa0-\xbf]|ï¼[\x80-\xbf]|ã€|ä¸"),
    ),
    Scan("invisible characters", ("\u200b", "\u200c", "\u200e", "\u200f", "\ufeff", "\u2060"), re.compile("")),
    Scan(
        "HTML left in the text",
        ("<", "&"),
        re.compile(rf"</?(?:{TAG})\b[^<>]*>|<!--|&(?:nbsp|lt|gt|amp|quot|ldquo|rdquo|#\d+);", re.IGNORECASE),
    ),
    Scan(
        "prompt markup left in the text",
        MARKUP,
        re.compile(
            r"</?s>|\[/?INST\]|<\|\w+\|>|<</?SYS>>|^[ \t]*###[ \t]*(?:Instruction|Input|Response|Human|Assistant)\b"
            r"|^[ \t]*(?:问|答|病人|患者|医生|Human|Assistant|USER|ASSISTANT|Doctor)[:：]"
            r"|<(?:user|bot|human|assistant)>[:：]|\\n(?:问|答|病人|患者|医生|Human|Assistant|Doctor|Patient)[:：]",
            re.MULTILINE,
        ),
    ),
    Scan(
        "placeholder left in the text",
        ("<", "{", "[", "【"),
        re.compile(
            r"<[A-Z]{2,}(?:[_ ][A-Z]+)*>|(?<![\w\\^}])\{\{? ?[A-Za-z_]{3,} ?\}"  # not LaTeX's groups
            r"|\[(?:[Yy]our |[Pp]atient )?(?:[Nn]ame|NAME)\]|【(?:医生)?姓名】"
        ),
    ),
    Scan(
        "boilerplate of a language model",
        ("作为", "as an AI", "As an AI", "anguage model", "语言模型"),
        re.compile(
            r"作为(?:一个|一名|一款|一种)?(?:AI|人工智能|大?(?:型)?语言模型)|我是一个?(?:AI|人工智能|大?语言模型)"
            r"|\bas an AI\b|\bI(?:'m| am) (?:just |only )?an? (?:AI|(?:large )?language model)\b",
            re.IGNORECASE,
        ),
    ),
    Scan("line breaks written as \\n", ("\\n",), re.compile(r"\\n(?![a-z])")),
    Scan(IDENTIFIERS, ("@",), re.compile(r"[\w.+-]+@[\w-]+\.\w")),
)  # fmt: skip
NUMBERS = re.compile(r"(?<![0-9])(?:1[3-9][0-9]{9}|[1-9][0-9]{16}[0-9Xx])(?![0-9])")  # Chinese mobile, identity card
LONG_NUMBER = re.compile(r"[0-9]{11}")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SENTENCE_END = tuple("。！？…；.!?;~～\"'”’」』）)]】>》:：")
CONTROL_FAULT = "control characters"


def faults_of(record: Record, text: str, limits: Limits) -> Iterator[str]:
    """Yield the name of each fault of a record, whose texts are `text` when joined, once."""
    yield from text_faults(text)
    if isinstance(record, Text):
        if len(record.text) > limits.longest:
            yield f"very long text (over {limits.longest} characters)"
    elif isinstance(record, (Chat, Pair)):
        question, answer = question_and_answer(record)
        if len(answer) > limits.longest:
            yield f"very long answer (over {limits.longest} characters)"
        short = answer.strip()
        if len(short) < limits.shortest:
            yield f"very short answer (under {limits.shortest} characters)"
        if len(answer) == len(question) and answer == question:
            yield "answer equal to the question"
        if answer.startswith(("http://", "https://", "www.")) and " " not in short and "\n" not in short:
            yield "answer is only an address"
        if isinstance(record, Pair) and record.chosen.split() == record.rejected.split():
            yield "chosen and rejected differ only in white space"


def text_faults(text: str) -> Iterator[str]:
    """Yield the name of each fault of a text, once."""
    identified = False
    for scan in SCANS:
        for needed in scan.needs:
            if needed in text:
                if scan.pattern.search(text):
                    yield scan.name
                    identified |= scan.name is IDENTIFIERS
                break
    # each such number has a 1 or (a birth year 20..) a 2 in it, which is found sooner than a run of digits
    if not identified and ("1" in text or "2" in text) and LONG_NUMBER.search(text) and NUMBERS.search(text):
        yield IDENTIFIERS
    if CONTROL.search(text):
        yield CONTROL_FAULT


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
