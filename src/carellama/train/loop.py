"""A training from its first step to its last, or to a stop: what is the same for every stage.

metrics = run(config, trainer, checkpoint)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.files import disk_full_message, is_disk_full, write_json
from carellama.train.callbacks import AskedStepsCallback, SignalStopCallback, stop_on_signals

if TYPE_CHECKING:
    from carellama.train.session import StageTrainer

log = logging.getLogger(__name__)


class TrainingStopped(Exception):
    """The training ended after `step`, by the person or, with a `failure`, by the data; `checkpoint` is what it saved.

    Without a checkpoint no step was finished.
    """

    def __init__(self, step: int, checkpoint: Path | None, failure: str | None = None) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.checkpoint, self.failure = step, checkpoint, failure


def run_training(options: RunOptions, trainer: StageTrainer, resume_from: str | None) -> dict[str, float]:
    """Train, save the model into the output folder and return the metrics.

    Raises `TrainingStopped` after Ctrl-C, and when the data turns out to be unusable while it is read, and `UserError`
    for a full disk.
    """
    try:
        with _silence_disk_full_threads():
            return _train_with_signals(options, trainer, resume_from)
    except Exception as error:
        if not is_disk_full(error):
            raise
        checkpoint = trainer.checkpoint or (Path(resume_from) if resume_from else None)
        line = disk_full_message(error, Path(options.training.output_dir))
        raise UserError(
            f"{line}; stopped at step {trainer.state.global_step}: {resume_hint(options, checkpoint)}"
        ) from error


@contextmanager
def _silence_disk_full_threads() -> Iterator[None]:
    """Print no traceback of a thread for which the disk is full: TensorBoard's raises it again where it was called."""
    hook = threading.excepthook

    def ours(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is None or not is_disk_full(failed.exc_value):
            hook(failed)

    threading.excepthook = ours
    try:
        yield
    finally:
        threading.excepthook = hook


def resume_hint(options: RunOptions, checkpoint: Path | None) -> str:
    """Return a one-line hint that tells how to resume."""
    if checkpoint is None:
        return "there is no checkpoint yet, so the same command starts from the beginning"
    without = " (without --overwrite_output_dir)" if options.own.overwrite_output_dir else ""
    return f"the same command{without} goes on from {checkpoint}"


def _train_with_signals(options: RunOptions, trainer: StageTrainer, resume_from: str | None) -> dict[str, float]:
    """What `run_training` does, with the errors of the libraries."""
    output = Path(options.training.output_dir)
    stopped = threading.Event()
    trainer.add_callback(AskedStepsCallback())
    trainer.add_callback(SignalStopCallback(stopped, trainer.accelerator))
    try:
        with stop_on_signals(stopped, log.warning):
            result = trainer.train(resume_from_checkpoint=resume_from)
    finally:
        if progress := getattr(trainer, "progress", None):
            progress.close()
    step = trainer.state.global_step
    if trainer.failure or (stopped.is_set() and step < trainer.state.max_steps):
        raise TrainingStopped(step, trainer.checkpoint or (Path(resume_from) if resume_from else None), trainer.failure)
    trainer.save_learned()
    trainer.save_state()
    metrics: dict[str, float] = dict(result.metrics)
    if trainer.is_world_process_zero():
        write_json(output / "train_results.json", metrics)
    return metrics
