"""Numbers of a text that decide how urgent it is: temperature, oxygen, blood pressure, age, tablets and others.

    find_measures(normalize("宝宝两个月大，烧到39度"))    # {"age": [... value=0.167], "temperature": [... value=39.0]}

Each number is read with the words around it, in digits or in words of either language. Units: degrees Celsius, percent,
mmHg, beats and breaths a minute, mmol/L, years, weeks of pregnancy, metres, hours. A number without a label or a unit
that says what it is, or outside of what is possible in a person, is not read. Of more than 400 numbers (a table) the
first and the last 200 are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from carellama.package_data import package_yaml
from carellama.rules import Mention

_DIGITS = dict(zip("零〇一二两三四五六七八九", (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))
_UNITS = {"十": 10, "百": 100, "千": 1000}
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
ONES += ["seventeen", "eighteen", "nineteen"]
TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_WORDS = {word: number for number, word in enumerate(ONES)} | TENS
_ENGLISH = "|".join(sorted(_WORDS, key=len, reverse=True))
_TO_99 = rf"(?:{_ENGLISH})(?:[ -](?:{_ENGLISH}))?"
NUMBER = re.compile(
    r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,5}(?:\.\d{1,2})?"
    rf"|(?<![a-z])(?:(?:a|{_ENGLISH}) hundred(?:(?: and)? {_TO_99})?|{_TO_99}|half a)(?![a-z])"
    r"|[零〇一二两三四五六七八九十百千]{1,8}(?:点[零一二三四五六七八九]{1,2})?|一?半"
)
AGE_UNIT = re.compile(r"[ -]*个?(岁半|岁|周岁|years?|yrs?|y/?o|y|月|months?|mos?|周|星期|礼拜|weeks?|wks?|天|日|days?)")
DURATION = re.compile(
    r"[ -]?多?(个?半|个)?多?(小时|钟头|hours?|hrs?|h\b|分钟|minutes?|mins?|天|days?|周|星期|礼拜|weeks?)"
)
# Where a number of digits or Chinese characters may be: one set of characters, which `re` finds far faster than NUMBER.
FIGURES = re.compile("[0-9零〇一二两三四五六七八九十百千半][0-9零〇一二两三四五六七八九十百千半点.,]*")
# Where one in words may be, for the same reason any first letter with any end: NUMBER tells which are numbers.
NUMBER_WORD = re.compile(
    "[{}](?<![a-z].)(?:{})".format(
        "".join(sorted({word[0] for word in (*_WORDS, "a", "half")})),
        "|".join(sorted({word[1:] for word in (*_WORDS, "a hundred", "half a")})),
    )
)
REPEATS = 200  # numbers at the beginning of a text, and at its end: what stands between is left out
_UNIT_STARTS = frozenset("度个岁周月天日片粒颗丸米楼层小钟分多来星礼半 ")
BEFORE, AFTER = 48, 24  # characters around a number that are read
MG_PER_MMOL = 18.0  # of glucose, mg/dL for one mmol/L
FEET, STOREY = 0.3048, 3.0  # metres
DAYS_PER_YEAR, WEEKS_PER_MONTH = 365.25, 4.3


def read_number(text: str) -> float:
    """Return the number that digits or words of either language say."""
    if text[0].isdigit():
        return float(text.replace(",", ""))
    if text.isascii():
        hundreds, _, rest = text.rpartition("hundred")
        total = 100 * _WORDS.get(hundreds.strip(), 1) if hundreds else 0
        total += sum(_WORDS.get(word, 0) for word in re.split("[ -]", rest))
        return 0.5 if text == "half a" else float(total)
    whole, _, tenths = text.partition("点")
    value = _read_chinese(whole)
    return value + float("0." + "".join(str(_DIGITS[digit]) for digit in tenths)) if tenths else value


def _read_chinese(text: str) -> float:
    if text in ("半", "一半"):
        return 0.5
    if not any(unit in text for unit in _UNITS):
        return float("".join(str(_DIGITS.get(digit, 0)) for digit in text))
    total, digit, unit = 0, 0, 1
    for character in text:
        if character in _UNITS:
            unit = _UNITS[character]
            total += (digit or 1) * unit
            digit = 0
        else:
            digit = _DIGITS.get(character, 0)
    if unit > 10 and text[-2:-1] in _UNITS:  # 一百五 is 150, 一百零五 is 105
        digit *= unit // 10
    return float(total + digit)


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a number is known: what stands right before and right after it, one of them or both."""

    name: str
    before: re.Pattern[str] | None
    after: re.Pattern[str] | None
    least: float
    most: float
    convert: Callable[[float, str], float | None]


def _celsius(value: float, after: str) -> float | None:
    """Degrees Celsius; 38度5 is 38.5, and what is above 90 is Fahrenheit."""
    if value > 90:
        return round((value - 32) / 1.8, 2)
    tenth = re.match(r" ?度([0-9半一二三四五六七八九])(?![\d十百个分小天岁])", after)
    if tenth and value == int(value):
        return value + (0.5 if tenth[1] == "半" else _DIGITS.get(tenth[1], 0) / 10 or int(tenth[1]) / 10)
    return value


def _glucose(value: float, after: str) -> float | None:
    milligrams = value > 40 or "mg" in after[:8]
    return round(value / MG_PER_MMOL, 1) if milligrams else value


