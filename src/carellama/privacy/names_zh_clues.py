"""What stands before or behind a Chinese name, and by how much it makes one likelier.

    clue_before("昨天感谢")   # Clue(..., worth=3.0, telling=True): a word for a person, and not only a mark

Worths are differences of log probabilities. A clue is telling when it is a word that persons are spoken of with (患者,
转告, 女士); a mark, or the end of a word that may be a thing's (北方, 使用者), is none.
"""

from __future__ import annotations

import re

from carellama.privacy.rules import Clue, fragment_pattern, load_clues

_NO_CLUE = Clue(re.compile(""), 0.0)
_WINDOW = 8  # characters


def clue_before(before: str) -> Clue:
    """Return the first clue that the characters before a name end with."""
    return next((clue for clue in load_clues("prose_zh", "before") if clue.pattern.search(before)), _NO_CLUE)


def clue_behind(behind: str) -> Clue:
    """Return the first clue that the characters behind a name begin with."""
    return next((clue for clue in load_clues("prose_zh", "behind") if clue.pattern.match(behind)), _NO_CLUE)


def clues(plain: str, start: int, end: int) -> tuple[Clue, Clue]:
    """Return what stands before and behind these characters.

    Who says what follows (医生：高峰就是……) is no clue to a name, unless nothing else is said (患：查良。).
    """
    behind = plain[end : end + _WINDOW]
    left, right = clue_before(plain[max(0, start - _WINDOW) : start]), clue_behind(behind)
    if fragment_pattern("prose_zh", "SPEAKER_ZH").search(plain, max(0, start - _WINDOW), start) and not right.telling:
        uttered = bool(fragment_pattern("prose_zh", "SAID_ALONE").match(behind))
        left = Clue(left.pattern, left.worth if uttered else 2.5, uttered)
    if fragment_pattern("prose_zh", "EXAMPLE").fullmatch(plain, start, end):
        left = Clue(left.pattern, left.worth, telling=True)
    return left, right
