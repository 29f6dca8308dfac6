"""One spelling for the many ways in which people write the same number or word, character for character.

    normalize("手机：１３８ 零零一三 八零零零")   # "手机:138 0013 8000", the same length: offsets stay true

Every character is replaced by exactly one, so what is found in the normalized text stands at the same place in the
original. It does not decide what is an identifier.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

CHINESE_DIGITS = dict(zip("零〇○一二三四五六七八九壹贰叁肆伍陆柒捌玖幺", "000123456789123456789" + "1", strict=True))
_DASHES = "‐‑‒–—―−﹣－ー"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t"
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad"  # invisible: pasted from web pages, or to hide a number
_DOTS = "·•・∙⋅‧｡"

# Eight or more digits, half of them or more in Chinese or as look-alike letters, with single marks between them.
_ANY_DIGIT = "0-9" + "".join(CHINESE_DIGITS)
_CHINESE_RUN = re.compile(rf"(?<![{_ANY_DIGIT}])[{_ANY_DIGIT}](?:[ .\-,]{{0,3}}[{_ANY_DIGIT}]){{5,}}(?![{_ANY_DIGIT}])")
_CHINESE_DIGIT = re.compile(f"[{''.join(CHINESE_DIGITS)}]")
_LETTER_RUN = re.compile(r"(?<![A-Za-z0-9])[0-9OolI](?:[ .\-]?[0-9OolI]){6,}(?![A-Za-z0-9])")
_LETTER_DIGITS = str.maketrans("OolI", "0011")
_TO_DIGITS = str.maketrans(CHINESE_DIGITS)


@cache
def _table() -> dict[int, str]:
    table = {0xFF01 + code: chr(0x21 + code) for code in range(94)}  # full-width forms of ASCII
    for code in range(0x80, sys.maxunicode + 1):
        value = unicodedata.decimal(chr(code), None)  # digits of other scripts and of mathematics
        if value is not None:
            table[code] = str(value)
    for characters, plain in ((_DASHES, "-"), (_SPACES + _ZERO_WIDTH, " "), (_DOTS, "·"), ("’‘`´", "'"), ("“”", '"')):
        table.update({ord(character): plain for character in characters})
    table.update({ord("【"): "[", ord("】"): "]", ord("﹕"): ":", ord("∶"): ":", ord("﹫"): "@", ord("№"): "#"})
    return table


def normalize(text: str) -> str:
    """Return the text in plain digits, letters and marks, of the same length."""
    if text.isascii():
        plain = text.replace("\t", " ")
    else:
        plain = text.translate(_table())
        if _CHINESE_DIGIT.search(plain):
            plain = _CHINESE_RUN.sub(_chinese_digits, plain)
    if "O" in plain or "l" in plain or "I" in plain or "o" in plain:
        plain = _LETTER_RUN.sub(_letter_digits, plain)
    return plain


def _chinese_digits(match: re.Match[str]) -> str:
    run = match[0]
    chinese = len(_CHINESE_DIGIT.findall(run))
    digits = chinese + sum("0" <= character <= "9" for character in run)
    if chinese < 2 or digits < 7:  # 张三 13800138000: not the name of 张3
        return run
    skip = 1 if run[1] == " " and run[2:3] not in CHINESE_DIGITS and run[0] in CHINESE_DIGITS else 0
    return run[:skip] + run[skip:].translate(_TO_DIGITS)


def _letter_digits(match: re.Match[str]) -> str:
    run = match[0]
    digits = sum("0" <= character <= "9" for character in run)
    letters = sum(character in "OolI" for character in run)
    return run.translate(_LETTER_DIGITS) if letters and digits >= 4 else run


def canonical_form(text: str) -> str:
    """The letters and digits of a value alone, in one case: equal for all spellings of the same value."""
    plain = normalize(text).translate(_TO_DIGITS) if any(c in CHINESE_DIGITS for c in text) else normalize(text)
    return "".join(character for character in plain.lower() if character.isalnum())
