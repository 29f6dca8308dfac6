"""Dates of birth in all their spellings, other dates when asked for, and what stands beside a name, in folded text.

    list(births(fold("出生日期：一九八五年三月二日")))   # [("BIRTH_DATE", 5, 14, 0.9)]

A year alone stays (it is no identifier, and the age needs it). `parts` reads the numbers out of a date.
"""

from __future__ import annotations

from collections.abc import Iterator

from carellama.privacy.normalize import CHINESE_DIGITS, pattern

Found = tuple[str, int, int, float]

_ZH = "".join(CHINESE_DIGITS)
_Y4 = (
    rf"(?:(?:民国|光绪|宣统)[{_ZH}十元]{{1,3}}(?=年)|(?:1[89]|20)\d\d|[一二][九八〇零○][{_ZH}]{{2}}|"
    rf"(?:[12] ?[890] ?\d ?\d))"
)
_Y = rf"(?:{_Y4}|\d\d|[{_ZH}]{{2}})"
_M = r"(?:1[0-2]|0?[1-9]|十[一二]?|[零〇]?[一二三四五六七八九]|正|腊|冬)"
_D = (
    r"(?:3[01]|[12]\d|0?[1-9]|三十[一]?|二?十[一二三四五六七八九]?|廿[一二三四五六七八九]?|"
    r"[二三]?[十]?[一二三四五六七八九]|初[一二三四五六七八九十])"
)
_S = r"\s{0,2}"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|"
    r"Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_ORD = (
    r"(?:(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?|(?i:(?:twenty|thirty)[ -](?:first|second|third|"
    r"fourth|fifth|sixth|seventh|"
    r"eighth|ninth)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|"
    r"twelfth|thirteenth|fourteenth|"
    r"fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth))"
)
_FULL = (
    rf"(?:(?:公历|农历|阳历|阴历|新历|旧历)?{_Y}{_S}年{_S}(?:农历|"
    rf"阴历)?{_M}{_S}月{_S}(?:{_D}{_S}[日号]?)?"  # 1985年3月2日
    rf"|{_Y4}{_S}[-./_·,]{_S}{_M}{_S}(?:[-./_·,]{_S}{_D})(?!\d)"  # 1985.3.2
    rf"|{_ORD}(?:{_S}(?:of )?|[-./ ])(?i:{_MONTH})[,\-./ ]{{1,2}}'?(?:{_Y4}|\d\d)(?!\d)"  # 2 March 1985
    rf"|(?i:{_MONTH})(?:{_S}|[-./]){_ORD}[,\-./ ]{{1,3}}'?(?:{_Y4}|\d\d)(?!\d)"  # March 2, 1985
    rf"|(?:3[01]|[12]\d|0?[1-9]){_S}[-./]{_S}(?:3[01]|[12]\d|0?[1-9]){_S}[-./]{_S}'?(?:{_Y4}|\d\d)(?!\d)"  # 2/3/85
    rf"|{_Y}{_S}[-./]{_S}{_M}{_S}[-./]{_S}{_D}(?!\d)"  # 85-03-02
)
_DATE = (
    _FULL + rf"|(?i:{_MONTH}) ?,? ?{_Y4}|(?:1[89]|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)|"
    rf"{_Y4}{_S}[-./]{_S}{_M}(?![\d.])|(?:19|20)\d\d {{1,2}}\d{{1,2}} {{1,2}}\d{{1,2}}(?!\d)|"
    rf"{_ORD}(?:{_S}(?:of )?|[-./ ])(?i:{_MONTH})|(?i:{_MONTH}) {_ORD}|{_M}月{_D}[日号]))"
)
_BIRTH_ZH = (
    r"(?:出\s?生\s?(?:年\s?月\s?日?|日\s?期|时\s?间|年份|日|在|于|为|是)?|生\s?日|诞辰|诞生于?|"
    r"(?<![发产药卫医学先])生\s?于|(?<![发产药卫医学先])生在|出世于?|birth_?date|date_?of_?birth|dob|csrq|"
    r"birthday|birth(?=[\"' ]*[:=|]))"
    r"[\"']?\s{0,3}(?:\([^()\n\d]{0,12}\))?\s?[:=>|]?\s{0,3}(?:是|为|在|于)?(?:公历|农历|阳历|阴历)?\s?[\"']?"
)
_BIRTH_EN = (
    r"\b(?:D\.? ?O\.? ?B\.?|date of birth|birth ?date|birth ?day|day of birth|bday|born|b\.)"
    r"[\"']?\s{0,2}(?:\([^()\n\d]{0,12}\))?\s?(?:[:=|#\-]|is|was|on|in|as|the)?\s{0,2}(?:on|in)?(?: "
    r"the)?(?: (?:Mon|Tues?|Wed(?:nes)?|Thur?s?|Fri|Sat(?:ur)?|Sun)(?:day)?,?)?(?: [A-Z][a-z]+(?: "
    r"[A-Z][a-z]+)?,?(?: on)?)?\s{0,2}[\"']?"
)
_BIRTH = pattern(rf"(?:{_BIRTH_ZH}|(?i:{_BIRTH_EN}))(?P<value>{_DATE}")
_BIRTH_SHORT = pattern(
    rf"(?:{_BIRTH_ZH}|(?i:{_BIRTH_EN}))(?P<value>[0-3]\d [01]\d (?:1[89]|20)\d\d|(?:0\d|"
    rf"1[0-2])(?:[0-2]\d|3[01])(?:1[89]|20)\d\d|"
    r"(?:[0-2]\d|3[01])(?:0\d|1[0-2])(?:1[89]|20)\d\d|(?:0?\d|1[0-2])[-/](?:(?:1[89]|20)\d\d|\d\d))(?![\d/.\-]|"
    r"\s?(?:个?[月岁周天日年]|小时|分钟|[mg]))"
)
_BEFORE = pattern(
    rf"(?<![\d.])(?P<value>{_FULL}))(?:"
    # 1985年3月2日（农历）凌晨于家中出生
    r"\s{0,2}\(?(?:\([^()]{1,6}\))?(?:凌晨|上午|下午|晚上?)?(?:于[^\s,，。]{2,10})?"
    r"(?:出生|娩出|分娩|生(?=[人的,，。;\s)于]|$)|出世|诞生|生日)|"
    # 3/2/1985 is his birthday
    r"[ ,]{0,2}(?i:\(?(?:is|was) (?:his|her|my|their|the patient's) (?:birthday|date of birth|dob|birth ?date)|"
    r"\(?(?:dob|date of birth|birth ?date|d\.o\.b\.?)\b)|"
    # 2024.02.29 03:17 娩出
    r"[ T]{1,2}\d{1,2}[:：]\d\d(?::\d\d)?\s?(?:出生|娩出|分娩|剖出|剖宫产|born|delivered))"
)
_MONTH_ONLY = pattern(rf"(?<![\d.])(?P<value>{_Y4}[-./]{_M})(?![\d.\-/])\s{{0,2}}(?:出生|生(?=[人的,，。;\s)于]|$))")
_ROW = pattern(  # "Nguyen Thi Hoa",F,"1971-08-23": a day behind the sex, or the other way round, in a row of a table
    rf"(?:(?<![A-Za-z])(?:M|F|[Mm]ale|[Ff]emale)|[男女]性?)[\"']?\s{{0,2}}[,，|"
    rf";\t/]\s{{0,2}}[\"']?(?P<value>{_FULL}))(?=[\"'\s,，|;)/]|$)"
)
_CELL = pattern(  # De la Cruz, Jo Ann | 02-29-1960 |: a day in the cell of a table behind a name
    rf"[\"']?\s{{0,2}}[,，|;\t]\s{{0,2}}[\"']?(?P<value>{_FULL}))(?=[\"']?\s{{0,2}}(?:[,，|;\t\n]|$))"
)
_DIALLED = pattern(
    r"[\"']?[\s:：,，]{0,3}(?:\([^()\d\n]{1,16}\))?[\s:：,，@]{0,3}(?P<value>[+(]?\d[\d()]*(?:[ "
    r"\-]{1,2}\(?\d+\)?){0,4})(?![\dA-Za-z/.:]|[ \-]\d)"
)
_YEARS = pattern(rf"(?:1[4-9]|20)\d\d ?- ?(?:1[4-9]|20)\d\d|{_FULL})")
_ANY = pattern(rf"(?<![\d.]){_FULL})")
MONTHS = dict(zip("jan feb mar apr may jun jul aug sep oct nov dec".split(), range(1, 13), strict=True))


def births(plain: str) -> Iterator[Found]:
    """Yield the dates of birth in a folded text: (kind, start, end, score)."""
    for form in (_BIRTH, _BIRTH_SHORT, _BEFORE, _MONTH_ONLY, _ROW):
        for match in form.finditer(plain):
            start = match.start("value")
            yield "BIRTH_DATE", start, start + len(match["value"].rstrip(" ,.-")), 0.9


def beside(plain: str, end: int) -> Iterator[Found]:
    """Yield the day in the cell behind a name, or the phone number behind it: `end` is where the name ends."""
    if match := _CELL.match(plain, end):
        yield "BIRTH_DATE", *match.span("value"), 0.6
    elif (
        (match := _DIALLED.match(plain, end))
        and 7 <= sum(map(str.isdigit, match["value"])) <= 13
        and not _YEARS.fullmatch(match["value"].strip("()"))
    ):
        yield "PHONE", *match.span("value"), 0.5


def dates(plain: str) -> Iterator[Found]:
    """Yield all dates with a year, a month and mostly a day."""
    for match in _ANY.finditer(plain):
        yield "DATE", match.start(), match.start() + len(match[0].rstrip(" ,.-")), 0.5


def number(text: str) -> int:
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
