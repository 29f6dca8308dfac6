"""What a person is told before the model speaks: the disclaimer, and in an emergency one action and whom to call.

    disclaimer("zh")
    emergency_notice(triage(messages).findings, country="CN", language="zh")

Texts of this project, `notices.yaml`; the numbers are data with their source, `countries.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from carellama.engine.base import Notice
from carellama.errors import lookup
from carellama.package_data import package_yaml
from carellama.records import Message
from carellama.safety.triage.triage import Finding
from carellama.text import HAN_CHARACTER

Language = Literal["en", "zh"]
SHOWN_LEVELS = ("emergency", "urgent")  # of triage, whose notice a person is shown; others are fields only
SHOWN = (*SHOWN_LEVELS, "refuse", "caution")  # levels of all notices that a person is shown
DEFAULT_COUNTRY: dict[Language, str] = {"en": "US", "zh": "CN"}
_MARK = re.compile(r" \[Note: [^\[\]]*\]|〔提示：[^〔〕]*〕")  # as `mark_text` writes them
# Which line helps besides the ambulance, by the system of the rule.
_LINES = {"mind": "crisis", "poisoning": "poison"}


def disclaimer(language: Language) -> str:
    """Return what goes with every conversation."""
    return _text("disclaimer", language)


def _text(name: str, language: Language) -> str:
    text: str = package_yaml("safety/notices.yaml")[name][language]
    return text


def countries() -> Mapping[str, Mapping[str, str]]:
    """Return the numbers to call by country."""
    return package_yaml("safety/countries.yaml")


def known_country(country: str) -> str:
    """Return the code of a country whose numbers are known. Raises `UserError` for another one."""
    code = country.strip().upper()
    code = "GB" if code == "UK" else code  # as most people write it
    lookup(countries(), code, "country")
    return code


def emergency_notice(findings: Sequence[Finding], language: Language, country: str | None = None) -> str:
    """Return one paragraph: how urgent the first finding is, its action, and the numbers of the country.

    The crisis line and the poison centre are named where any finding of that level is theirs. `country` None: that
    of the language (China, United States). Raises `UserError` for a country without numbers.
    """
    finding = findings[0]
    numbers = lookup(countries(), country or DEFAULT_COUNTRY[language], "country")
    rule = finding.rule
    parts = [_text(finding.level, language)]
    parts.append(_text("overruled", language) if finding.overruled else rule.do[language])
    if finding.level in SHOWN_LEVELS:
        systems = {one.rule.system for one in findings if one.level == finding.level}
        wanted = [line for system, line in _LINES.items() if system in systems]
        wanted = ["ambulance", *wanted] if finding.level == "emergency" else wanted
        parts += [_text(line, language).format(numbers[line]) for line in wanted if line in numbers]
    return ("" if language == "zh" else " ").join(parts)


def crisis_line(language: Language, country: str | None = None) -> str:
    """Return the sentence with the crisis line of the country; "" where the table has none.

    `country` None: that of the language. Raises `UserError` for a country without numbers.
    """
    numbers = lookup(countries(), country or DEFAULT_COUNTRY[language], "country")
    return _text("crisis", language).format(numbers["crisis"]) if "crisis" in numbers else ""


def language_of(text: str) -> Language:
    """Return the language in which something is said about a text."""
    return "zh" if HAN_CHARACTER.search(text) else "en"


def mark_text(notice: Notice) -> str:
    """Return what stands behind the sentence that a notice is about."""
    if notice.kind == "contradiction":
        return f"\n\n{notice.text}"
    return f"〔提示：{notice.text}〕" if language_of(notice.text) == "zh" else f" [Note: {notice.text}]"


def without_marks(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation whose answers have no marks, for the model to read: it would write such notes itself."""
    return [replace(one, content=_MARK.sub("", one.content)) if one.role == "assistant" else one for one in messages]


def contradiction_notice(language: Language, *, stopped: bool) -> str:
    """Return what is said of an answer that makes light of an emergency: where it is stopped, or beside it."""
    return _text("stopped" if stopped else "warned", language)
