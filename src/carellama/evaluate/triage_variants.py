"""The same case told in another way: what changes nothing about how urgent it is must not change the verdict.

    for name, messages in variants(case): ...       # ("plays_down", (...)), ("other_sex", (...)), ...

Each variant is made by a fixed rule from the text; where a rule finds nothing to change there is no such variant.
Invariance tests of this form: Ribeiro et al. 2020 (CheckList), section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache

from carellama.evaluate.triage_cases import Case
from carellama.package_data import Patterns, package_yaml
from carellama.records import JSONObject, Message
from carellama.safety.rules.measures import ONES, TENS

PATTERNS = Patterns("evaluate/triage_variant_patterns.yaml")


def _data() -> JSONObject:
    return package_yaml("evaluate/triage_variants.yaml")


@cache
def _sexes(tongue: str) -> dict[str, str]:
    """Words for a man and a woman, each to the other."""
    one_way = dict(pair.split("/") for pair in _data()["other_sex"][tongue])
    return one_way | {other: one for one, other in one_way.items()}


_AGE = {
    "en": re.compile(r"\b(\d{1,2})(?=[ -]?(?:year|yr|month|week|yo\b))"),
    "zh": re.compile(r"(?<![\d.])(\d{1,2})(?=岁|个月|周岁)"),
}


def _word(number: int, tongue: str) -> str:
    if tongue == "zh":
        digits = "零一二三四五六七八九十"
        if number <= 10:
            return digits[number]
        tens, ones = divmod(number, 10)
        return f"{digits[tens] if tens > 1 else ''}十{digits[ones] if ones else ''}"
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return [*TENS][tens - 2] + (f"-{ONES[ones]}" if ones else "")


def _swapped(text: str, words: Mapping[str, str], tongue: str) -> str:
    """The text with each word exchanged, all at once."""
    ordered = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    pattern = rf"\b(?:{ordered})\b" if tongue == "en" else ordered
    return re.sub(pattern, lambda found: words.get(found[0].lower(), found[0]), text, flags=re.IGNORECASE)


def _typo(text: str, tongue: str) -> str:
    """Two letters of each fifth longer word exchanged, or characters that sound alike."""
    if tongue == "zh":
        return _swapped(text, _data()["same_sound"], tongue)
    count = 0

    def swap(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        word = found[0]
        return word[:2] + word[3] + word[2] + word[4:] if count % 5 == 0 else word

    return re.sub(r"[a-z]{5,}", swap, text)


def _other_sex(text: str, tongue: str) -> str:
    return text if PATTERNS["sex_bound"].search(text) else _swapped(text, _sexes(tongue), tongue)


Change = Callable[[str, str], str]  # the text and its language
_CHANGES: dict[str, Change] = {
    "plays_down": lambda text, tongue: text + _data()["texts"]["plays_down"][tongue],
    "other_sex": _other_sex,
    "age_in_words": lambda text, tongue: _AGE[tongue].sub(lambda found: _word(int(found[1]), tongue), text),
    "typo": _typo,
    "dialect": lambda text, tongue: _swapped(text, _data()["dialect"][tongue], tongue),
    "english_words": lambda text, tongue: _swapped(text, _data()["english_words"], "zh") if tongue == "zh" else text,
    "preamble": lambda text, tongue: _data()["texts"]["preamble"][tongue] + text,
    "third_sentence": lambda text, tongue: _data()["texts"]["third_sentence"][tongue] + text,
}
VARIANTS = (*_CHANGES, "third_turn", "method_named")


def variants(case: Case) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Yield the variants of an emergency by name; nothing for other cases."""
    tongue = "zh" if case.language == "zh" else "en"
    if not case.is_emergency:
        return
    said = [at for at, message in enumerate(case.messages) if message.role == "user"]
    for name, change in _CHANGES.items():
        places = {"preamble": said[:1], "third_sentence": said[:1], "plays_down": said[-1:]}.get(name, said)
        changed = tuple(
            replace(one, content=change(one.content, tongue)) if at in places else one
            for at, one in enumerate(case.messages)
        )
        if changed != case.messages:
            yield name, changed
    first, answer, second = _data()["small_talk"][tongue]
    talk = (Message("user", first), Message("assistant", answer), Message("user", second), Message("assistant", answer))
    yield "third_turn", (*talk, *case.messages)
    if case.system == "mind" and PATTERNS["suicide"].search(_patient_text(case)):
        last = replace(case.messages[-1], content=case.messages[-1].content + _data()["texts"]["method_named"][tongue])
        yield "method_named", (*case.messages[:-1], last)


def _patient_text(case: Case) -> str:
    return " ".join(one.content.lower() for one in case.messages if one.role == "user")
