"""Who is ill: a relative that a message names is the patient, or only came along, saw something, or has it as well.

    is_bystander("i've had a cold for three days. my son is with me", 33, 39)     # True: he came along
    is_bystander("my husband has chest pain", 0, 10)                              # False: it is he who is ill

What stands around the relative decides: with me, drove me, says I snore, 陪我来, 说我打呼噜. An illness that runs in a
family is a relative's only where the person has told of a trouble of their own. Linear in the sentence.
"""

from __future__ import annotations

import re

from carellama.package_data import Patterns

PATTERNS = Patterns("consultation/persons.yaml")

REACH = 60  # characters of the sentence behind a relative that are looked at
_SENTENCE = re.compile(r"[.!?;。！？；\n]")
_CLAUSE = re.compile(r"[,，.!?;:。！？；：\n]")


def is_bystander(plain: str, begin: int, end: int) -> bool:
    """Return whether the relative at these offsets of a text of `normalize` is not the one who is ill."""
    behind = plain[end : end + REACH]
    if stop := _SENTENCE.search(behind):
        behind = behind[: stop.start()]
    before = _CLAUSE.split(plain[max(0, begin - REACH) : begin])[-1]
    if PATTERNS["before"].search(before) or PATTERNS["does"].search(behind) or PATTERNS["does_zh"].search(behind):
        return True
    illness = PATTERNS["has_illness"].search(behind)
    return illness is not None and has_own_trouble(f"{plain[:begin]} {plain[end + illness.end() :]}")


def has_own_trouble(plain: str) -> bool:
    """Return whether somebody speaks of themselves: not only of being worried, or what to do."""
    return bool(PATTERNS["speaker"].search(PATTERNS["no_trouble"].sub(" ", plain)))
