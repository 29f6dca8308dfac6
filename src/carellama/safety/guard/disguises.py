"""What a disguised request says: base64, hex and other codes, letters set apart, look-alike letters, pinyin, emoji.

    readings("H0w 2 m4k3 ...")      # "h0w 2 m4k3 ...", "how to make ..."

A reading is in the form of `rules.normalize`. A reading is added only where it differs, so that an ordinary text has
one. Each step takes time linear in the length; codes within codes are undone `DEPTH` times, and at most `CODES` codes
of a text. Words and characters that stand for others are data, `disguises.yaml`. It does not guess: what no step undoes
(a cipher of one's own) stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from urllib.parse import unquote

from ahocorasick_rs import AhoCorasick, MatchKind

from carellama.package_data import Patterns, package_yaml
from carellama.records import JSONObject
from carellama.rules import normalize
from carellama.safety.guard.pinyin import from_pinyin
from carellama.text import HAN, HAN_CHARACTER

PATTERNS = Patterns("safety/guard/patterns.yaml")  # of disguises and the guard
DEPTH = 3  # codes within codes
CODES = 40  # of one text
CODE_CHARACTERS = 8000  # of one code that are decoded
LEAST_BETWEEN = 4  # symbols between letters, or lines, from which they are a disguise
SHORT_LINE = 16  # characters of a line, on average
LETTERS_OF = 0.7  # share of letters and spaces from which decoded bytes are text
_ZERO_WIDTH = re.compile("[\u00ad\u034f\u061c\u115f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:\\x|0x)?[0-9a-fA-F]{2}(?:[\s:,]?(?:\\x|0x)?[0-9a-fA-F]{2}){5,}")
_BINARY = re.compile(r"[01]{8}(?:\s?[01]{8}){3,}")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}(?:[\w.~+-]{0,8}%[0-9a-fA-F]{2}){2,}[\w.~+-]*")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){2,}")
_ENTITIES = re.compile(r"(?:&#x?[0-9a-fA-F]{2,6};){2,}")
_HAN_APART = re.compile(rf"(?<=[{HAN}])[\s.·•*/\\_|~+^#=\-]{{1,3}}(?=[{HAN}])")
_SINGLE = r"(?<![A-Za-z0-9])[A-Za-z0-9!@$|]"
_LETTERS_APART = re.compile(rf"{_SINGLE}(?:([ .,_*/\-|+~])[A-Za-z0-9!@$](?:(?=\W)|$)){{2,}}")
_LEET_WORD = re.compile(r"(?<![a-z0-9@$!|+€])(?=[a-z]*[0-9@$!|+€])[a-z0-9@$!|+€(){}_]{2,}")
_LATIN = re.compile("[a-z]")
_TWO_LETTERS = re.compile(rf"(?<=[{HAN} ])([a-z]) ([a-z])(?= ?[{HAN}])")
_SYMBOLS = re.compile("[\u2600-\u27bf\U0001f000-\U0001faff]")
_SYMBOL_BETWEEN = re.compile(rf"(?<=[a-z0-9{HAN}])([\u2190-\u2bff\U0001f000-\U0001faff_])(?=[a-z0-9{HAN}])")
_WIDE_GAP = re.compile(r"([_.\-*~])\1{2,}")  # between words whose letters are set apart
_NOT_LEET = re.compile(r"\d+(?:[.,]\d+)?[a-z]{1,3}|[a-z]{1,2}\d{1,2}|[a-z]{3,}\d{2,}")  # 500mg, b12, base64
_OTHER_LETTERS = re.compile("[\u0370-\u03ff\u0400-\u04ff]")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_LEET = str.maketrans("013457@$!|+€", "oieastasiite")


def _words() -> JSONObject:
    return package_yaml("safety/guard/disguises.yaml")


@cache
def _common() -> tuple[frozenset[str], re.Pattern[str], re.Pattern[str]]:
    """Common English words, and patterns of common Chinese words as they are and backwards."""
    words = _words()["common"]["zh"]
    backwards = (word[::-1] for word in words)
    return frozenset(_words()["common"]["en"]), re.compile("|".join(words)), re.compile("|".join(backwards))


def readings(text: str, sounds: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the text in the form that is matched, and what it says where it is disguised.

    `sounds` are the words that are read in pinyin, of `pinyin.word_sounds`.
    """
    found = [normalize(text)]
    plain = _undisguised(_decoded(text), sounds or {})
    if plain != found[0]:
        found.append(plain)
    if (turned := _turned(plain)) is not None:
        found.append(turned)
    return tuple(found)


