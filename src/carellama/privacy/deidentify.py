"""Identifiers of persons in Chinese and English texts, masked or replaced, each counted by kind.

    Deidentifier()("患者王小明，电话 138-0013-8000")   # ("患者[NAME_1]，电话 [PHONE_1]", Counter(NAME=1, PHONE=1))

A placeholder is `[KIND_n]` in ASCII whatever the language: one form to look for, to learn and to leave alone, which no
Chinese or English text holds by itself; n is the number of the value within its record, so that a reader still knows
who is who. What is an identifier is decided in `carellama.privacy.detect`.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Literal

from carellama.errors import UserError, need
from carellama.privacy import names_zh_prose
from carellama.privacy.detect import PLACEHOLDER, check_kinds, find_in_record
from carellama.privacy.kinds import Identifier
from carellama.privacy.normalize import canonical_form
from carellama.privacy.surrogates import Surrogates


class RecordScope:
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
        self._date_shift = deidentifier.surrogates.date_shift(key or "\n".join(texts))

    def replace(self, text: str, found: Iterable[Identifier]) -> str:
        """The text with its identifiers replaced."""
        pieces, at = [], 0
        for identifier in found:
            pieces += [text[at : identifier.start], self._replacement(identifier.kind, identifier.text)]
            at = identifier.end
        return "".join([*pieces, text[at:]])

    def _replacement(self, kind: str, value: str) -> str:
        if self._deidentifier.mode == "surrogate":
            return self._deidentifier.surrogates(kind, value, shift=self._date_shift)
        key = (kind, canonical_form(value))
        if kind == "NAME" and key not in self._numbers and value.isascii():  # Jane, after Jane Doe, is she
            words = set(value.split())
            whole = next((name for name in self._names if words < set(name.replace(",", " ").split())), value)
            key = (kind, canonical_form(whole))
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
        self.kinds = check_kinds(kinds)
        self.surrogates = Surrogates(secret if secret is not None else secrets.token_bytes(32))
        need("phonenumbers", extra="clean", why="de-identification")
        names_zh_prose.dictionary_file()

    def __call__(self, text: str) -> tuple[str, Counter[str]]:
        """Return the text without identifiers, and how many of each kind it had."""
        (clean,), counts = self.deidentify_texts([text])
        return clean, counts

    def deidentify_texts(self, texts: Iterable[str], *, record: str = "") -> tuple[list[str], Counter[str]]:
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

    def _replaced(self, texts: Iterable[str], record: str) -> tuple[list[str], Counter[str], RecordScope]:
        texts = list(texts)
        scope = RecordScope(self, texts, record)
        counts: Counter[str] = Counter()
        found = find_in_record(texts, self.kinds)
        while any(found):
            counts.update(identifier.kind for some in found for identifier in some)
            texts = [scope.replace(text, some) for text, some in zip(texts, found, strict=True)]
            # what was cut out may let another come together: look again, until nothing is left
            found = find_in_record(texts, self.kinds) if self.mode == "mask" else []
        return texts, counts, scope
