"""Presidio's recognisers for forms that are the same everywhere: e-mail, IP, MAC, IBAN, Medicare, phones abroad.

    list(recognised("from 2001:db8::1"))   # [("IP", 5, 16, 0.6)]

Each is asked only when a cheap pattern says it may find something, and directly: `AnalyzerEngine` asks all of them for
every text, and its language engine is not needed by any. Nothing is fetched: the list of top-level domains is the one
inside tldextract, and no model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from carellama.errors import need
from carellama.safety.numbers import is_helpline

Found = tuple[str, int, int, float]

# kind, the recogniser's class, when to ask it
ASKED: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("EMAIL", "EmailRecognizer", re.compile(r"\w@\w")),
    ("IP", "IpRecognizer", re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{2}")),
    ("IP", "MacAddressRecognizer", re.compile(r"(?:[0-9A-Fa-f]{2}[:\-]){5}|(?:[0-9A-Fa-f]{4}\.){2}")),
    ("BANK_CARD", "IbanRecognizer", re.compile(r"[A-Z]{2}\d{2}[ \-]?[A-Z0-9]{4}")),
    ("INSURANCE_NUMBER", "UsMbiRecognizer", re.compile(r"\d[A-Z][A-Z0-9]\d-?[A-Z][A-Z0-9]\d-?[A-Z]{2}\d\d")),
    ("SSN", "UkNinoRecognizer", re.compile(r"[A-Z]{2} ?\d\d ?\d\d ?\d\d ?[A-D]\b")),
    ("PHONE", "PhoneRecognizer", re.compile(r"\+\(?[1-9]\d")),
)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SMALL_PARTS = re.compile(r"(?:\d\.){3}\d(?!\d)")  # 1.2.3.4 is a section or a version far more often


def load() -> None:
    """Import the library, so that its absence is known before the first text."""
    _recogniser("IpRecognizer")


@cache
def _recogniser(name: str) -> Any:
    why = "de-identification"
    need("presidio_analyzer", extra="clean", why=why)
    library = need("presidio_analyzer.predefined_recognizers", extra="clean", why=why)
    if name == "PhoneRecognizer":
        return library.PhoneRecognizer(supported_regions=("US",), leniency=1)
    made = getattr(library, name)()
    if name == "EmailRecognizer":
        # tldextract.extract would fetch the list of domains from the network and write it into the home folder
        offline = need("tldextract", extra="clean", why=why).TLDExtract(suffix_list_urls=(), cache_dir=None)
        made.validate_result = lambda text: offline(text.partition("@")[2]).fqdn != ""
    return made


def recognised(plain: str) -> Iterator[Found]:
    """Yield what Presidio finds in a folded text: (kind, start, end, score)."""
    plain = _NOT_ASCII.sub(" ", plain)  # their word boundaries take a Chinese character for part of the word
    for kind, name, gate in ASKED:
        if not gate.search(plain):
            continue
        recogniser = _recogniser(name)
        for result in recogniser.analyze(plain, recogniser.supported_entities):
            text = plain[result.start : result.end]
            if kind == "IP" and (_SMALL_PARTS.fullmatch(text) or len(text) < 7):
                continue
            if kind == "PHONE" and not text.lstrip("(").startswith("+"):
                continue
            if kind == "PHONE" and is_helpline(plain, result.start, result.end):
                continue
            yield kind, result.start, result.end, result.score
