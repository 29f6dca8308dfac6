"""The Applied Model Card of the Coalition for Health AI (CHAI), schema v0.2, as XML.

    write_chai(folder, facts)        # folder/chai_model_card.xml

The schema (github.com/coalition-for-health-ai/mc-schema) gives the elements and their order; chai.yaml has them with
what is filled in. What a record of a training cannot know (developer, contact, regulator, funding, fairness) stays "to
be filled in by the developer": nothing is made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from carellama.export.cards.facts import CardFacts
from carellama.export.cards.notes import WORDS
from carellama.export.cards.page import clash_lines, spoken_languages
from carellama.export.cards.results import Result
from carellama.export.parity.table import ParityTable
from carellama.package_data import package_yaml

FORM = "export/cards/chai.yaml"
FILE = "chai_model_card.xml"
SAFETY = ("missed", "false_alarms", "let_through", "wrongly_refused", "harmful", "judged_harmful")  # of our own tests
METRICS = ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability")


def write_chai(folder: Path, facts: CardFacts) -> Path:
    """Write the card into a folder; return its file."""
    path = folder / FILE
    path.write_text(chai_card(facts), encoding="utf-8")
    return path


def chai_card(facts: CardFacts) -> str:
    """Return the card as XML."""
    form = package_yaml(FORM)
    root = ElementTree.Element("AppliedModelCard", xmlns=form["namespace"])
    _fill(root, form["elements"], _known(facts), facts, form)
    ElementTree.indent(root, "  ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _fill(
    parent: ElementTree.Element, elements: Mapping[str, Any], known: Mapping[str, str], facts: CardFacts,
    form: Mapping[str, Any],
) -> None:  # fmt: skip
    for name, content in elements.items():
        element = ElementTree.SubElement(parent, name)
        if isinstance(content, dict):
            _fill(element, content, known, facts, form)
        elif name == "Keywords":
            for word in _keywords(facts):
                ElementTree.SubElement(element, "Keyword").text = word
        elif name in METRICS:
            _metric(element, name, facts, form)
        elif name != "Bibliography":
            element.text = known.get(content.strip("{}")) or form["fill"]


def _known(facts: CardFacts) -> dict[str, str]:
    """The texts that follow from records."""
    words = package_yaml(WORDS)["en"]
    reward = facts.kind == "reward"
    spoken = spoken_languages(facts.languages, "en")
    base = facts.base.hub or facts.base.name
    stages = ", ".join(f"{one.stage} ({one.method})" for one in facts.trainings)
    data = _bullets(
        [
            f"{one.name}: licence {one.licence or 'not stated'}, languages {', '.join(one.languages) or 'not stated'}"
            + (f", SHA-1 {one.digest}" if one.digest else "")
            for one in facts.data
        ]
    )
    return {
        "name": facts.title,
        "summary": f"{base}, trained by: {stages or 'no training on record'}. {words['notice']}",
        "uses": _bullets(words["reward_uses"] if reward else [one.format(languages=spoken) for one in words["uses"]]),
        "nots": _bullets(words["nots"]),
        "limits": _bullets([*(words["reward_limits"] if reward else []), *words["limit"]]),
        "outputs": "Scores of answers" if reward else "Free text that answers a question or a conversation",
        "type": "Reward model on a language model" if reward else "Generative language model",
        "base": f"{base} (licence: {facts.base.licence or 'not known'})",
        "data": data,
        "types": f"Input: text in {spoken}. Output: {'a number' if reward else 'text'}.",
        "licence": _bullets(clash_lines(facts, words)),
        "evaluations": ", ".join(dict.fromkeys(one.test for one in facts.results)),
    }


def _keywords(facts: CardFacts) -> list[str]:
    methods = [one for training in facts.trainings for one in (training.stage, training.method) if one]
    return list(dict.fromkeys(["medical language model", *facts.languages, *methods]))


def _metric(element: ElementTree.Element, name: str, facts: CardFacts, form: Mapping[str, Any]) -> None:
    """One group of key metrics; each has to have a result, which says that there is none where none is recorded."""
    if name == "FairnessEquity":
        results: list[Result] = []  # nothing here measures groups of patients
    else:
        wanted = name == "SafetyReliability"
        results = [one for one in facts.results if (one.metric in SAFETY) is wanted]
    rows = [(_label(one), _value(one)) for one in results]
    if name == "SafetyReliability" and isinstance(facts.parity, ParityTable):
        rows += _parity_rows(facts.parity)
    text = {
        "TestType": "Evaluation on recorded test data; written files compared with the trained model" if rows else "",
        "TestingDataDescription": ", ".join(dict.fromkeys(one.test for one in results)),
    }
    for part in form["metric"]:
        child = ElementTree.SubElement(element, part)
        if part != "Results":
            child.text = text.get(part) or form["fill"]
            continue
        for label, value in rows or [("No result on record", {"kind": "single", "value": form["fill"], "unit": ""})]:
            result = ElementTree.SubElement(child, "MetricResult")
            ElementTree.SubElement(result, "Label").text = label
            ElementTree.SubElement(result, "ValueJson").text = json.dumps(value, ensure_ascii=False)


def _parity_rows(table: ParityTable) -> list[tuple[str, dict[str, object]]]:
    rows: list[tuple[str, dict[str, object]]] = []
    for row in table.rows:
        if row.top1_agreement is not None:
            label = f"{row.form}: tokens with the same next token as the trained model"
            rows.append((label, {"kind": "single", "value": round(100 * row.top1_agreement, 2), "unit": "%"}))
        if row.safety is not None and row.safety.cases:
            changed = round(100 * row.safety.changed / row.safety.cases, 2)
            rows.append((f"{row.form}: triage answers that changed", {"kind": "single", "value": changed, "unit": "%"}))
    return rows


def _label(result: Result) -> str:
    parts = [f"{result.test}: {result.metric}"]
    if result.low is not None and result.high is not None:
        parts.append(f"95% interval {result.low:.4g} to {result.high:.4g}")
    if result.n is not None:
        parts.append(f"n {result.n}")
    return ", ".join(parts)


def _value(result: Result) -> dict[str, object]:
    share = result.metric in SAFETY
    value = round(100 * result.value, 4) if share else round(result.value, 6)
    return {"kind": "single", "value": value, "unit": "%" if share else ""}


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
