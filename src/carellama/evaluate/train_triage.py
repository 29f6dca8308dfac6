"""`carellama safety train`: the weights of the classifier of emergencies, from labelled texts.

    carellama safety train data/triage/dev.jsonl data/triage/practice.jsonl --output classifier.tsv.gz

Prints misses and false alarms of a cross-validation (each text is judged by weights that were learned without it), for
the classifier alone and with the rules, at the threshold and around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carellama.config.parse import parse
from carellama.config.safety import SafetyTrainArguments
from carellama.disk import say
from carellama.errors import UserError, read_failure
from carellama.evaluate.table import aligned
from carellama.evaluate.triage import cells
from carellama.evaluate.triage_cases import Case, load_cases
from carellama.safety.classifier import Classifier, fit
from carellama.safety.triage import patient_text, triage
from carellama.safety.triage_rules import load_red_flags

STEPS = (-0.6, -0.3, 0.0, 0.3, 0.6)  # around the threshold, in log-odds


def train(argv: Sequence[str]) -> None:
    """Run `carellama safety train`."""
    (options,) = parse((SafetyTrainArguments,), argv, "carellama safety train FILE...", first="files")
    output = Path(options.output)
    if output.exists() and not options.overwrite:
        raise UserError(f"{output} is there; give another --output, or --overwrite")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)  # before the learning, not after it
    except OSError as error:
        raise UserError(f"--output {output}: its folder cannot be made: {read_failure(error)}") from None
    cases = [case for file in options.files for case in load_cases(Path(file), options.scale).cases]
    if len({case.is_emergency for case in cases}) < 2:
        raise UserError("all texts have the same label; the classifier needs emergencies and others")
    say(f"{len(cases):,} texts, {sum(case.is_emergency for case in cases):,} emergencies")
    if options.folds > 1:
        print(_cross_validation(cases, options))
    made = _fit(cases, options)
    replace(made, threshold=options.threshold, floor=options.floor).save(output)
    print(
        f"{len(made.weights):,} weights: {output}; measure them with carellama safety eval FILE --classifier {output}"
    )


def _fit(cases: Sequence[Case], options: SafetyTrainArguments) -> Classifier:
    texts = [patient_text(case.messages) for case in cases]
    labels = [case.is_emergency for case in cases]
    return fit(texts, labels, least=options.min_count, penalty=options.penalty)


def _cross_validation(cases: Sequence[Case], options: SafetyTrainArguments) -> str:
    """A table of misses and false alarms by threshold; a case is in the part of its place modulo the folds."""
    made: list[Classifier] = []
    for part in range(options.folds):
        made.append(_fit([case for at, case in enumerate(cases) if at % options.folds != part], options))
    rules = load_red_flags()
    rows = [["threshold", "reader", "missed", "of", "share", "95%", "false alarms", "of", "share", "95%"]]
    for step in STEPS:
        readers = [replace(one, threshold=options.threshold + step, floor=options.floor) for one in made]
        own = [(case, readers[at % options.folds]) for at, case in enumerate(cases)]
        for name, said in (
            ("classifier", [one.verdict(patient_text(case.messages)) == "emergency" for case, one in own]),
            ("with rules", [triage(case.messages, rules, one).level == "emergency" for case, one in own]),
        ):
            shares = [cell for wanted in (True, False) for cell in _wrong(cases, said, emergencies=wanted)]
            rows.append([f"{options.threshold + step:.1f}", name, *shares])
    return aligned(rows)


def _wrong(cases: Sequence[Case], said: Sequence[bool], *, emergencies: bool) -> list[str]:
    pairs = [alarm for case, alarm in zip(cases, said, strict=True) if case.is_emergency == emergencies]
    return cells(sum(alarm != emergencies for alarm in pairs), len(pairs))
