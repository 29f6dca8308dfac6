"""Evidence that Chinese characters which look like a name are a medicine or a finding: 服用易坦静, 赫赛汀、来曲唑.

    evidence("服用易坦静口服液", 2, 5)   # -18.0: a verb of taking before it, a form of medicine behind it

Positive evidence (姓名, 医生, 男) is in `names_zh_prose`. Values are differences of log probabilities.
"""

from __future__ import annotations

import re
from functools import lru_cache

from carellama.privacy.rules import fragment_pattern
from carellama.privacy.word_lists import medical_terms

_NEAR = 12  # characters


def _pattern(name: str) -> re.Pattern[str]:
    return fragment_pattern("medicines", name, re.IGNORECASE if name == "FORM" else 0)


def aliases_pattern() -> re.Pattern[str]:
    """Return the pattern of words for other names of a medicine and what follows: 别名：苯酸咪唑；"""
    return _pattern("ALIASES")


@lru_cache(maxsize=64)
def _terms(plain: str) -> tuple[tuple[int, int], ...]:
    return tuple(medical_terms().spans(plain))


def evidence(plain: str, start: int, end: int, *, named: bool = False) -> float:
    """Return by how much what stands in and around these characters speaks for a thing, a negative number or 0.

    `named`: something says that they are a name (患者丁香，女), so that the word itself does not count.
    """
    worth = _word(plain, start, end)
    if named and worth > -12.0:
        worth = 0.0
    before = plain[max(0, start - 14) : start]
    if _pattern("TAKE").search(before) and not _pattern("NO_TAKE").search(before):
        worth -= 8.0
    if _pattern("FORM").match(plain, end):
        worth -= 10.0
    if aliases_pattern().search(plain, max(0, start - 160), start):
        worth -= 8.0
    if _pattern("INTRODUCED").search(before) and _pattern("MACHINE").match(plain, end):
        worth -= 14.0
    return worth - _company(plain, start, end)


def remedies(plain: str, start: int, end: int) -> float:
    """Return by how much medicines that stand near, or what is said of them, speak against a name no word tells."""
    near = sum(
        left < end + _NEAR and right > start - _NEAR for left, right in _terms(plain) if right <= start or left >= end
    )
    worth = 3.0 * min(near + len(_pattern("FORM_NEAR").findall(plain, max(0, start - _NEAR), end + _NEAR)), 3)
    worth += 4.0 if _pattern("SUCH_AS").search(plain, max(0, start - 8), start) else 0.0
    return worth + (4.0 if _pattern("DOES").match(plain, end) else 0.0)


def _word(plain: str, start: int, end: int) -> float:
    """Whether a medical word is the same characters (丁香), goes beyond them (利可|君), or overlaps (双[黄连]翘)."""
    worth = 0.0
    for left, right in _terms(plain):
        if left >= end:
            break
        if right <= start or (start <= left and right <= end and (left, right) != (start, end)):
            continue
        if (left, right) == (start, end):
            worth = min(worth, -7.0)
        elif left <= start and end <= right:
            worth = min(worth, -30.0)
        else:
            worth = min(worth, -12.0 if left < start else -3.0)
    return worth


def _company(plain: str, start: int, end: int) -> float:
    """How much a list speaks for a medicine: the item before or behind it is one."""
    before, worth = plain[max(0, start - 12) : start], 0.0
    if _pattern("FORM_BEFORE").search(before):
        worth = 6.0
    joint, joined = _pattern("JOINT").search(before), _pattern("JOINED").match(plain, end)
    if joint or joined:
        left = start - len(joint[0]) if joint else -1
        right = joined.end() if joined else -1
        if any(span[1] == left or span[0] == right for span in _terms(plain) if span[1] - span[0] > 1):
            worth = max(worth, 6.0)
    return worth


def within_word(plain: str, start: int, end: int) -> bool:
    """Whether these characters are part of a longer medical word: 利可 in 利可君."""
    return _word(plain, start, end) <= -12.0
