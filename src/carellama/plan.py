"""`carellama plan`: what a training will need in memory and time, and whether it fits, before it is begun.

    carellama plan examples/sft.yaml

`check` is the same at the start of `carellama train`, without the measured steps: a training that cannot fit is
refused before its weights are read, with the changes that would make it fit.
"""

from __future__ import annotations

import importlib
import logging
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama import hardware
from carellama import run as runs
from carellama.config.environment import local_processes, world
from carellama.config.parse import parse_asked
from carellama.config.plan import PlanArguments
from carellama.disk import write_json
from carellama.errors import UserError
from carellama.hardware import format_bytes, has_gpu, process_memory_bytes

if TYPE_CHECKING:
    from carellama.config.run import RunConfig

log = logging.getLogger(__name__)

MEANINGS = {
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


def plan(argv: Sequence[str]) -> None:
    """The verb: print the plan, and leave with 2 where it does not fit."""
    if runs.print_help(argv, "carellama plan", PlanArguments):
        return
    runs.check_early(argv, "carellama plan", {"do_train": True}, PlanArguments)
    from carellama.config.run import RUN_GROUPS, RunConfig  # it loads transformers, which takes seconds
    from carellama.train.options import checked

    groups = (*RUN_GROUPS, PlanArguments)
    (*parts, options), asked = parse_asked(groups, argv, "carellama plan", {"do_train": True})
    config = checked(RunConfig(*parts), asked)
    with tempfile.TemporaryDirectory(prefix="carellama-plan-") as folder:
        made = planned(config, options.plan_steps, Path(folder))
    print("\n".join(table(made)))
    if options.report:
        write_json(Path(options.report), made)
    if not made["fits"]:
        raise UserError(refusal(made))
    print(f"next: {shlex.join(['carellama', 'train', *_without(argv, fields(PlanArguments))])}")


def _without(argv: Sequence[str], options: Sequence[Field[Any]]) -> list[str]:
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


def planned(config: RunConfig, steps: int, folder: Path) -> dict[str, Any]:
    """Return the plan of a run as plain values; `folder` takes what the measured steps write."""
    from transformers import TrainingArguments

    config = runs.with_trained_template(config)
    training: TrainingArguments = config.training
    training.output_dir = str(folder)
    tokenizer, template, added, prepared = runs.prepared_run(config)
    found = fitted(config, prepared, added)
    found |= lengths_of(config, prepared)
    if steps and found["fits"]:
        found |= timed(config, tokenizer, template, added, prepared, steps, found)
    return found


def check(config: RunConfig, prepared: Any, added: Any) -> None:
    """Say what a training will need. Raises `UserError` where there is less, unless --skip_plan is given."""
    if config.training.skip_plan:
        return
    try:
        found = fitted(config, prepared, added)
    except UserError:
        raise
    except Exception as error:  # a model whose code cannot be built without weights may well train
        log.warning("memory: no estimate of this model (%s)", " ".join(str(error).split())[:100])
        return
    have = "" if found["available"] is None else f" of {format_bytes(found['available'])}"
    log.info("memory: about %s%s", format_bytes(found["total"]), have)
    for note in found["notes"]:
        log.info("memory: %s", note)
    if not found["fits"]:
        raise UserError(refusal(found))


def fitted(config: RunConfig, prepared: Any, added: Any) -> dict[str, Any]:
    """The memory by part, what there is, whether it fits, and else what would help (with its own estimate)."""
    from carellama.train import TRAINERS
    from carellama.train.fit import advised, estimate

    importlib.import_module(TRAINERS[config.stage.name].partition(":")[0])  # it is held as well
    process = process_memory_bytes()
    found = estimate(config, prepared, setting(config, added), process)
    there = hardware.available_memory_bytes()
    if there is not None and not has_gpu():  # what is free is shared, what each holds already is its own
        there = process + (there - process) // local_processes()
    fits = there is None or found.total <= there
    advice = []
    if not fits:
        for words, changed in advised(config):
            need = estimate(changed, prepared, setting(changed, added), process).total
            if need < found.total:
                advice.append({"change": words, "total": need, "fits": need <= (there or need)})
        advice.sort(key=lambda one: (not one["fits"], one["total"]))
    return {
        "parts": found.parts,
        "total": found.total,
        "available": there,
        "fits": fits,
        "advice": advice,
        "notes": found.notes,
        "largest_batch": {
            "records": len(found.batch.lengths),
            "tokens": found.batch.tokens,
            "padded": found.batch.padded,
        },
    }


def setting(config: RunConfig, added: Any) -> Any:
    """How the run will load its model."""
    from carellama.train.fit import Setting

    kind = config.stage.model_kind
    ids = tuple(added.ids) if added else ()
    attention = runs.attention_of(config)
    return Setting(kind, runs.weights_dtype(config), attention, max(ids, default=-1) + 1, ids)


def refusal(found: dict[str, Any]) -> str:
    """One line: what is needed, what there is, what would help."""
    words = [f"{one['change']} (about {format_bytes(one['total'])})" for one in found["advice"]]
    enough = [word for word, one in zip(words, found["advice"], strict=True) if one["fits"]]
    if enough:
        help_ = f"any of these would fit: {'; '.join(enough)}"
    elif words:
        help_ = f"no single change is enough; together these bring most: {'; '.join(words[:3])}"
    else:
        help_ = "take a smaller model"
    return (
        f"this training needs about {format_bytes(found['total'])} of memory and there are "
        f"{format_bytes(found['available'])}: {help_}; --skip_plan tries it all the same"
    )


def lengths_of(config: RunConfig, prepared: Any) -> dict[str, Any]:
    """Tokens of an epoch and steps of the training, as far as they are known beforehand."""
    training = config.training
    examples = prepared.train
    try:
        count = len(examples)
    except TypeError:  # a stream
        return {"tokens_per_epoch": None, "steps": training.max_steps}
    batches = math.ceil(count / (training.per_device_train_batch_size * world()[1]))
    updates = max(math.ceil(batches / training.gradient_accumulation_steps), 1)
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * updates)
    if config.stage.generates:  # which make their batches of answers that are not there yet
        return {"tokens_per_epoch": None, "steps": training.max_steps if training.max_steps > 0 else None}
    return {"tokens_per_epoch": examples.tokens, "steps": steps, "steps_per_epoch": updates}