def _years(value: float, after: str) -> float | None:
    unit = AGE_UNIT.match(after)
    word = unit[1] if unit else "岁"
    if word[0] in "月m":
        return value / 12
    if word[0] in "周星礼w" and word != "周岁":
        return value * 7 / DAYS_PER_YEAR
    if word[0] in "天日d":
        return value / DAYS_PER_YEAR
    return value + 0.5 if word == "岁半" else value


def _metres(value: float, after: str) -> float | None:
    if re.match(r" ?(?:feet|ft|foot)", after):
        return value * FEET
    if re.match(r" ?(?:楼|层|storeys?|stories|story|floors?)", after):
        return value * STOREY
    return value


def _hours(value: float, after: str) -> float | None:
    unit = DURATION.match(after)
    if not unit:
        return None
    word = unit[2]
    value += 0.5 if unit[1] and "半" in unit[1] else 0.0  # 一个半小时
    factor = 1 / 60 if word[0] in "分m" else 24 if word[0] in "天d" else 168 if word[0] in "周星礼w" else 1
    return value * factor


_UNITS_OF: dict[str | None, Callable[[float, str], float | None]] = {
    None: lambda value, after: value,
    "celsius": _celsius,
    "glucose": _glucose,
    "years": _years,
    "metres": _metres,
    "hours": _hours,
    "months_of_pregnancy": lambda value, after: value * WEEKS_PER_MONTH,
    "grams_per_litre": lambda value, after: value * 10 if value < 25 else value,  # g/dL is below 25
    "platelets": lambda value, after: value / 1000 if value > 1500 else value,
    "thousands": lambda value, after: value / 1000 if value > 30 else value,
}


@cache
def measure_names() -> frozenset[str]:
    """Return the numbers that rules can ask for."""
    return frozenset(measure.name for measure in _measures())


class _Beside(NamedTuple):
    """Measures by whether they have a label, and what may stand before and after any number that is one of them."""

    labelled: tuple[_Measure, ...]
    unlabelled: tuple[_Measure, ...]
    any_before: re.Pattern[str]
    any_after: re.Pattern[str]


@cache
def _beside_numbers() -> _Beside:
    labelled = tuple(one for one in _measures() if one.before)
    unlabelled = tuple(one for one in _measures() if not one.before)
    before = "|".join({f"(?:{one.before.pattern})" for one in labelled if one.before})
    after = "|".join({f"(?:{one.after.pattern})" for one in unlabelled if one.after})
    return _Beside(labelled, unlabelled, re.compile(before), re.compile(after))


def measure_rows() -> list[dict[str, Any]]:
    """Return how each number is known, as `measures.yaml` has it; `before` ends where the number begins."""
    read = package_yaml("safety/rules/measures.yaml")
    filled = ({**row, "before": _label(row.get("before", ""), read)} for row in read["measures"])
    return list(filled)


def _label(before: str, read: Mapping[str, str]) -> str:
    label = before.replace("{is}", read["is"]).replace("{near}", read["near"])
    return f"(?:{label})$" if label else ""


@cache
def _measures() -> tuple[_Measure, ...]:
    made = []
    for row in measure_rows():
        before = re.compile(row["before"]) if row["before"] else None
        after = re.compile(row["after"]) if "after" in row else None
        least, most = row["range"]
        made.append(_Measure(row["name"], before, after, least, most, _UNITS_OF[row.get("unit")]))
    return tuple(made)


def find_measures(text: str) -> dict[str, list[Mention]]:
    """Return the numbers of a text of `normalize` by what they measure, in order, each with its value."""
    found: dict[str, list[Mention]] = {}
    numbers = _numbers(text)
    del numbers[REPEATS:-REPEATS]
    for number in numbers:
        begin, end = number.span()
        before, after = text[max(0, begin - BEFORE) : begin], text[end : end + AFTER]
        if not (before or after) or (begin and text[begin - 1] == "." and number[0][0].isdigit()):
            continue
        measures = _possible(number[0], before, after)
        value = read_number(number[0]) if measures else 0.0
        for measure in measures:
            if not measure.least <= value <= measure.most:
                continue
            if measure.after and not measure.after.match(after):
                continue
            if measure.before and not measure.before.search(before):
                continue
            converted = measure.convert(value, after)
            if converted is not None:
                mentions = found.setdefault(measure.name, [])
                if not mentions or mentions[-1].start != begin:
                    mentions.append(Mention(begin, end, ((begin, end),), converted))
    return found


def _numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text, in order: the first and the last `REPEATS` at least."""
    runs = [run.span() for run in FIGURES.finditer(text)]
    del runs[REPEATS:-REPEATS]  # each has a number
    words = [word.start() for word in NUMBER_WORD.finditer(text)]
    numbers = [number for begin, end in runs for number in NUMBER.finditer(text, begin, end)]
    at = 0
    for word in words:
        if word >= at and (number := NUMBER.match(text, word)):
            numbers.append(number)
            at = number.end()
    if words:
        numbers.sort(key=re.Match.start)
    return numbers


def _possible(number: str, before: str, after: str) -> Sequence[_Measure]:
    """The measures that a number between these texts may be: most numbers of a long text are none."""
    beside = _beside_numbers()
    word = len(number) == 1 and not number.isascii()  # 一 is often no number: only a unit makes it one
    if word and after[:1] not in _UNIT_STARTS:
        return ()
    by_unit = beside.any_after.match(after)
    if word and not by_unit:
        return ()
    if beside.any_before.search(before):
        return _measures() if by_unit else beside.labelled
    return beside.unlabelled if by_unit else ()
