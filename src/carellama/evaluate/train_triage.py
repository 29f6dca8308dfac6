"""`carellama safety train`: the weights of the classifier of emergencies, from labelled texts.

    carellama safety train data/triage/dev.jsonl data/triage/practice.jsonl --output classifier.tsv.gz

Prints misses and false alarms of a cross-validation, for the classifier alone and with the rules: at the threshold and
around it, and by set of texts. Whole sets are left out, since texts of one writer are alike: each text is judged by
weights that were learned without its set. The rules are the same throughout; on texts that they were written by, the
rows `with rules` are too good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carellama.config.reader import parse_options
from carellama.config.safety import SafetyTrainOptions
from carellama.errors import UserError, read_failure
from carellama.evaluate.table import aligned
from carellama.evaluate.triage import cells
from carellama.evaluate.triage_cases import Case, load_cases
from carellama.files import print_status, refuse_existing
from carellama.safety.classifier.classifier import Classifier, fit
from carellama.safety.classifier.signs import Sign
from carellama.safety.triage.rules import load_red_flags
from carellama.safety.triage.triage import Finding, apply_classifier, patient_text, read_text

STEPS = (-0.6, -0.3, 0.0, 0.3, 0.6)  # around the threshold, in log-odds
COLUMNS = ("reader", "missed", "of", "share", "95%", "false alarms", "of", "share", "95%")


def train(argv: Sequence[str]) -> None:
    """Run `carellama safety train`."""
    (options,) = parse_options((SafetyTrainOptions,), argv, "carellama safety train FILE...", positional="files")
    output = weights_file(options.output, options.files, overwrite=options.overwrite)
    cases = [case for file in options.files for case in load_cases(Path(file), options.scale).cases]
    if len({case.is_emergency for case in cases}) < 2:
        raise UserError("all texts have the same label; the classifier needs emergencies and others")
    print_status(f"{len(cases):,} texts, {sum(case.is_emergency for case in cases):,} emergencies")
    reads = _read(cases)
    if options.folds > 1:
        print(_cross_validation(reads, options))
    made = _fit(reads, options)
    made.save(output)
    print(
        f"{len(made.weights):,} weights: {output}; measure them with carellama safety eval FILE --classifier {output}"
    )


def weights_file(output: str, sources: Sequence[str], *, overwrite: bool) -> Path:
    """Return the file that weights go to, its folder made. Raises `UserError` before the learning, not after it."""
    path = Path(output)
    refuse_existing(path, map(Path, sources), overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: its folder cannot be made: {read_failure(error)}") from None
    return path


@dataclass(frozen=True)
class _Read:
    """A case, its text, and what the rules say of it."""

    case: Case
    text: str
    found: list[Finding]
    signs: list[Sign]

    def alarms(self, classifier: Classifier) -> tuple[bool, bool]:
        """Return whether the classifier alone calls it an emergency, and whether it does with the rules."""
        alone = classifier.verdict(self.text, self.signs) == "emergency"
        return alone, any(
            one.level == "emergency" for one in apply_classifier(self.found, self.text, self.signs, classifier)[0]
        )


def _read(cases: Iterable[Case]) -> list[_Read]:
    rules = load_red_flags()
    texts = [(case, patient_text(case.messages)) for case in cases]
    return [_Read(case, text, *read_text(text, rules)) for case, text in texts]


def _fit(reads: Sequence[_Read], options: SafetyTrainOptions) -> Classifier:
    made = fit(
        [one.text for one in reads],
        [one.case.is_emergency for one in reads],
        [one.signs for one in reads],
        least=options.min_count,
        penalty=options.penalty,
        units=options.hidden_units,
    )
    return replace(made, threshold=options.threshold, floor=options.floor)


def _cross_validation(reads: Sequence[_Read], options: SafetyTrainOptions) -> str:
    """Tables of misses and false alarms by threshold and by set."""
    parts = _parts([one.case for one in reads], options.folds)
    made = [
        _fit([one for one, own in zip(reads, parts, strict=True) if own != part], options)
        for part in range(max(parts) + 1)
    ]
    table = [["threshold", *COLUMNS]]
    sets: dict[str, list[int]] = {}
    for at, one in enumerate(reads):
        sets.setdefault(one.case.set, []).append(at)
    for step in STEPS:
        moved = [replace(one, threshold=one.threshold + step) for one in made]
        said = [one.alarms(moved[part]) for one, part in zip(reads, parts, strict=True)]
        table += _rows(f"{options.threshold + step:.1f}", reads, said, range(len(reads)))
        if not step:
            by_set = [row for name in sorted(sets) for row in _rows(name, reads, said, sets[name])]
    whole = aligned(table)
    return f"{whole}\n\n{aligned([['set', *COLUMNS], *by_set])}" if len(sets) > 1 else whole


def _parts(cases: Sequence[Case], folds: int) -> list[int]:
    """The part of each case: sets of texts stay whole; where there is but one set, its cases take turns."""
    sizes = Counter(case.set for case in cases)
    if len(sizes) == 1:
        return [at % folds for at in range(len(cases))]
    loads = [0] * min(folds, len(sizes))
    part_of: dict[str, int] = {}
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        part_of[name] = loads.index(min(loads))
        loads[part_of[name]] += size
    return [part_of[case.set] for case in cases]


def _rows(
    first: str, reads: Sequence[_Read], said: Sequence[tuple[bool, bool]], places: Iterable[int]
) -> Iterator[list[str]]:
    """The row of the classifier and that with rules, of some of the cases."""
    own = list(places)
    for reader, name in enumerate(("classifier", "with rules")):
        shares = []
        for wanted in (True, False):
            alarms = [said[at][reader] for at in own if reads[at].case.is_emergency == wanted]
            shares += cells(sum(alarm != wanted for alarm in alarms), len(alarms))
        yield [first, name, *shares]
