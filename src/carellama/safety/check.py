"""`carellama safety check`: whether rules of triage are well formed, and whether their own examples hold.

carellama safety check                    # those that CareLlama ships
carellama safety check hospital.yaml      # and those of a hospital, with line numbers
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from carellama.config.parse import parse
from carellama.config.safety import SafetyCheckArguments
from carellama.errors import UserError
from carellama.safety.triage import triage_text
from carellama.safety.triage_rules import RedFlags, load_red_flags
from carellama.text import language


def check(argv: Sequence[str]) -> None:
    """Run `carellama safety check`. Raises `UserError` for the first fault of the form, and for faulty examples."""
    (options,) = parse((SafetyCheckArguments,), argv, "carellama safety check FILE...", first="files")
    files = [Path(file) for file in options.files]
    rules = load_red_flags(files)
    faults = list(faulty_examples(rules))
    for fault in faults:
        print(fault)
    examples = sum(len(rule.fires) + len(rule.spares) for rule in rules.rules)
    print(f"{len(rules.rules):,} rules, {examples:,} examples, {len(faults):,} faulty")
    if faults:
        counted = "1 example does" if len(faults) == 1 else f"{len(faults):,} examples do"
        raise UserError(f"{counted} not hold; change the rule or the example at the lines above")


def faulty_examples(rules: RedFlags) -> Iterator[str]:
    """Yield a line for each text that ought to fire and does not, or the reverse, and each language without one."""
    for rule in rules.rules:
        for wanted, texts in ((True, rule.fires), (False, rule.spares)):
            for text in texts:
                fired = rule.id in {finding.rule.id for finding in triage_text(text, rules).findings}
                if fired != wanted:
                    yield f"{rule.place}: {rule.id} {'does not fire' if wanted else 'fires'} on: {text}"
            tongues = {language(text) for text in texts}
            for tongue in ("zh", "en"):
                if not tongues & {tongue, "mixed"}:
                    yield f"{rule.place}: {rule.id} has no example in {tongue} under {'fires' if wanted else 'spares'}"
