"""Dates and numbers beside a name, and numbers of one or two places as people write them in dates.

    list(next_to_name(normalize("Jo Ann | 02-29-1960 |"), 6))   # [("BIRTH_DATE", 9, 19, 0.6)]

Dates of birth and other dates are found by the rules in `rules/birth_dates.yaml` and `rules/dates.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator

from carellama.privacy.kinds import Span
from carellama.privacy.normalize import CHINESE_DIGITS
from carellama.privacy.rules import fragment_pattern

MONTHS = dict(zip("jan feb mar apr may jun jul aug sep oct nov dec".split(), range(1, 13), strict=True))


def next_to_name(plain: str, end: int) -> Iterator[Span]:
    """Yield the day in the cell behind a name, or the phone number behind it: `end` is where the name ends."""
    if match := fragment_pattern("dates", "CELL").match(plain, end):
        yield "BIRTH_DATE", *match.span("value"), 0.6
    elif (
        (match := fragment_pattern("dates", "DIALLED").match(plain, end))
        and 7 <= sum(map(str.isdigit, match["value"])) <= 13
        and not fragment_pattern("dates", "YEARS").fullmatch(match["value"].strip("()"))
    ):
        yield "PHONE", *match.span("value"), 0.5


def parse_small_number(text: str) -> int:
    """A number of one or two places, in digits or Chinese: 二十三 is 23, 廿三 too, 初三 is 3."""
    if text.isdigit() and text.isascii():
        return int(text)
    if text in ("正", "冬", "腊"):
        return {"正": 1, "冬": 11, "腊": 12}[text]
    text = text.replace("初", "").replace("廿", "二十").replace("卅", "三十")
    if "十" in text:
        tens, _, ones = text.partition("十")
        return 10 * int(CHINESE_DIGITS.get(tens, "1") if tens else "1") + int(
            CHINESE_DIGITS.get(ones, "0") if ones else "0"
        )
    return int("".join(CHINESE_DIGITS.get(character, character) for character in text))
