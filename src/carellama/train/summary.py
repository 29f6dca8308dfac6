"""What a run prints: a table at each evaluation, and at its end the results, the files and the next command.

    trained: sft on consult_en, smollm2-135m with lora, step 25 of 25 in 1:32
      training loss       3.41 at step 2, 2.10 at step 25
      held-out loss       2.31 [2.20, 2.43]
      perplexity          10.1 [9.03, 11.4]
      files               output: adapter_model.safetensors, eval_results.json, run.json, ...
    next: carellama chat --model_name_or_path smollm2-135m --checkpoint_dir output

The summary goes to stdout, the tables to stderr with the progress.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from carellama.config.run import RunOptions
from carellama.model.adapter_plan import trained_checkpoints
from carellama.stages import greater_is_better

ROWS = 8  # evaluations in a table
NO_METRICS = ("samples", "runtime", "tokens", "samples_per_second", "steps_per_second", "skipped", "empty", "cut",
              "new_tokens", "model_preparation_time")  # fmt: skip
MAIN = ("score", "reward", "loss")  # the first of them that a stage has says which evaluation is best
SHOWN = ("loss", "perplexity", "accuracy", "margin", "score", "reward", "kl")  # columns of a table, if measured
FILES = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "eval_results.json",
         "predict_results.json", "generated_predictions.jsonl", "training_loss.png", "data_report.json",
         "run.json")  # fmt: skip


def measured(results: Mapping[str, object], prefix: str = "eval") -> dict[str, str]:
    """Return the metrics of a result file by name, each as `2.314 [2.201, 2.431]`."""
    found = {}
    for key, value in results.items():
        name = key.removeprefix(f"{prefix}_")
        bound = name.endswith(("_low", "_high"))
        counted = any(name == one or name.endswith(f"_{one}") for one in NO_METRICS)  # of a dataset as well
        if name == key or bound or counted or not isinstance(value, (int, float)):
            continue
        low, high = results.get(f"{key}_low"), results.get(f"{key}_high")
        found[name] = f"{value:.4g}" if low is None or high is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"
    return found


def best_row(rows: Sequence[Mapping[str, float]]) -> int | None:
    """Return the number of the best of several evaluations by their main metric; None: there is one, or none."""
    metric = next((name for name in MAIN if rows and f"eval_{name}" in rows[0]), None)
    if metric is None or len(rows) < 2:
        return None
    values = [float(row[f"eval_{metric}"]) for row in rows]
    return values.index(max(values) if greater_is_better(metric) else min(values))


def evaluation_table(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the evaluations of a run as lines; each row has `step` and what was measured."""
    best = best_row(rows)
    names = [name for name in measured(rows[-1]) if name in SHOWN or name.endswith(tuple(f"_{one}" for one in MAIN))]
    cells = [["step", *names]]
    cells += [[str(row["step"]), *(measured(row).get(name, "") for name in cells[0][1:])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    if best is not None:
        lines[best + 1] += "  best"
    return [f"held-out records: {rows[-1].get('eval_samples', 'unknown')}", lines[0], *lines[1:][-ROWS:]]


class EvaluationTable(TrainerCallback):
    """Prints the evaluations of a training so far, each time that there is a new one."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        """`show` prints a line; a live progress line needs its own way."""
        self.show = show or (lambda line: print(line, file=sys.stderr, flush=True))
        self.rows: list[dict[str, float]] = []
        self.ended = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin the table, with the evaluations before a resumed step."""
        self.rows = [dict(one) for one in state.log_history if any(key.startswith("eval_") for key in one)]
        self.ended = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """End the table."""
        self.ended = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Print the table; an evaluation after the training is part of the summary."""
        if not metrics or self.ended:
            return
        self.rows.append({"step": state.global_step, **metrics})
        if state.is_world_process_zero:
            for line in evaluation_table(self.rows):
                self.show(line)


@dataclass(frozen=True)
class History:
    """What a trainer knows of its training at the end."""

    losses: tuple[tuple[int, float], ...] = ()  # (step, training loss) of each line of the log
    evaluations: tuple[Mapping[str, float], ...] = ()
    steps: int = 0
    kept: int | None = None  # step of the best checkpoint, whose weights were loaded at the end

    @classmethod
    def of(cls, state: TrainerState, *, loads_best: bool) -> History:
        """Read it from transformers' `TrainerState`."""
        log = state.log_history
        losses = tuple((int(one["step"]), float(one["loss"])) for one in log if "loss" in one)
        evaluations = tuple(one for one in log if any(key.startswith("eval_") for key in one))
        kept = state.best_global_step if loads_best and state.best_model_checkpoint else None
        return cls(losses, evaluations, int(state.global_step), kept)


def closing_lines(options: RunOptions, results: Mapping[str, object], history: History | None) -> list[str]:
    """Return the summary of a run: what it did, the numbers that matter, the files, the next command."""
    training = options.training
    rows: list[tuple[str, str]] = []
    if history is not None and training.do_train:
        rows += _learned(history)
    if names := measured(results):
        samples = results.get("eval_samples")
        rows += [(f"held-out {name}" if training.do_train else name, value) for name, value in names.items()]
        rows.append(("records evaluated", f"{samples:,}" if samples is not None else "unknown"))
    if "predict_samples" in results:
        rows += list(measured(results, "predict").items())
        counts = {name: results.get(f"predict_{name}", 0) for name in ("cut", "empty", "skipped")}
        told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        rows.append(("answers", f"{results['predict_samples']:,}{f' ({told})' if told else ''}"))
    output = Path(training.output_dir)
    rows.append(("files", f"{output}: {', '.join(name for name in FILES if (output / name).is_file())}"))
    width = max(len(name) for name, _ in rows)
    commands = next_commands(options)
    return [_headline(options, results, history), *(f"  {name:<{width}}  {value}" for name, value in rows),
            *(f"{'next:' if not number else '  or:'} {line}" for number, line in enumerate(commands))]  # fmt: skip


def _headline(options: RunOptions, results: Mapping[str, object], history: History | None) -> str:
    training, finetuning = options.training, options.finetuning
    name = Path(options.model.model_name_or_path).name
    base = f"{name} with {options.model.checkpoint_dir}" if options.model.checkpoint_dir else name
    if not training.do_train:
        done = " and ".join(
            verb for verb, did in (("evaluated", training.do_eval), ("predicted", training.do_predict)) if did
        )
        return f"{done}: {base} on {options.data.evaluated_on}"
    seconds = int(cast("float", results.get("train_runtime", 0)))
    steps = history.steps if history else 0
    return (
        f"trained: {finetuning.stage} on {options.data.dataset}, {base}, {finetuning.finetuning_type}, "
        f"{steps} step{'s' if steps != 1 else ''} in {seconds // 60}:{seconds % 60:02}"
    )


def _learned(history: History) -> list[tuple[str, str]]:
    """The losses before and after, and which evaluation was best."""
    rows = []
    if history.losses:
        (first, before), (last, after) = history.losses[0], history.losses[-1]
        change = f"{before:.4g} at step {first}, {after:.4g} at step {last}" if last != first else f"{after:.4g}"
        rows.append(("training loss", change))
    if history.kept is not None:
        rows.append(("best step", f"{history.kept}: its weights were loaded and saved (--load_best_model_at_end)"))
        return rows
    best = best_row(history.evaluations)
    if best is not None and (step := history.evaluations[best]["step"]) != history.steps:
        rows.append(("best step", f"{step}; saved are the weights of step {history.steps} (--load_best_model_at_end)"))
    return rows


def model_words(options: RunOptions, checkpoints: Sequence[str]) -> list[str]:
    """Return the options that name the model again, as words of a command line. Tokens are left out."""
    model = options.model
    words = ["--model_name_or_path", model.model_name_or_path]
    if checkpoints:
        words += ["--checkpoint_dir", ",".join(checkpoints)]
    if model.model_revision != "main":
        words += ["--model_revision", model.model_revision]
    if model.cache_dir:
        words += ["--cache_dir", model.cache_dir]
    if model.rope_scaling:
        words += ["--rope_scaling", model.rope_scaling, "--rope_factor", str(model.rope_factor)]
    for name in ("trust_remote_code", "allow_pickle", "accept_licence"):
        if getattr(model, name):
            words += [f"--{name}", "true"]
    return words


def next_commands(options: RunOptions) -> list[str]:
    """Return the commands that usually follow, to paste."""
    stage, output = options.stage, Path(options.training.output_dir)
    words = model_words(options, trained_checkpoints(options))
    chat = ["chat", *words]
    export = ["export", *words, "--output_dir", f"{output}_export"]
    if not options.training.do_train:
        commands = [export] if stage.model_kind == "reward" else [chat]
    elif not stage.can_chat:
        commands = [export]
    else:
        commands = [chat, export]
    return [shlex.join(["carellama", *command]) for command in commands]


def print_summary(options: RunOptions, results: Mapping[str, object], history: History | None) -> None:
    """Print the summary of a run to stdout."""
    print("\n".join(closing_lines(options, results, history)), flush=True)
