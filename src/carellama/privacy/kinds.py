"""The nouns of de-identification: the kinds of identifier, and one found in a text.

    KINDS["PHONE"].meaning   # "telephone, mobile and fax numbers"

It finds nothing itself: `carellama.privacy.detect.find_identifiers` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class IdentifierKind(NamedTuple):
    """Words for a kind of identifier, in English and Chinese."""

    en: str
    zh: str
    meaning: str
    default: bool = True  # removed unless only other kinds are asked for


KINDS: dict[str, IdentifierKind] = {
    "NAME": IdentifierKind("name", "姓名", "names of persons: marked, before or after a title, or alone in a sentence"),
    "ID_CARD": IdentifierKind(
        "identity card", "身份证号", "Chinese resident identity numbers, national identity numbers"
    ),
    "PASSPORT": IdentifierKind("passport", "护照号", "passports, travel permits, military and residence papers"),
    "SSN": IdentifierKind(
        "social security number", "社会安全号", "social security numbers of the US, national insurance of the UK"
    ),
    "LICENCE": IdentifierKind("licence", "驾驶证号", "driving licences"),
    "PHONE": IdentifierKind("phone", "电话", "telephone, mobile and fax numbers; not public helplines"),
    "EMAIL": IdentifierKind("e-mail", "邮箱", "e-mail addresses"),
    "ADDRESS": IdentifierKind("address", "地址", "postal addresses and postcodes"),
    "RECORD_NUMBER": IdentifierKind("record number", "病历号", "numbers of records, visits, specimens, reports"),
    "INSURANCE_NUMBER": IdentifierKind("insurance number", "医保号", "numbers of health insurance and of the NHS"),
    "BIRTH_DATE": IdentifierKind("date of birth", "出生日期", "dates of birth; a year alone stays"),
    "BANK_CARD": IdentifierKind("bank card", "银行卡号", "bank cards and accounts"),
    "ACCOUNT": IdentifierKind("account", "账号", "names and numbers in WeChat, QQ and other networks, user names"),
    "URL": IdentifierKind("web page", "网址", "pages of persons: profiles, addresses with a name or token in them"),
    "IP": IdentifierKind("network address", "网络地址", "IP and MAC addresses"),
    "VEHICLE": IdentifierKind("vehicle", "车牌号", "number plates"),
    "DATE": IdentifierKind("date", "日期", "all other dates with a day; only when asked for", default=False),
}
DEFAULT_KINDS = frozenset(name for name, kind in KINDS.items() if kind.default)


@dataclass(frozen=True, slots=True)
class Identifier:
    """One found identifier: characters `start` to `end` (half open) of the text it was found in."""

    kind: str
    start: int
    end: int
    text: str
    score: float = 1.0  # which of two overlapping ones is kept, together with the length


Span = tuple[str, int, int, float]  # kind, start, end, score: what a detector yields
