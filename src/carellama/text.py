"""Text in Chinese and English: a form to compare, sentences, words, n-grams, and which language it is.

    folded("Ｗhat  IS asthma？") == "what is asthma"

Plain regular expressions and no dictionary, as a million records go through them: a Chinese word is one character,
which is what n-grams of Chinese are usually made of.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

# By number: U+F900 written out becomes U+8C48, which it is a variant of, and a range from there has Hangul in it.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+(?:['’.\-][^\W_{HAN}]+)*")
SIGNS = "<>≤≥+±%−"  # without them opposites would compare equal: >140 and <140, HBsAg (+) and HBsAg (-)
# Between two digits a sign is part of the number: 1.5, 1~5, 1/5 and 10^9 are not 15, 1 5 or 109. (1,000 is 1000.)
RAISED = re.compile(r"(?<=\d)(?=[⁰¹²³⁴-⁹½⅓⅔¼¾⅛]+)(?<![⁰¹²³⁴-⁹])")
RANGE = re.compile(r"(?<=\d)\s?[-–—~]\s?(?=\d)")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
NOT_WORD = re.compile(rf"(?:(?![{SIGNS}]|(?<=\d)[.~/*:^](?=\d))[\W_])+")
NO_SPACE = re.compile(rf"(?<=[{HAN}{SIGNS}]) | (?=[{HAN}{SIGNS}])")
NEGATIVE = re.compile(r"\(\s*[-–—]\s*\)")
HAN_CHARACTER = re.compile(rf"[{HAN}]")
LATIN_LETTER = re.compile(r"[A-Za-zÀ-ɏ]")
LETTER = re.compile(r"[^\W\d_]")
END = re.compile(r"""[。！？…；!?]+["'”’」』）)\]]*|\.+["'”’)\]]*(?=\s|$)|\n+""")
# A full stop after these ends no sentence: titles, Latin, months and the initials of a name (not "vitamin D."), ...
ABBREVIATION = re.compile(
    r"(?:\b(?:Dr|Mr|Mrs|Ms|Prof|St|vs|cf|al|approx|ca|resp|e\.g|i\.e|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)"
    r"|(?<!vitamin )(?<!Vitamin )(?<!hepatitis )(?<!Hepatitis )(?<!type )(?<!group )(?<!grade )\b[A-Z])$"
)
# ... after these none before a number, ...
REFERENCE = re.compile(r"\b(?:Fig|Figs|Tab|No|Nos|p|pp|Vol|Ch|Sec)$")
# ... after these only one before a capital, ...
DOSING = re.compile(r"\b(?:etc|b\.i\.d|t\.i\.d|q\.i\.d|q\.d|p\.o|i\.v|i\.m|s\.c)$")
# ... and after the number of an item none.
ITEM = re.compile(r"(?m)^[ \t]*\d{1,3}$")
THINK, THOUGHT = "<think>", "</think>"  # around the reasoning that an answer may begin with
REASONING = re.compile(rf"(\s*{THINK}\s*)(.*?)(\s*{THOUGHT}\s*)", re.DOTALL)
LETTERS_A_TOKEN = 4  # of an estimate; a Chinese character counts as a token
MIXED_SHARE = 0.2  # of the letters: less of the other language does not make a text mixed
Language = Literal["zh", "en", "mixed", "other"]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, which agree: "1 row", "2 rows", "1 copy", "1,200 copies" (`plural`)."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def estimated_tokens(text: str) -> int:
    """Return roughly how many tokens a text has, for engines that cannot count."""
    han = len(HAN_CHARACTER.findall(text))
    return han + (len(text) - han) // LETTERS_A_TOKEN


def folded(text: str) -> str:
    """The form in which texts are compared: NFKC, lower case, only letters, digits and `SIGNS`, one space between.

    Chinese characters stand without spaces, so that a line break within a sentence makes no difference. Signs within a
    number stay.
    """
    text = NEGATIVE.sub("−", unicodedata.normalize("NFKC", RAISED.sub("^", text)).lower().replace("×", "*"))
    text = THOUSANDS.sub("", RANGE.sub("~", text))
    return NO_SPACE.sub("", NOT_WORD.sub(" ", text).strip())


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space around it: joined they are the text again."""
    found, begin = [], 0
    for end in END.finditer(text):
        stop = end.end()
        while stop < len(text) and text[stop].isspace():
            stop += 1
        if end[0] == "." and _within(text, begin, end.start(), text[stop : stop + 1]):
            continue
        if stop > begin:
            found.append(text[begin:stop])
        begin = stop
    return [*found, text[begin:]] if begin < len(text) else found


def _within(text: str, begin: int, stop: int, following: str) -> bool:
    """Whether the full stop at `stop` stands within a sentence; `following` is the character behind its space."""
    return bool(
        ABBREVIATION.search(text, begin, stop)
        or (following.isdigit() and REFERENCE.search(text, begin, stop))
        or (not following.isupper() and DOSING.search(text, begin, stop))
        or (following and ITEM.search(text, begin, stop))
    )


def words(text: str) -> list[str]:
    """The words of a text, lower case: runs of letters and digits, and each Chinese character by itself."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def ngrams(items: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of `n` items, in order; none where there are fewer."""
    return zip(*(items[start:] for start in range(n)), strict=False)


def split_reasoning(text: str) -> tuple[str, str, str, str]:
    """Cut an answer that begins with its reasoning: (opening mark, reasoning, closing mark, answer).

    The marks are with the white space around them, so that the four parts joined are the text. Without reasoning all
    but the last are "".
    """
    found = REASONING.match(text)
    if not found:
        return "", "", "", text
    opening, reasoning, closing = found.groups()
    return opening, reasoning, closing, text[found.end() :]


def opens_reasoning(prompt: str) -> bool:
    """Whether an answer to a prompt begins within its reasoning: the prompt ends with the opening mark."""
    return prompt.rstrip().endswith(THINK)


def join_reasoning(reasoning: str, answer: str) -> str:
    """Return an answer behind its reasoning, as Qwen3 and DeepSeek R1 write it."""
    return f"{THINK}\n{reasoning.strip()}\n{THOUGHT}\n\n{answer}"


def is_chinese(items: Sequence[str]) -> bool:
    """Whether more than half of these words are Chinese characters."""
    return 2 * sum(bool(HAN_CHARACTER.match(word)) for word in items) > len(items)


def language(text: str) -> Language:
    """zh or en, by which script most letters are in; mixed where the other has a fifth or more; other: neither.

    A Chinese character counts as two Latin letters: it stands for about as much text.
    """
    han, latin = 2 * len(HAN_CHARACTER.findall(text)), len(LATIN_LETTER.findall(text))
    letters = len(LETTER.findall(text)) + han // 2
    if not letters or han + latin < letters / 2:
        return "other"
    smaller = min(han, latin) / (han + latin)
    if smaller >= MIXED_SHARE:
        return "mixed"
    return "zh" if han > latin else "en"
