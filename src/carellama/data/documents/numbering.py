"""Numbers as lists show them: (1), ①, 三、, iv., c.; the formats of Word, PowerPoint and HTML.

FORMATS["chineseCounting"](12)      # "十二"
html_label("a", 3)                  # "c."
"""

from __future__ import annotations

from collections.abc import Callable

DIGITS = "零一二三四五六七八九"
UNITS = ("", "十", "百", "千")
CAPITAL = str.maketrans("零一二三四五六七八九十百千", "零壹贰叁肆伍陆柒捌玖拾佰仟")
CAPITAL_TRADITIONAL = str.maketrans("零一二三四五六七八九十百千", "零壹貳參肆伍陸柒捌玖拾佰仟")
ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def chinese(number: int, *, formal: bool = False) -> str:
    """Return a number from 0 to 9999 as Chinese counts: 12 is 十二 (formally 一十二), 105 is 一百零五."""
    if not 0 < number < 10_000:
        return DIGITS[0] if number == 0 else str(number)
    parts: list[str] = []
    for power in range(len(str(number)) - 1, -1, -1):
        digit = number // 10**power % 10
        if digit:
            parts.append(DIGITS[digit] + UNITS[power])
        elif parts and parts[-1] != DIGITS[0]:
            parts.append(DIGITS[0])
    text = "".join(parts).rstrip(DIGITS[0])
    return text[1:] if 10 <= number < 20 and not formal else text


def roman(number: int) -> str:
    """Return a positive number in Roman numerals."""
    text = ""
    for value, letters in ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def letters(number: int) -> str:
    """Return a positive number as letters, as Word counts: A to Z, then AA, BB, CC."""
    return chr(ord("A") + (number - 1) % 26) * ((number - 1) // 26 + 1)


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def characters(first: str, count: int) -> Callable[[int], str]:
    """Return a function that writes 1 to `count` as consecutive characters, and greater numbers in digits."""
    return lambda number: chr(ord(first) + number - 1) if 1 <= number <= count else str(number)


def cycle(signs: str) -> Callable[[int], str]:
    """Return a function that writes numbers as these signs, over and over."""
    return lambda number: signs[(number - 1) % len(signs)]


def circled(number: int) -> str:
    """Return ① to ㊿; greater numbers in digits."""
    for first, start, count in (("①", 1, 20), ("㉑", 21, 15), ("㊱", 36, 15)):
        if start <= number < start + count:
            return chr(ord(first) + number - start)
    return str(number)


def by_digit(number: int) -> str:
    """Return the digits in Chinese: 105 is 一〇五."""
    return "".join(DIGITS[int(digit)] for digit in str(number))


FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
FORMATS: dict[str, Callable[[int], str]] = {  # ST_NumberFormat, ECMA-376 part 1, 17.18.59
    "decimal": str,
    "decimalHalfWidth": str,
    "decimalZero": lambda number: f"{number:02d}",
    **dict.fromkeys(("decimalFullWidth", "decimalFullWidth2"), lambda number: str(number).translate(FULL_WIDTH)),
    "numberInDash": lambda number: f"- {number} -",
    "decimalEnclosedCircle": circled,
    "decimalEnclosedCircleChinese": circled,
    "decimalEnclosedFullstop": characters("⒈", 20),
    "decimalEnclosedParen": characters("⑴", 20),
    "upperRoman": roman,
    "lowerRoman": lambda number: roman(number).lower(),
    "upperLetter": letters,
    "lowerLetter": lambda number: letters(number).lower(),
    "ordinal": ordinal,
    **dict.fromkeys(("chineseCounting", "chineseCountingThousand", "japaneseCounting"), chinese),
    **dict.fromkeys(("taiwaneseCounting", "taiwaneseCountingThousand"), chinese),
    **dict.fromkeys(("koreanDigital2", "ideographDigital"), by_digit),
    **dict.fromkeys(("japaneseDigitalTenThousand", "taiwaneseDigital"), by_digit),
    "chineseLegalSimplified": lambda number: chinese(number, formal=True).translate(CAPITAL),
    "ideographLegalTraditional": lambda number: chinese(number, formal=True).translate(CAPITAL_TRADITIONAL),
    "ideographEnclosedCircle": characters("㊀", 10),
    "ideographTraditional": cycle("甲乙丙丁戊己庚辛壬癸"),
    "ideographZodiac": cycle("子丑寅卯辰巳午未申酉戌亥"),
    "none": lambda number: "",
}


HTML_FORMATS = {  # the type of `ol`, or its list-style-type (CSS Counter Styles 3): format above
    "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman", "1": "decimal",
    "lower-alpha": "lowerLetter", "lower-latin": "lowerLetter", "upper-alpha": "upperLetter",
    "upper-latin": "upperLetter", "lower-roman": "lowerRoman", "upper-roman": "upperRoman",
    "decimal-leading-zero": "decimalZero", "cjk-decimal": "ideographDigital",
    "trad-chinese-informal": "chineseCounting",
    "simp-chinese-informal": "chineseCounting", "cjk-ideographic": "chineseCounting", "none": "none",
    "cjk-heavenly-stem": "ideographTraditional", "cjk-earthly-branch": "ideographZodiac",
}  # fmt: skip


def html_label(style: str, number: int) -> str:
    """Return the number of an item of an HTML list with its mark, as a browser shows it: "c.", "三、"."""
    name = HTML_FORMATS.get(style, "decimal")
    if name == "none":
        return ""
    text = FORMATS[name](number) if number > 0 else str(number)
    return text + ("、" if name.startswith(("chinese", "ideograph")) else ".")
