"""Identifiers of persons in Chinese and English texts: found, and masked or replaced, each counted by kind.

    Deidentifier()("患者王小明，电话 138-0013-8000")   # ("患者[NAME_1]，电话 [PHONE_1]", Counter(NAME=1, PHONE=1))

A placeholder is `[KIND_n]` in ASCII whatever the language: one form to look for, to learn and to leave alone, which no
Chinese or English text holds by itself; n is the number of the value within its record, so that a reader still knows
who is who. It does not find all, and knows nothing of who a text is about: a human has to look at what is published.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal

from carellama.errors import UserError, lookup, need
from carellama.privacy import (
    addresses,
    codes,
    contacts,
    dates,
    fields,
    international,
    names_en,
    names_en_prose,
    names_zh,
    names_zh_forms,
    names_zh_prose,
    numbers,
    same_names,
)
from carellama.privacy.kinds import DEFAULT_KINDS, KINDS, Identifier
from carellama.privacy.normalize import compact, fold
from carellama.privacy.same_names import Found
from carellama.privacy.surrogates import Surrogates
from carellama.text import HAN_CHARACTER

__all__ = ["DEFAULT_KINDS", "KINDS", "Deidentifier", "Identifier", "Record", "find", "find_all"]

PLACEHOLDER = re.compile(r"\[(" + "|".join(KINDS) + r")_(\d+)\]")
_DIGITS = re.compile(
    r"\d[^\n]{0,40}\d|(?:zero|one|two|three|four|five|six|seven|eight|nine)\W+(?:\w+\W+)?(?:zero|oh|"
    r"one|two|three|four|five|six|seven|eight|nine)",
    re.I,
)
_BIRTH_WORD = re.compile(
    r"生|娩|剖|(?:M|F|ale|男|女)[^A-Za-z]{0,5}\d|deliver|诞辰|出世|birth|born|dob|d\. ?o\. ?b|bday|b\.", re.IGNORECASE
)
_LATIN = re.compile(r"[A-Za-z]{2}")
_CONTACT = re.compile(
    r"@|/|_|www|[a-z]\d|chat|tok|cord|line|kik|信|Q|扣|号|名|(?<![a-z])at(?![a-z])|id|handle|login|"
    r"user|vx|wx|insta|twitter|facebook|"
    r"skype|telegram|snap|支付宝|昵称|艾特|微|加|account",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")

Finder = Callable[[str], Iterator[Found]]
# What finds, and the cheap pattern without which there is nothing to find.
FINDERS: tuple[tuple[Finder, re.Pattern[str]], ...] = (
    (numbers.numbers, _DIGITS),
    (codes.codes, _DIGITS),
    (addresses.addresses, _DIGIT),
    (
        addresses.addresses,
        re.compile(r"(?!\d)(?:住址|地址|家住|住在|现住|户籍|籍贯|居住|号|室|村|address|live|resid)", re.IGNORECASE),
    ),
    (dates.births, _BIRTH_WORD),
    (contacts.contacts, _CONTACT),
    (names_zh.names, HAN_CHARACTER),
    (names_zh_prose.names, HAN_CHARACTER),
    (names_zh_forms.forms, HAN_CHARACTER),
    (names_en.names, _LATIN),
    (names_en_prose.names, _LATIN),
    (fields.fields, re.compile(r"[:=|^]|</|/[A-Z]{0,4}\d")),
    (international.international, re.compile(r"\d|::")),
)


def find(text: str, kinds: Collection[str] | None = None) -> list[Identifier]:
    """Return the identifiers of a text, in order, not overlapping, with half-open character offsets into the text.

    `kinds`: only these (default: `DEFAULT_KINDS`, all but other dates). `UserError` for an unknown one.
    """
    return find_all([text], kinds)[0]


def find_all(texts: Sequence[str], kinds: Collection[str] | None = None) -> list[list[Identifier]]:
    """Return the identifiers of each text of one record: a name found in one text is found in all.

    `kinds` as in `find`.
    """
    wanted = _kinds(kinds)
    plains = [fold(text) for text in texts]
    found = [_search(plain, wanted) for plain in plains]
    if "NAME" in wanted or "BIRTH_DATE" in wanted or "PHONE" in wanted:
        same_names.treat_alike(plains, found)
        for plain, spans in zip(plains, found, strict=True):
            ends = [end for kind, _, end, _ in spans if kind == "NAME"]
            spans.update(day for end in ends for day in dates.beside(plain, end))
    return [_identifiers(text, plain, spans, wanted) for text, plain, spans in zip(texts, plains, found, strict=True)]


def _search(plain: str, wanted: Collection[str]) -> set[Found]:
    """Ask every finder whose pattern says that it may find something."""
    found: set[Found] = set()
    asked = set()
    for finder, gate in FINDERS:
        if finder not in asked and gate.search(plain):
            asked.add(finder)
            found.update(finder(plain))
    if "DATE" in wanted:
        found.update(dates.dates(plain))
    return found


def _identifiers(text: str, plain: str, found: Iterable[Found], wanted: Collection[str]) -> list[Identifier]:
    taken = [match.span() for match in PLACEHOLDER.finditer(plain)] if "[" in plain else []
    return [
        Identifier(kind, start, end, text[start:end], score)
        for kind, start, end, score in _apart(found)
        if kind in wanted and not any(start < right and left < end for left, right in taken)
    ]


def _kinds(kinds: Collection[str] | None) -> frozenset[str]:
    if kinds is None:
        return DEFAULT_KINDS
    for kind in kinds:
        lookup(KINDS, kind, "kind of identifier")
    return frozenset(kinds)


def _apart(found: Iterable[Found]) -> list[Found]:
    """One span where several overlap: the kind of the surest, from the first to the last character of all."""
    ordered = sorted(found, key=lambda span: (span[1], -span[2], -span[3], span[0]))
    merged: list[Found] = []
    for span in ordered:
        if merged and span[1] < merged[-1][2]:
            last = merged[-1]
            surest = max(last, span, key=lambda one: (one[3], one[2] - one[1]))
            merged[-1] = (surest[0], last[1], max(last[2], span[2]), surest[3])
        else:
            merged.append(span)
    return merged


class Record:
    """What belongs together: the same value gets the same number, and a name found once is removed everywhere."""

    def __init__(self, deidentifier: Deidentifier, texts: Iterable[str], key: str = "") -> None:
        self._deidentifier = deidentifier
        self._numbers: dict[tuple[str, str], int] = {}
        self._used: Counter[str] = Counter()
        self._names: list[str] = []
        self.values: dict[str, str] = {}  # placeholder -> what it was put for first
        texts = list(texts)
        for text in texts:
            for match in PLACEHOLDER.finditer(text):
                self._used[match[1]] = max(self._used[match[1]], int(match[2]))
        self._shift = deidentifier.surrogates.shift(key or "\n".join(texts))

    def replace(self, text: str, found: Iterable[Identifier]) -> str:
        """The text with its identifiers replaced."""
        pieces, at = [], 0
        for identifier in found:
            pieces += [text[at : identifier.start], self._replacement(identifier.kind, identifier.text)]
            at = identifier.end
        return "".join([*pieces, text[at:]])

    def _replacement(self, kind: str, value: str) -> str:
        if self._deidentifier.mode == "surrogate":
            return self._deidentifier.surrogates(kind, value, shift=self._shift)
        key = (kind, compact(value))
        if kind == "NAME" and key not in self._numbers and value.isascii():  # Jane, after Jane Doe, is she
            words = set(value.split())
            whole = next((name for name in self._names if words < set(name.replace(",", " ").split())), value)
            key = (kind, compact(whole))
            self._names.append(value)
        if key not in self._numbers:
            self._used[kind] += 1
            self._numbers[key] = self._used[kind]
        placeholder = f"[{kind}_{self._numbers[key]}]"
        self.values.setdefault(placeholder, value)
        return placeholder


class Deidentifier:
    """Made once, used for many texts; safe to use from several threads.

    `mode`: `mask` puts `[KIND_n]`, `surrogate` a believable value of the same form. `kinds`: only these (default: all
    but other dates). `secret`: bytes that make surrogates the same in every run and process; without it they are the
    same within this object only. `UserError` for an unknown mode or kind.
    """

    def __init__(
        self,
        *,
        mode: Literal["mask", "surrogate"] = "mask",
        kinds: Collection[str] | None = None,
        secret: bytes | None = None,
    ) -> None:
        if mode not in ("mask", "surrogate"):
            raise UserError(f"unknown way to de-identify {mode!r}; known: mask, surrogate")
        self.mode = mode
        self.kinds = _kinds(kinds)
        self.surrogates = Surrogates(secret if secret is not None else secrets.token_bytes(32))
        need("phonenumbers", extra="clean", why="de-identification")
        names_zh_prose.dictionary_file()

    def __call__(self, text: str) -> tuple[str, Counter[str]]:
        """Return the text without identifiers, and how many of each kind it had."""
        (clean,), counts = self.texts([text])
        return clean, counts

    def texts(self, texts: Iterable[str], *, record: str = "") -> tuple[list[str], Counter[str]]:
        """The same for the texts of one record (the messages of a conversation), numbered together.

        A name found in one is removed in all. `record` names the record where its dates shall move by the same days in
        every run whatever else changes in it (default: its texts).
        """
        texts, counts, _ = self._replaced(texts, record)
        return texts, counts

    def masked(self, texts: Iterable[str]) -> tuple[list[str], dict[str, str]]:
        """Return the texts of one record masked, and what each placeholder stands for, as it was written first."""
        assert self.mode == "mask", "surrogates cannot be put back"
        texts, _, scope = self._replaced(texts, "")
        return texts, scope.values

    def _replaced(self, texts: Iterable[str], record: str) -> tuple[list[str], Counter[str], Record]:
        texts = list(texts)
        scope = Record(self, texts, record)
        counts: Counter[str] = Counter()
        found = find_all(texts, self.kinds)
        while any(found):
            counts.update(identifier.kind for some in found for identifier in some)
            texts = [scope.replace(text, some) for text, some in zip(texts, found, strict=True)]
            # what was cut out may let another come together: look again, until nothing is left
            found = find_all(texts, self.kinds) if self.mode == "mask" else []
        return texts, counts, scope