def preferred_words() -> list[str]:
    """Return the words that are meant where others have the same pinyin."""
    return list(_words()["preferred"])


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


def _undisguised(text: str, sounds: Mapping[str, str]) -> str:
    """A text in the form of `normalize`, its letters together and as they are meant."""
    text = _one_line(_symbols_removed(_WIDE_GAP.sub(" ", normalize(_ZERO_WIDTH.sub("", text)))))
    if not text.isascii():
        if _OTHER_LETTERS.search(text):
            text = text.translate(_lookalikes())
        if _SYMBOLS.search(text):
            text = _replace(text, "emoji")
        text = _HAN_APART.sub("", text)
        text = _TWO_LETTERS.sub(r"\1\2", text)
        text = _replace(text, "homophones")
    text = _LETTERS_APART.sub(lambda match: match[0].replace(match[1], ""), text)
    text = _LEET_WORD.sub(_unleet, text)
    shorts, meant = _short_forms()
    text = shorts.sub(lambda match: meant[match[0]], text)
    if not _LATIN.search(text) or (text.isascii() and _is_english(text)):
        return text
    spoken = from_pinyin(text, sounds, _words()["pinyin"])
    return text if spoken == text else _HAN_APART.sub("", spoken)


def _symbols_removed(text: str) -> str:
    """The text without the symbol that stands between its letters, where most letters are set apart by it."""
    between = Counter(_SYMBOL_BETWEEN.findall(text))
    symbol, count = between.most_common(1)[0] if between else ("", 0)
    letters = sum(map(str.isalnum, text))
    return text.replace(symbol, "") if count >= LEAST_BETWEEN and 3 * count > letters else text


def _one_line(text: str) -> str:
    """The text in one line, where it was split over many short ones."""
    lines = text.split("\n")
    split = len(lines) >= LEAST_BETWEEN and len(text) < SHORT_LINE * len(lines)
    return " ".join(line.strip() for line in lines) if split else text


def _replace(text: str, kind: str) -> str:
    """The text with the words of a table in place of what stands for them; the longest at each place."""
    automaton, words = _replacements(kind)
    parts, at = [], 0
    for index, start, end in automaton.find_matches_as_indexes(text):
        parts += [text[at:start], words[index]]
        at = end
    return "".join([*parts, text[at:]]) if parts else text


@cache
def _replacements(kind: str) -> tuple[AhoCorasick, list[str]]:
    pairs = {
        _ZERO_WIDTH.sub("", one): f" {meant} " if kind == "emoji" else meant
        for meant, written in _words()[kind].items()
        for one in written
    }
    return AhoCorasick(list(pairs), matchkind=MatchKind.LeftmostLongest), list(pairs.values())


@cache
def _short_forms() -> tuple[re.Pattern[str], Mapping[str, str]]:
    words = {str(short): meant for meant, written in _words()["short_forms"].items() for short in written}
    pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?<![\w.,'-])(?:{pattern})(?![\w.,'-]*\w)", re.ASCII), words


@cache
def _lookalikes() -> Mapping[int, str]:
    return {ord(one): latin for latin, written in _words()["lookalikes"].items() for one in written}


def _unleet(match: re.Match[str]) -> str:
    word = match[0]
    letters = sum(one.isalpha() for one in word)
    if letters == len(word) or not letters or _NOT_LEET.fullmatch(word):
        return word
    return word.translate(_LEET)


def _turned(text: str) -> str | None:
    """The text backwards or shifted by 13 letters, where that makes it a sentence."""
    if HAN_CHARACTER.search(text):
        _, as_is, turned = _common()
        backwards = len(turned.findall(text)) > len(as_is.findall(text))
        return text[::-1] if backwards or PATTERNS["backwards"].search(text) else None
    if len(text) > CODE_CHARACTERS:
        return None
    if PATTERNS["backwards"].search(text):
        return text[::-1]
    if _is_english(text):
        return None
    own = _sentence_words(text)
    others = (" ".join(word[::-1] for word in text.split(" ")), text[::-1], codecs.encode(text, "rot13"))
    return next((other for other in others if _sentence_words(other) > 2 * own + 1), None)


def _is_english(text: str) -> bool:
    """Whether a text has so many common words that it is neither pinyin nor turned."""
    return _sentence_words(text) * 6 > len(_WORD.findall(text))


def _sentence_words(text: str) -> int:
    return sum(word in _common()[0] for word in _WORD.findall(text))
