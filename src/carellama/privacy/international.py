"""Identifiers that have the same form in every language: IBAN, Medicare, national insurance, IP, MAC, phones abroad.

    list(international("from 2001:db8::1"))   # [("IP", 5, 16, 0.6)]

Each pattern is followed by a check: the check digits of an IBAN, the number plan of a phone (libphonenumber), the
range of each part of an IP address. Four numbers with dots are an IP address only where they cannot be measurements.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from carellama.errors import need
from carellama.privacy.checksums import is_iban
from carellama.privacy.normalize import pattern
from carellama.privacy.numbers import is_helpline

Found = tuple[str, int, int, float]

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])(?P<value>[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
)
_LETTER = "[AC-HJKMNP-RT-Y]"  # of a Medicare beneficiary identifier: no S, L, O, I, B, Z
_LETTER_OR_DIGIT = "[0-9AC-HJKMNP-RT-Y]"
_MBI = re.compile(  # CMS, "Understanding the Medicare Beneficiary Identifier format": C A AN N A AN N A A N N
    rf"(?<![A-Za-z0-9])[1-9]{_LETTER}{_LETTER_OR_DIGIT}\d-?{_LETTER}{_LETTER_OR_DIGIT}\d-?{_LETTER}{{2}}\d\d(?![A-Za-z0-9])"
)
_NINO = re.compile(  # HMRC, NIM39110: no D, F, I, Q, U, V first or second, no O second, seven pairs not given out
    r"(?<![A-Za-z0-9])(?!BG|GB|NK|KN|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
    r"(?P<gap> ?)\d\d ?\d\d ?\d\d ?[A-D](?![A-Za-z0-9])"
)
_MAC = re.compile(
    r"(?<![A-Za-z0-9:\-.])(?:[0-9A-Fa-f]{2}(?P<mark>[:\-])(?:[0-9A-Fa-f]{2}(?P=mark)){4}[0-9A-Fa-f]{2}|"
    r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![A-Za-z0-9:\-]|\.\w)"
)
_IPV4 = re.compile(r"(?<![A-Za-z0-9.:/\-])\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?(?![A-Za-z0-9/%:]|\.\d|\-\d)")
_PORT = re.compile(r"(?<![A-Za-z0-9.:/\-])(?P<value>\d{1,3}(?:\.\d{1,3}){3}):\d{2,5}(?![\d.:])")
_IPV6 = re.compile(
    r"(?<![A-Za-z0-9.:])(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*:)[0-9A-Fa-f:]{2,39}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?"
    r"(?:%[0-9A-Za-z]+)?(?:/\d{1,3})?(?![A-Za-z0-9:]|\.\d)"
)
_PRIVATE = re.compile(r"(?:10|127)\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|169\.254\.")
_IP_WORD = pattern(
    r"(?<![A-Za-z])ip(?:v4)?(?![A-Za-z])|地址|主机|服务器|网关|登录|登陆|客户端|host|server|gateway|login|logged|"
    r"address|client|subnet|router|ping|dns|from",
    re.IGNORECASE,
)
_NO_IP = pattern(  # a version, a section, an enzyme, a temperature
    r"(?:体温|温度|高烧|发烧|发热|低烧|烧到|度|℃|temp\w*|(?<![A-Za-z])(?:v|ver(?:sion)?|ec|版本号?|第|§|section|chapter))"
    r"[^.。;；\n]{0,12}$",
    re.IGNORECASE,
)
_DEGREES = re.compile(r"\s?(?:℃|°|度|C(?![A-Za-z])|摄氏)")
_ABROAD = re.compile(r"\+\(?[1-9]\d")
_PARTS = re.compile(r"\d[A-Z0-9]{3}|[A-Z]{2}\d\d|[0-9A-Fa-f]{0,4}[:\-.][0-9A-Fa-f]{1,4}[:\-.]|::|[A-Z]{2} ?\d\d ?\d\d")


def international(plain: str) -> Iterator[Found]:
    """Yield what is found in a folded text: (kind, start, end, score)."""
    if _PARTS.search(plain):
        yield from _codes(plain)
        yield from _network(plain)
    if _ABROAD.search(plain):
        yield from _phones_abroad(plain)


def _codes(plain: str) -> Iterator[Found]:
    for match in _IBAN.finditer(plain):
        # a word in capitals may stand behind: take the longest beginning whose check digits fit
        for end in sorted({m.start() for m in re.finditer(r"[ \-]", match[0])} | {len(match[0])}, reverse=True):
            if is_iban(re.sub(r"[ \-]", "", match[0][:end])):
                yield "BANK_CARD", match.start(), match.start() + end, 1.0
                break
    for match in _MBI.finditer(plain):
        yield "INSURANCE_NUMBER", *match.span(), 0.5 if "-" in match[0] else 0.3
    for match in _NINO.finditer(plain):
        yield "SSN", *match.span(), 0.5


def _network(plain: str) -> Iterator[Found]:
    for match in _MAC.finditer(plain):
        digits = re.sub(r"[:\-.]", "", match[0])
        if len(set(digits)) > 1 and (re.search("[A-Fa-f]", digits) or match["mark"] == ":"):
            yield "IP", *match.span(), 0.6
    for match in _IPV4.finditer(plain):
        if _is_address(plain, match.start(), match[0]):
            yield "IP", *match.span(), 0.6
    for match in _PORT.finditer(plain):
        if _is_address(plain, match.start(), match["value"]):
            yield "IP", *match.span("value"), 0.6
    for match in _IPV6.finditer(plain):
        if len(match[0]) > 6 and _parses(match[0].partition("%")[0]):
            yield "IP", *match.span(), 0.6


def _parses(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return True


def _is_address(plain: str, start: int, text: str) -> bool:
    """Whether four numbers with dots are an IP address: not 36.5.37.2, two temperatures, nor version 2.10.3.14."""
    if not _parses(text) or _DEGREES.match(plain, start + len(text)):
        return False
    if _IP_WORD.search(plain, max(0, start - 24), start) or _PRIVATE.match(text):
        return True
    if _NO_IP.search(plain, max(0, start - 24), start):
        return False
    first, second, third, fourth = (int(part) for part in text.partition("/")[0].split("."))
    if max(first, third) < 43 and max(second, fourth) < 100 and (second < 10 or fourth < 10):
        return False
    return max(first, second, third, fourth) > 99 or min(first, second, third, fourth) > 9


def _phones_abroad(plain: str) -> Iterator[Found]:
    library = need("phonenumbers", extra="clean", why="de-identification")
    for match in library.PhoneNumberMatcher(plain, None, leniency=library.Leniency.VALID):
        free = library.number_type(match.number) == library.PhoneNumberType.TOLL_FREE
        if not free and not is_helpline(plain, match.start, match.end):
            yield "PHONE", match.start, match.end, 0.4