def timed(
    config: RunConfig, tokenizer: Any, template: Any, added: Any, prepared: Any, steps: int, found: dict[str, Any]
) -> dict[str, Any]:
    """Make some steps, of which the first is not counted, and return their rates and the most memory held."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends.append(time.monotonic())

    clock = Clock()
    training: Any = config.training
    training.max_steps, training.save_strategy, training.eval_strategy, training.report_to = steps + 1, "no", "no", []
    training.disable_tqdm, training.logging_strategy, training.load_best_model_at_end = True, "no", False
    runner = runs.Run(config, tokenizer, template, Path(training.output_dir), added)
    trainer = runner.trainer(runner.load(), prepared)
    trainer.add_callback(clock)
    trainer.train()
    if progress := getattr(trainer, "progress", None):
        progress.close()
    seconds = (clock.ends[-1] - clock.ends[0]) / max(len(clock.ends) - 1, 1)
    rates: dict[str, Any] = {"seconds_per_step": seconds, "measured_peak": peak_bytes()}
    work = getattr(trainer, "work", None)
    if work is not None and found["tokens_per_epoch"] and found.get("steps_per_epoch"):
        tokens_a_step = work.tokens / max(len(clock.ends), 1)
        average = found["tokens_per_epoch"] / found["steps_per_epoch"] / world()[1]
        seconds *= average / tokens_a_step  # the measured steps may have had longer records than most
    if found["steps"]:
        rates["seconds"] = seconds * found["steps"]
    return rates


def peak_bytes() -> int:
    """The most memory that this process has held: of the GPU, or of the machine."""
    if has_gpu():
        return process_memory_bytes()
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def table(found: dict[str, Any]) -> list[str]:
    """The plan as lines."""
    rows = [(MEANINGS[part], format_bytes(size)) for part, size in found["parts"].items()]
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
