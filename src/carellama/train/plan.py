"""`carellama plan`: what a training will need in memory and time, and whether it fits, before it is begun.

    carellama plan examples/sft.yaml

`carellama train` makes the same estimate at its start, without the measured steps: a training that cannot fit is
refused before its weights are read, with the changes that would make it fit (`carellama.train.memory.check`).
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.environment import world
from carellama.config.run import PlanOptions, RunOptions
from carellama.errors import UserError
from carellama.files import refuse_existing, write_json
from carellama.hardware import format_bytes, has_gpu, process_memory_bytes
from carellama.records import JSONObject
from carellama.train import run as runs
from carellama.train.epochs import steps_of_epoch
from carellama.train.options import build_run, parse_run

if TYPE_CHECKING:
    from carellama.train.session import Session

log = logging.getLogger(__name__)

PART_LABELS = {
    "weights": "weights of the model",
    "reference": "copy of the model to compare with",
    "adapters": "adapters",
    "gradients": "gradients at that moment",
    "optimiser": "state of the optimiser",
    "activations": "activations of the largest batch",
    "casts": "copies of weights in lower precision",
    "logits": "logits and what is made of them",
    "answering": "answers while they are written",
    "kept": "kept by allocators",
    "kernels": "compiled kernels of oneDNN",
    "process": "Python, libraries, data",
}


def main(argv: Sequence[str]) -> None:
    """The verb: print the plan, and leave with 2 where it does not fit."""
    if runs.print_help(argv, "carellama plan", PlanOptions):
        return
    parsed = parse_run(argv, "carellama plan", {"do_train": True}, PlanOptions)
    runs.check_paths(parsed)
    options, plan_options = build_run(parsed), parsed.groups[-1]
    if plan_options.report:
        _refuse_report(Path(plan_options.report), options, overwrite=plan_options.overwrite)
    from carellama.train.memory.check import out_of_memory_message

    with tempfile.TemporaryDirectory(prefix="carellama-plan-") as folder:
        made = make_plan(options, plan_options.plan_steps, Path(folder))
    print("\n".join(format_plan(made)))
    if plan_options.report:
        write_json(Path(plan_options.report), made)
    if not made["fits"]:
        raise UserError(out_of_memory_message(made))
    print(f"next: {shlex.join(['carellama', 'train', *_without(argv, fields(PlanOptions))])}")


def _refuse_report(report: Path, options: RunOptions, *, overwrite: bool) -> None:
    """Raise `UserError` before the plan is made for a report that would replace a data file, or any without leave."""
    from carellama.data.datasets import load_datasets

    data = options.data
    datasets = (
        load_datasets(list(dict.fromkeys([*data.datasets, *data.eval_datasets])), data) if report.exists() else []
    )
    sources = (source for dataset in datasets for source in dataset.files)
    refuse_existing(report, sources, overwrite=overwrite, option="report")


def _without(argv: Sequence[str], options: Sequence[Field]) -> list[str]:
    """Return the words of a command line without these options and their values."""
    names = {option.name for option in options}
    words: list[str] = []
    drops = False
    for word in argv:
        if word.startswith("--"):
            name, joined, _ = word[2:].partition("=")
            drops = name.replace("-", "_") in names and not joined
            if name.replace("-", "_") in names:
                continue
        if not drops:
            words.append(word)
    return words


def make_plan(options: RunOptions, steps: int, folder: Path) -> JSONObject:
    """Return the plan of a run as plain values; `folder` takes what the measured steps write."""
    from carellama.train.memory.check import estimate_and_compare
    from carellama.train.session import Session, with_trained_template

    session = Session.open(with_trained_template(options).with_training(output_dir=str(folder)))
    found = estimate_and_compare(session)
    found |= training_length(session)
    if steps and found["fits"]:
        found |= measure_steps(session, steps, found)
    return found


def training_length(session: Session) -> JSONObject:
    """Tokens of an epoch and steps of the training, as far as they are known beforehand."""
    from carellama.data.encoding.examples import Examples
    from carellama.data.encoding.token_stream import TokenStream

    assert session.prepared is not None, "a plan is of a training"
    training, examples = session.options.training, session.prepared.train
    if isinstance(examples, TokenStream):
        return {"tokens_per_epoch": None, "steps": training.max_steps}
    if not isinstance(examples, Examples):  # prompts: the batches are made of answers that are not there yet
        return {"tokens_per_epoch": None, "steps": training.max_steps if training.max_steps > 0 else None}
    updates = steps_of_epoch(len(examples), training)
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * updates)
    return {"tokens_per_epoch": examples.tokens, "steps": steps, "steps_per_epoch": updates}


def measure_steps(session: Session, steps: int, found: JSONObject) -> JSONObject:
    """Make some steps, of which the first is not counted, and return their rates and the most memory held."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
        ) -> None:
            self.ends.append(time.monotonic())

    clock = Clock()
    options = session.options.with_training(
        max_steps=steps + 1, save_strategy="no", eval_strategy="no", report_to=[], disable_tqdm=True,
        logging_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    session = replace(session, options=options)
    trainer = session.make_trainer(session.load_model())
    trainer.add_callback(clock)
    trainer.train()
    if progress := getattr(trainer, "progress", None):
        progress.close()
    seconds = (clock.ends[-1] - clock.ends[0]) / max(len(clock.ends) - 1, 1)
    rates: JSONObject = {"seconds_per_step": seconds, "measured_peak": peak_memory_bytes()}
    work = getattr(trainer, "work", None)
    if work is not None and found["tokens_per_epoch"] and found.get("steps_per_epoch"):
        tokens_a_step = work.tokens / max(len(clock.ends), 1)
        average = found["tokens_per_epoch"] / found["steps_per_epoch"] / world()[1]
        seconds *= average / tokens_a_step  # the measured steps may have had longer records than most
    if found["steps"]:
        rates["seconds"] = seconds * found["steps"]
    return rates


def peak_memory_bytes() -> int:
    """The most memory that this process has held: of the GPU, or of the machine."""
    if has_gpu():
        return process_memory_bytes()
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def format_plan(found: JSONObject) -> list[str]:
    """The plan as lines."""
    rows = [(PART_LABELS[part], format_bytes(size)) for part, size in found["parts"].items()]
    rows.append(("in all, at the moment with the most", format_bytes(found["total"])))
    rows.append(("there is", "unknown" if found["available"] is None else format_bytes(found["available"])))
    batch = found["largest_batch"]
    rows.append(("largest batch", f"{batch['records']:,} records, {batch['tokens']:,} tokens"))
    if found["tokens_per_epoch"]:
        rows.append(("tokens of an epoch", f"{found['tokens_per_epoch']:,}"))
    if found["steps"]:
        rows.append(("steps", f"{found['steps']:,}"))
    if "seconds_per_step" in found:
        rows.append(("a step, measured", f"{found['seconds_per_step']:.2f} s"))
        rows.append(("most memory in those steps", format_bytes(found["measured_peak"])))
    if "seconds" in found:
        hours, rest = divmod(round(found["seconds"]), 3600)
        rows.append(("the training, without evaluation", f"{hours}:{rest // 60:02}:{rest % 60:02}"))
    wide = max(len(name) for name, _ in rows)
    lines = [f"{name:<{wide}}  {value:>12}" for name, value in rows]
    return [*lines, *(f"note: {note}" for note in found["notes"]), "it fits" if found["fits"] else "it does not fit"]
