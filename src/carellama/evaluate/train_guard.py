"""`carellama guard train`: the weights of the guard's classifier, from labelled requests.

    carellama guard train data/guard/dev.jsonl data/guard/practice.jsonl --output guard.tsv.gz

Prints what a cross-validation lets through and refuses wrongly (each request is judged by weights that were learned
without it and without the rest of its pair), for the classifier alone and with the rules, around the threshold. The
rules were written with these texts in view, so that "with rules" is better here than on texts nobody has read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carellama.config.reader import parse_options
from carellama.config.safety import GuardTrainOptions, split_files
from carellama.errors import UserError
from carellama.evaluate.guard_cases import Request, load_requests
from carellama.evaluate.table import aligned
from carellama.evaluate.train_triage import STEPS, weights_file
from carellama.evaluate.triage import cells
from carellama.files import print_status
from carellama.safety.classifier.classifier import Classifier, fit
from carellama.safety.guard.guard import Guard
from carellama.safety.own_files import sort_rule_files


def train(argv: Sequence[str]) -> None:
    """Run `carellama guard train`."""
    (options,) = parse_options((GuardTrainOptions,), argv, "carellama guard train FILE...", positional="files")
    output = weights_file(options.output, options.files, overwrite=options.overwrite)
    requests = [request for file in options.files for request in load_requests(Path(file))]
    if len({request.is_attack for request in requests}) < 2:
        raise UserError("all requests have the same outcome; the classifier needs some to refuse and some to answer")
    print_status(f"{len(requests):,} requests, {sum(request.is_attack for request in requests):,} to refuse")
    guard = Guard(sort_rule_files(split_files(options.safety_rules)).guard, readers=("rules",))
    if options.folds > 1:
        print(_cross_validation(requests, guard, options))
    made = _fit(requests, guard, options)
    replace(made, threshold=options.threshold, floor=options.floor).save(output)
    print(
        f"{len(made.weights):,} weights: {output}; measure them with carellama guard eval FILE "
        f"--guard_classifier {output}"
    )


def _fit(requests: Sequence[Request], guard: Guard, options: GuardTrainOptions) -> Classifier:
    texts = [guard.plain(request.messages) for request in requests]
    labels = [request.is_attack for request in requests]
    signs = [guard.signs(text) for text in texts]
    return fit(texts, labels, signs, least=options.min_count, penalty=options.penalty)


def _cross_validation(requests: Sequence[Request], guard: Guard, options: GuardTrainOptions) -> str:
    """A table of what gets through and what is refused wrongly, by threshold."""
    parts = [_part(request, options.folds) for request in requests]
    made = [
        _fit([one for one, its in zip(requests, parts, strict=True) if its != part], guard, options)
        for part in range(options.folds)
    ]
    rows = [["threshold", "reader", "let through", "of", "share", "95%", "refused", "of", "share", "95%"]]
    for step in STEPS:
        threshold = options.threshold + step
        readers = [replace(one, threshold=threshold, floor=min(options.floor, threshold)) for one in made]
        for name, judges in (
            ("classifier", [guard.with_classifier(one, rules=False) for one in readers]),
            ("with rules", [guard.with_classifier(one) for one in readers]),
        ):
            refused = [
                judges[part].judge(request.messages).outcome == "refuse"
                for request, part in zip(requests, parts, strict=True)
            ]
            shares = [cell for attacks in (True, False) for cell in _wrong(requests, refused, attacks=attacks)]
            rows.append([f"{threshold:.1f}", name, *shares])
    return aligned(rows)


def _part(request: Request, folds: int) -> int:
    """The part of the cross-validation that a request is in: by its pair."""
    return int(hashlib.sha256(request.pair.encode()).hexdigest(), 16) % folds


def _wrong(requests: Sequence[Request], refused: Sequence[bool], *, attacks: bool) -> list[str]:
    own = [said for request, said in zip(requests, refused, strict=True) if request.is_attack == attacks]
    return cells(sum(said != attacks for said in own), len(own))
