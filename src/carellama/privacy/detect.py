"""Identifiers of persons in Chinese and English texts, found by rules and by two models of names.

    find_identifiers("患者王小明，电话 138-0013-8000")   # NAME 王小明, PHONE 138-0013-8000

It does not find all, and knows nothing of who a text is about: a human has to look at what is published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from carellama.errors import lookup, need
from carellama.privacy import (
    addresses,
    fields,
    names_en,
    names_en_prose,
    names_zh,
    names_zh_prose,
    same_names,
    validators,
)
from carellama.privacy.kinds import DEFAULT_KINDS, KINDS, Identifier, Span
from carellama.privacy.normalize import normalize
from carellama.privacy.rules import Checks, scan
from carellama.privacy.validators import is_helpline_at
from carellama.text import HAN_CHARACTER

PLACEHOLDER = re.compile(r"\[(" + "|".join(KINDS) + r")_(\d+)\]")
CHECKS: Checks = {**validators.CHECKS, **addresses.CHECKS, **names_zh.CHECKS, **names_en.CHECKS}  # what rules may name


def _detect_phones_abroad(plain: str) -> Iterator[Span]:
    """Yield the phone numbers that the number plan of a country knows (libphonenumber)."""
    library = need("phonenumbers", extra="clean", why="de-identification")
    for match in library.PhoneNumberMatcher(plain, None, leniency=library.Leniency.VALID):
        free = library.number_type(match.number) == library.PhoneNumberType.TOLL_FREE
        if not free and not is_helpline_at(plain, match.start, match.end):
            yield "PHONE", match.start, match.end, 0.4


Detector = Callable[[str], Iterator[Span]]
# What detects besides the rules, and the cheap pattern without which there is nothing to detect.
DETECTORS: tuple[tuple[Detector, re.Pattern[str]], ...] = (
    (_detect_phones_abroad, re.compile(r"\+\(?[1-9]\d")),
    (names_zh.detect_names_before_titles, HAN_CHARACTER),
    (names_zh_prose.detect_names_in_prose, HAN_CHARACTER),
    (names_en_prose.detect_names_in_prose, re.compile("[A-Za-z]{2}")),
    (fields.detect_form_fields, re.compile(r"[:=|^]|</|/[A-Z]{0,4}\d")),
)


def find_identifiers(text: str, kinds: Collection[str] | None = None) -> list[Identifier]:
    """Return the identifiers of a text, in order, not overlapping, with half-open character offsets into the text.

    `kinds`: only these (default: `DEFAULT_KINDS`, all but other dates). `UserError` for an unknown one.
    """
    return find_in_record([text], kinds)[0]


def find_in_record(texts: Sequence[str], kinds: Collection[str] | None = None) -> list[list[Identifier]]:
    """Return the identifiers of each text of one record: a name found in one text is found in all.

    `kinds` as in `find_identifiers`.
    """
    wanted = check_kinds(kinds)
    plains = [normalize(text) for text in texts]
    found = [detect(plain, wanted) for plain in plains]
    if "NAME" in wanted or "BIRTH_DATE" in wanted or "PHONE" in wanted:
        same_names.treat_alike(plains, found)
        for plain, spans in zip(plains, found, strict=True):
            ends = [end for kind, _, end, _ in spans if kind == "NAME"]
            spans.update(span for end in ends for span in fields.detect_next_to_name(plain, end))
    return [_identifiers(text, plain, spans, wanted) for text, plain, spans in zip(texts, plains, found, strict=True)]


def detect(plain: str, wanted: Collection[str]) -> set[Span]:
    """Return what the rules and every other detector yield whose gate says that it may."""
    found = scan(plain, CHECKS, wanted)
    for detector, gate in DETECTORS:
        if gate.search(plain):
            found.update(detector(plain))
    return found


def _identifiers(text: str, plain: str, found: Iterable[Span], wanted: Collection[str]) -> list[Identifier]:
    masked = [match.span() for match in PLACEHOLDER.finditer(plain)] if "[" in plain else []
    return [
        Identifier(kind, start, end, text[start:end], score)
        for kind, start, end, score in merge_overlaps(found)
        if kind in wanted and not any(start < right and left < end for left, right in masked)
    ]


def check_kinds(kinds: Collection[str] | None) -> frozenset[str]:
    """Return the kinds that are asked for. `UserError` for an unknown one."""
    if kinds is None:
        return DEFAULT_KINDS
    for kind in kinds:
        lookup(KINDS, kind, "kind of identifier")
    return frozenset(kinds)


def merge_overlaps(found: Iterable[Span]) -> list[Span]:
    """Return one span where several overlap: the kind of the surest, from the first to the last character of all."""
    ordered = sorted(found, key=lambda span: (span[1], -span[2], -span[3], span[0]))
    merged: list[Span] = []
    for span in ordered:
        if merged and span[1] < merged[-1][2]:
            last = merged[-1]
            surest = max(last, span, key=lambda one: (one[3], one[2] - one[1]))
            merged[-1] = (surest[0], last[1], max(last[2], span[2]), surest[3])
        else:
            merged.append(span)
    return merged
