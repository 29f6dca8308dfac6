"""The rules of triage as JSON, for the page that runs without a server (`web/offline/src/safety`).

    json.dumps(triage_data(load_red_flags()))

It is the compiled form of what Python uses: the words of the lexicon, which concepts each is a mention of, the terms of
several parts, the rules, how numbers are read, and the words and telephone numbers of the notices. A test holds both
sides to the same verdicts. The classifier beside the rules is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from carellama.export.web.javascript import javascript_pattern
from carellama.package_data import package_yaml
from carellama.rules import SENTENCE_END, LexiconTables, normalization
from carellama.safety.notices import DEFAULT_COUNTRY, countries
from carellama.safety.rules.context import NEW_CLAUSE
from carellama.safety.rules.measures import AGE_UNIT, DURATION, FIGURES, NUMBER, NUMBER_WORD, measure_rows
from carellama.safety.rules.rule_set import Entry
from carellama.safety.triage.rules import RedFlag, RedFlags
from carellama.safety.triage.triage import PATTERNS

NOTICES = ("disclaimer", "emergency", "urgent", "ambulance", "crisis", "poison")
_LINES = ("ambulance", "crisis", "poison")  # the numbers of a country that notices name
IGNORE_CASE = "(?i)"


def triage_data(rules: RedFlags) -> dict[str, Any]:
    """Return all that the page needs to find the signs of an emergency in what a person writes."""
    notices = package_yaml("safety/notices.yaml")
    return {
        "letters": normalization(),
        "lexicon": _lexicon(rules.lexicon.tables()),
        "rules": [_rule(rule) for rule in rules.rules],
        "measures": [_measure(row) for row in measure_rows()],
        "patterns": _patterns(),
        "notices": {name: notices[name] for name in NOTICES},
        "countries": {code: _numbers(numbers) for code, numbers in countries().items()},
        "usual_country": dict(DEFAULT_COUNTRY),
    }


def _patterns() -> dict[str, str]:
    """The patterns that Python and the page share; `affirms` is matched whatever the case."""
    affirms = PATTERNS.source("affirms")
    assert affirms.startswith(IGNORE_CASE)
    shared: dict[str, re.Pattern[str]] = {
        "sentence_end": SENTENCE_END,
        "new_clause": NEW_CLAUSE,
        "number": NUMBER,
        "figures": FIGURES,
        "number_word": NUMBER_WORD,
        "age_unit": AGE_UNIT,
        "duration": DURATION,
    }
    made = {name: javascript_pattern(one.pattern) for name, one in shared.items()}
    return made | {"affirms": javascript_pattern(affirms.removeprefix(IGNORE_CASE))}


def _lexicon(tables: LexiconTables) -> dict[str, Any]:
    if wide := [word for word in tables.words if any(ord(letter) > 0xFFFF for letter in word)]:
        raise ValueError(f"the page cannot look for words of characters above U+FFFF: {wide}")
    flags = zip(tables.latin_starts, tables.latin_ends, tables.negates, strict=True)
    return {
        "words": "\n".join(tables.words),
        "flags": "".join(str(start + 2 * end + 4 * negates) for start, end, negates in flags),
        "units": _runs(tables.units),
        "names": tables.names,
        "reached": [sorted(one) for one in tables.reached],
        "terms": [[one.unit, one.parts, int(one.ordered), one.level] for one in tables.terms],
        "slots": tables.slots,
    }


def _runs(numbers: Any) -> list[list[int]]:
    """Numbers as runs of consecutive ones: [first, count]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


def _rule(rule: RedFlag) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": rule.id,
        "level": rule.level,
        "system": rule.system,
        "do": dict(rule.do),
        "find": [_entry(one) for one in rule.find],
        "within": rule.within,
        "unless_even_if": sorted(rule.unless_even_if),
    }
    if rule.who:
        made["who"] = [_entry(one) for one in rule.who]
    if rule.unless:
        made["unless"] = _entry(rule.unless)
    if rule.even_if:
        made["even_if"] = sorted(rule.even_if)
    return made


def _entry(entry: Entry) -> list[Any]:
    return [[one.concept, one.comparison, one.bound] if one.comparison else one.concept for one in entry]


def _measure(row: Mapping[str, Any]) -> dict[str, Any]:
    made = {"name": row["name"], "range": row["range"], "unit": row.get("unit")}
    for side in ("before", "after"):
        if row.get(side):
            made[side] = javascript_pattern(row[side])
    return made


def _numbers(numbers: Mapping[str, str]) -> dict[str, str]:
    return {line: numbers[line] for line in _LINES if line in numbers}
