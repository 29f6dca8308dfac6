"""The rules of the guard: requests that are refused, or answered with caution.

rules = load_guard_rules()                          # those that CareLlama ships
rules = load_guard_rules([Path("hospital.yaml")])   # with rules of a hospital besides

A request asks and supposes, so that a mention counts however it is meant (`safety.rules.context`): what makes a request
harmless is a concept under `unless`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from carellama.safety.rules.context import FLAGS
from carellama.safety.rules.files import RuleKind, RuleOptions, read_rules, shipped_folder
from carellama.safety.rules.rule_set import PatternRule, RuleSet
from carellama.safety.rules.yaml_file import Fields, read_root, user_file

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
    hospital = [user_file(path) for path in more]
    return read_rules(shipped_folder(FOLDER), _kind({name for name, _ in hospital}), hospital)


@cache
def _shipped() -> GuardRules:
    return read_rules(shipped_folder(FOLDER), _kind(frozenset()))


def _kind(hospital: frozenset[str] | set[str]) -> RuleKind[GuardRule]:
    """The kind of the rules; those of the files `hospital` are not shipped."""

    def make(fields: Fields, common: RuleOptions) -> GuardRule:
        if "even_if" in fields.given:
            fields.fail("even_if", "is no key of a guard rule: its mentions count however they are meant")
        rule = GuardRule(
            outcome=fields.words("outcome", OUTCOMES[1:])[0],
            category=fields.words("category", CATEGORIES)[0],
            shipped=fields.file not in hospital,
            **common,
        )
        return replace(rule, even_if=FLAGS, unless_even_if=FLAGS)

    return RuleKind({"outcome": str, "category": str}, make)


def is_guard_file(path: Path) -> bool:
    """Return whether a file has rules of the guard: a rule has an `outcome`. Raises `UserError` with the line."""
    rules = read_root(user_file(path)).part("rules")
    return rules is not None and rules.is_list and any("outcome" in rule.key_names() for rule in rules.items())
