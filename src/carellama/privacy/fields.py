"""Fields of forms, tables, JSON and logs: a key, a mark and a value, as in `name=...;tel=...` and `姓名|...|性别`.

    list(detect_form_fields('{"pt_name": "Jane Doe"}'))   # [("NAME", 13, 21, 0.9)]

Only keys that name an identifier are read; what stands in a sentence is found by the other modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from carellama.privacy.kinds import Span
from carellama.privacy.names_zh import is_chinese_name
from carellama.privacy.rules import fragment_pattern, read_file
from carellama.privacy.word_lists import english

_SPEAKERS = frozenset("患者 病人 医生 医师 护士 家属".split())  # 医生：焦虑，熬夜 is what the physician says


@cache
def _kinds() -> dict[str, str]:
    """The kind of identifier that each key names."""
    return {key: kind for kind, keys in read_file("fields")["keys"].items() for key in keys}


def _pattern(name: str) -> re.Pattern[str]:
    return fragment_pattern("fields", name)


def detect_form_fields(plain: str) -> Iterator[Span]:
    """Yield the values of fields that hold an identifier: (kind, start, end, score)."""
    yield from _detect_markup_fields(plain)
    turned = plain[::-1]
    for mark in _pattern("MARK").finditer(plain):
        key = _pattern("KEY").match(turned, len(plain) - mark.start())
        if not key:
            continue
        word = key["key"][::-1].strip()
        kind = _kind(word)
        if kind == "NAME" and (capitals := _pattern("CAPITALS").match(plain, mark.end())):
            yield kind, *capitals.span("value"), 0.72
            continue
        value = _pattern("VALUE").match(plain, mark.end()) if kind else None
        if kind and value:
            end = _value_length(
                kind, value["value"].rstrip(" ."), keyed=bool(value["after"]), trusted_key=word not in _SPEAKERS
            )
            if end:
                yield kind, value.start("value"), value.start("value") + end, 0.72


def kind_of_key(key: str) -> str | None:
    """The kind of identifier that a key names, written together in lower case (patientname, 患者姓名)."""
    return _kinds().get(key)


def _detect_markup_fields(plain: str) -> Iterator[Span]:
    """Yield the values of XML."""
    for match in _pattern("TAG").finditer(plain) if "</" in plain else ():
        key = match["key"].rpartition(":")[2]
        kind = "NAME" if key in ("given", "family", "first", "last") else _kind(key)
        end = _value_length(kind, match["value"], keyed=False, trusted_key=True) if kind else 0
        if kind == "NAME" and not end and _pattern("WORD").fullmatch(match["value"]):
            end = len(match["value"])
        if kind and end:
            yield kind, match.start("value"), match.start("value") + end, 0.72


def _kind(key: str) -> str | None:
    """What a key says: all of it, or its last words."""
    kinds, words = _kinds(), re.findall(r"[a-z#]+", key.lower())
    if not words:
        return _kinds().get(re.sub(r"[\"' ]", "", key))
    return next((kinds[one] for at in range(len(words)) if (one := "".join(words[at:]).rstrip("#")) in kinds), None)


def _value_length(kind: str, value: str, *, keyed: bool, trusted_key: bool) -> int:
    """How much of a value is the identifier; 0 when it has not the form of one. `keyed`: it is a key itself.

    `trusted_key`: the key is none of a speaker in a dialogue.
    """
    if kind == "NAME":
        if keyed:
            return 0
        if _pattern("HAN_NAME").match(value):
            return len(value) if "·" in value or is_chinese_name(value, strict=not trusted_key) else 0
        value = re.split(r" / |  ", value)[0]
        words = re.split("[ +]+", value.lower().replace(".", ""))
        if not _pattern("LATIN_NAME").match(value) or any(
            word in english().not_names or word in english().ordinary for word in words
        ):
            return 0
        particle = r"(?:al|el)-[A-Z]|(?:de|la|van|von|der|bin|del|da)$"
        return (
            len(value) if all(word[0].isupper() or re.match(particle, word) for word in re.split("[ +]", value)) else 0
        )
    if kind == "EMAIL":
        return 0
    if kind == "ADDRESS":
        return len(value) if re.fullmatch(r"\d{5,6}(?:-\d{4})?", value) else 0
    digits = sum(character.isdigit() for character in value)
    fewest = {"PHONE": 7, "ID_CARD": 8, "ACCOUNT": 6}.get(kind, 4)
    return len(value) if digits >= fewest and _pattern("NUMBER").match(value) else 0


def detect_next_to_name(plain: str, end: int) -> Iterator[Span]:
    """Yield the day in the cell behind a name, or the phone number behind it: `end` is where the name ends."""
    if match := fragment_pattern("dates", "CELL").match(plain, end):
        yield "BIRTH_DATE", *match.span("value"), 0.6
    elif (
        (match := fragment_pattern("dates", "DIALLED").match(plain, end))
        and 7 <= sum(map(str.isdigit, match["value"])) <= 13
        and not fragment_pattern("dates", "YEARS").fullmatch(match["value"].strip("()"))
    ):
        yield "PHONE", *match.span("value"), 0.5
