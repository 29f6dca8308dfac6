"""What a disguised request says: base64, hex and other codes, letters set apart, look-alike letters, pinyin, emoji.

    readings("h0w 2 m4k3 ...")      # the text, and "how to make ..."

A reading is added only where it differs, so that an ordinary text has one. Each step takes time linear in the length;
codes within codes are undone `DEPTH` times, and at most `CODES` codes of a text. Words and characters that stand for
others are data, `disguises.yaml`. It does not guess: what no step undoes (a cipher of one's own) stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import unquote

import yaml

from carellama.rules import normalize
from carellama.text import HAN, HAN_CHARACTER

DEPTH = 3  # codes within codes
CODES = 40  # of one text
CODE_CHARACTERS = 8000  # of one code that are decoded
LETTERS_OF = 0.7  # share of letters and spaces from which decoded bytes are text
_ZERO_WIDTH = re.compile("[\u00ad\u034f\u061c\u115f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:\\x|0x)?[0-9a-fA-F]{2}(?:[\s:,]?(?:\\x|0x)?[0-9a-fA-F]{2}){5,}")
_BINARY = re.compile(r"[01]{8}(?:\s?[01]{8}){3,}")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}(?:[\w.~+-]{0,8}%[0-9a-fA-F]{2}){2,}[\w.~+-]*")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){2,}")
_ENTITIES = re.compile(r"(?:&#x?[0-9a-fA-F]{2,6};){2,}")
_HAN_APART = re.compile(rf"(?<=[{HAN}])[\s.,，。·•*/\\_|~+^#=\-]{{1,3}}(?=[{HAN}])")
_SINGLE = r"(?<![A-Za-z0-9])[A-Za-z0-9!@$|]"
_LETTERS_APART = re.compile(rf"{_SINGLE}(?:([ .,_*/\-|+~])[A-Za-z0-9!@$](?:(?=\W)|$)){{2,}}")
_LEET_WORD = re.compile(r"[A-Za-z0-9@$!|+€(){}_]{2,}")
_NOT_LEET = re.compile(r"\d+(?:[.,]\d+)?[a-z]{1,3}|[a-z]{1,2}\d{1,2}|[a-z]{3,}\d{2,}")  # 500mg, b12, base64
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_LEET = str.maketrans("013457@$!|+€", "oieastasiite")
_BACKWARDS = re.compile(r"backward|reverse|倒着|倒过来|反着|反过来|倒读|从后往前", re.IGNORECASE)
# Words that most English sentences have, to tell a sentence from one that was turned or shifted.
_COMMON = frozenset(
    "an and any are as ask at be but by can do does for from get give go how if in is it make me my no not of on "
    "or out over please show so some someone tell that the them then this to use want what where which who why will "
    "with without would write you your".split()
)


@cache
def _words() -> Mapping[str, Any]:
    text = resources.files("carellama.safety").joinpath("disguises.yaml").read_text(encoding="utf-8")
    read: Mapping[str, Any] = yaml.safe_load(text)
    return read


def readings(text: str) -> tuple[str, ...]:
    """Return the text, and what it says where it is disguised."""
    found = [text]
    plain = _undisguised(_decoded(text))
    if plain != normalize(text):
        found.append(plain)
    if (turned := _turned(plain)) is not None:
        found.append(turned)
    return tuple(found)


def _decoded(text: str) -> str:
    """The text with its codes undone, code within code."""
    for _ in range(DEPTH):
        before = text
        for pattern, decode in _CODES:
            text = pattern.sub(_once(decode), text, count=CODES)
        if text == before:
            break
    return text


def _once(decode: Callable[[str], str | None]) -> Callable[[re.Match[str]], str]:
    def replaced(match: re.Match[str]) -> str:
        said = decode(match[0][:CODE_CHARACTERS])
        return match[0] if said is None else f" {said} "

    return replaced


def _from_base64(code: str) -> str | None:
    if code.isalpha() and (code.islower() or code.isupper() or code.istitle()):
        return None  # a long word
    bare = code.rstrip("=").replace("-", "+").replace("_", "/")
    bare = bare[: len(bare) - (len(bare) % 4 == 1)]
    try:
        return _as_text(base64.b64decode(bare + "=" * (-len(bare) % 4)))
    except (binascii.Error, ValueError):
        return None


def _from_hex(code: str) -> str | None:
    digits = re.sub(r"\\x|0x|[\s:,]", "", code)
    return _as_text(bytes.fromhex(digits)) if len(digits) % 2 == 0 else None


def _from_binary(code: str) -> str | None:
    digits = re.sub(r"\s", "", code)
    return _as_text(bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits) - 7, 8)))


def _as_text(data: bytes) -> str | None:
    """Bytes as text, if they are mostly letters; what was cut off at the end is left away."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:
            return None
        text = data[: error.start].decode("utf-8")
    letters = sum(one.isalpha() or one == " " for one in text)
    return text if text.isprintable() and letters >= LETTERS_OF * len(text) > 3 else None


