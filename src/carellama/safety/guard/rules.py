"""The rules of the guard: requests that are refused, or answered with caution.

rules = load_guard_rules()                          # those that CareLlama ships
rules = load_guard_rules([Path("hospital.yaml")])   # with rules of a hospital besides

A request asks and supposes, so that a mention counts however it is meant (`safety.rules.context`): what makes a request
harmless is a concept under `unless`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from carellama.safety.rules.context import FLAGS
from carellama.safety.rules.files import RuleKind, RuleNode, compose, read_rules, shipped_folder, user_file
from carellama.safety.rules.rule_set import PatternRule, RuleSet

Outcome = Literal["answer", "caution", "refuse"]
Reader = Literal["rules", "classifier", "model"]
GENERAL = "general"  # the category of what no rule named
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)  # the strictest last
FOLDER = "guard/requests"
CATEGORIES = (
    "prescription_forging",
    "lethal_dose",
    "self_harm_method",
    "minors_sexual",
    "prompt_injection",
    "poisoning_others",
    "bioweapon_or_toxin",
    "drug_diversion",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRule(PatternRule):
    """One rule of the guard."""

    outcome: Outcome
    category: str


GuardRules = RuleSet[GuardRule]


def load_guard_rules(more: Sequence[Path] = ()) -> GuardRules:
    """Return the rules that CareLlama ships, and those of more files. Raises `UserError` with file and line."""
    if not more:
        return _shipped()
    return read_rules(shipped_folder(FOLDER), KIND, [*map(user_file, more)])


@cache
def _shipped() -> GuardRules:
    return read_rules(shipped_folder(FOLDER), KIND)


def _make(node: RuleNode) -> GuardRule:
    given: dict[str, Any] = {**node.common, "even_if": FLAGS, "unless_even_if": FLAGS}
    if "even_if" in node.given:
        node.fail("even_if", "is no key of a guard rule: its mentions count however they are meant")
    return GuardRule(
        outcome=node.choice("outcome", OUTCOMES[1:]),
        category=node.choice("category", CATEGORIES),
        shipped=node.file.startswith("requests/"),
        **given,
    )


def is_guard_file(path: Path) -> bool:
    """Return whether a file has rules of the guard: a rule has an `outcome`. Raises `UserError` with the line."""
    name, text = user_file(path)
    root = compose(name, text)
    parts = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    rules = parts["rules"].value if isinstance(parts.get("rules"), yaml.SequenceNode) else ()
    keys = {key.value for rule in rules if isinstance(rule, yaml.MappingNode) for key, _ in rule.value}
    return "outcome" in keys


KIND = RuleKind({"outcome": str, "category": str}, _make)
