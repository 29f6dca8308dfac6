"""`carellama safety check`: whether rules are well formed, and whether their own examples hold.

carellama safety check                    # those that CareLlama ships: triage, guard, answers and medicines
carellama safety check hospital.yaml      # and what a hospital has: rules, rows of medicines, a policy
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import get_args

from carellama.config.reader import parse_options
from carellama.config.safety import SafetyCheckOptions
from carellama.engine.base import AnswerKind
from carellama.errors import UserError
from carellama.safety.answers.checks import AnswerChecks, load_answer_rules
from carellama.safety.guard.rules import load_guard_rules
from carellama.safety.medication.conflicts import conflicts, person_facts
from carellama.safety.medication.rules import Examples, MedicationRules, load_medication
from carellama.safety.own_files import sort_rule_files
from carellama.safety.policy import is_policy_file, load_policy
from carellama.safety.rules.rule_set import PatternRule, Rule, RuleSet
from carellama.safety.triage.rules import load_red_flags
from carellama.text import counted, language

Fired = Callable[[str], Collection[str]]  # a text to the ids of the rules that fire on it


def check(argv: Sequence[str]) -> None:
    """Run `carellama safety check`. Raises `UserError` for the first fault of the form, and for faulty examples."""
    (options,) = parse_options((SafetyCheckOptions,), argv, "carellama safety check FILE...", positional="files")
    files = [Path(file) for file in options.files]
    policies = [file for file in files if is_policy_file(file)]
    own = sort_rule_files([file for file in files if file not in policies])
    red_flags, requests, answers = load_red_flags(own.triage), load_guard_rules(own.guard), load_answer_rules()
    checks, rows = AnswerChecks(get_args(AnswerKind)), load_medication(own.medicines)
    faults = [
        *_report_rules("triage", red_flags, lambda text: {rule.id for rule, _ in red_flags.scan(text)}),
        *_report_rules("guard", requests, lambda text: {rule.id for rule, _ in requests.scan(text)}),
        *_report_rules("answers", answers, lambda text: {rule.id for rule in checks.find(text)}),
        *_report("medicines", "rows", len(rows.rows), rows.examples, list(faulty_medication_examples(rows))),
    ]
    for file in policies:
        changed = load_policy(file).changed()
        print(f"{file}: a policy (--policy), {', '.join(changed) or 'all as shipped'}")
    if faults:
        does = "does" if len(faults) == 1 else "do"
        raise UserError(f"{counted(len(faults), 'example')} {does} not hold; change the rule or the example")


def _report_rules(name: str, rules: RuleSet[Rule], fired: Fired) -> list[str]:
    return _report(name, "rules", len(rules.rules), rules.rules, list(faulty_examples(rules, fired)))


def _report(name: str, what: str, count: int, groups: Sequence[PatternRule | Examples], faults: list[str]) -> list[str]:
    """Print the faulty examples, and how many examples there are; return the faulty ones."""
    for fault in faults:
        print(fault)
    examples = sum(len(one.fires) + len(one.spares) for one in groups)
    print(f"{name}: {count:,} {what}, {examples:,} examples, {len(faults):,} faulty")
    return faults


def faulty_medication_examples(rules: MedicationRules) -> Iterator[str]:
    """Yield a line for each text on which a row of medicines ought to be found and is not, or the reverse."""
    for group in rules.examples:
        for row, text, place in group.fires:
            if row not in _rows_of(text, rules):
                yield f"{place}: {row} does not fire on: {text}"
        for text, place in group.spares:
            for row in sorted(_rows_of(text, rules) & group.rows):
                yield f"{place}: {row} fires on: {text}"


def _rows_of(text: str, rules: MedicationRules) -> set[str]:
    return {found.row for found in conflicts(person_facts(text, rules), text, "question", rules)}


def faulty_examples(rules: RuleSet[Rule], fired: Fired) -> Iterator[str]:
    """Yield a line for each text that ought to fire and does not, or the reverse, and each language without one."""
    for rule in rules.rules:
        for wanted, texts in ((True, rule.fires), (False, rule.spares)):
            for text in texts:
                if (rule.id in fired(text)) != wanted:
                    yield f"{rule.place}: {rule.id} {'does not fire' if wanted else 'fires'} on: {text}"
            tongues = {language(text) for text in texts}
            for tongue in ("zh", "en"):
                if not tongues & {tongue, "mixed"}:
                    yield f"{rule.place}: {rule.id} has no example in {tongue} under {'fires' if wanted else 'spares'}"