_CODES: tuple[tuple[re.Pattern[str], Callable[[str], str | None]], ...] = (
    (_PERCENT, unquote),
    (_ESCAPES, lambda code: code.encode("ascii").decode("unicode_escape").encode("utf-8", "replace").decode()),
    (_ENTITIES, html.unescape),
    (_BINARY, _from_binary),
    (_HEX, _from_hex),
    (_BASE64, _from_base64),
)


def _undisguised(text: str) -> str:
    """A text in the form of `normalize`, its letters together and as they are meant."""
    text = normalize(_ZERO_WIDTH.sub("", text))
    if not text.isascii():
        text = text.translate(_lookalikes())
        text = _replace(text, "emoji")
        text = _HAN_APART.sub("", text)
        text = _replace(text, "homophones")
    text = _LETTERS_APART.sub(_joined, text)
    text = _LEET_WORD.sub(_unleet, text)
    return _from_pinyin(text)


def _replace(text: str, kind: str) -> str:
    pattern, words = _replacements(kind)
    return pattern.sub(lambda match: words[match[0]], text)


@cache
def _replacements(kind: str) -> tuple[re.Pattern[str], Mapping[str, str]]:
    words: dict[str, str] = {}
    for meant, written in _words()[kind].items():
        words |= {_ZERO_WIDTH.sub("", one): meant if kind == "homophones" else f" {meant} " for one in written}
    longest = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest))), words


@cache
def _short_forms() -> Mapping[str, str]:
    return {short: meant for meant, written in _words()["short_forms"].items() for short in written}


@cache
def _lookalikes() -> Mapping[int, str]:
    return {ord(one): latin for latin, written in _words()["lookalikes"].items() for one in written}


def _joined(match: re.Match[str]) -> str:
    return re.sub(rf"{re.escape(match[1])}", "", match[0])


def _unleet(match: re.Match[str]) -> str:
    word = match[0]
    if (short := _short_forms().get(word)) is not None:
        return short
    letters = sum(one.isalpha() for one in word)
    if letters == len(word) or not letters or _NOT_LEET.fullmatch(word):
        return word
    return word.translate(_LEET)


def _from_pinyin(text: str) -> str:
    """A text with the pinyin of known words in characters, where it has two of them at least."""
    words = _pinyin()
    found = [one for one in _WORD.findall(text) if one in words]
    if len(set(found)) < 2:
        return text
    return _HAN_APART.sub("", _WORD.sub(lambda match: words.get(match[0], match[0]), text))


@cache
def _pinyin() -> Mapping[str, str]:
    return {sound: word for word, sounds in _words()["pinyin"].items() for sound in sounds}


def _turned(text: str) -> str | None:
    """The text backwards or shifted by 13 letters, where that makes it a sentence."""
    if HAN_CHARACTER.search(text):
        return text[::-1] if _BACKWARDS.search(text) else None
    if len(text) > CODE_CHARACTERS:
        return None
    own = _sentence_words(text)
    for other in _other_ways(text):
        if _sentence_words(other) > 2 * own + 1:
            return other
    return None


def _other_ways(text: str) -> Iterator[str]:
    yield text[::-1]
    yield codecs.encode(text, "rot13")


def _sentence_words(text: str) -> int:
    return sum(word in _COMMON for word in _WORD.findall(text))
