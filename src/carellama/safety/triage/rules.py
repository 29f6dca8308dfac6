"""The rules of triage: signs of an emergency, how urgent they are, and the one thing to do.

rules = load_red_flags()                          # those that CareLlama ships
rules = load_red_flags([Path("hospital.yaml")])   # with rules of a hospital besides
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from carellama.safety.rules.files import RuleKind, RuleOptions, read_rules, shipped_folder
from carellama.safety.rules.rule_set import PatternRule, RuleSet
from carellama.safety.rules.yaml_file import Fields, user_file

Level = Literal["emergency", "urgent", "soon"]
LEVELS: tuple[Level, ...] = get_args(Level)  # the most urgent first
FOLDER = "triage/red_flags"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedFlag(PatternRule):
    """One rule of triage."""

    level: Level
    system: str
    do: Mapping[str, str]  # the one action, by language


RedFlags = RuleSet[RedFlag]


def load_red_flags(more: Sequence[Path] = ()) -> RedFlags:
    """Return the rules that CareLlama ships, and those of more files. Raises `UserError` with file and line."""
    if not more:
        return _shipped()
    hospital = [user_file(path) for path in more]
    return read_rules(shipped_folder(FOLDER), _kind({name for name, _ in hospital}), hospital)


@cache
def _shipped() -> RedFlags:
    return read_rules(shipped_folder(FOLDER), _kind(frozenset()))


def _kind(hospital: frozenset[str] | set[str]) -> RuleKind[RedFlag]:
    """The kind of the rules; those of the files `hospital` are not shipped."""

    def make(fields: Fields, common: RuleOptions) -> RedFlag:
        return RedFlag(
            level=fields.words("level", LEVELS)[0],
            system=fields.given["system"],
            do=fields.text("do"),
            shipped=fields.file not in hospital,
            **common,
        )

    return RuleKind({"level": str, "system": str, "do": dict}, make)
