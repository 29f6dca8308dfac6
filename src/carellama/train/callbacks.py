"""What happens beside the steps of a training: its log file, and a stop by Ctrl-C or SIGTERM with a checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from carellama.config.environment import launched
from carellama.files import atomic_write, with_file_name

ECHO = 3.0  # seconds within which a launcher passes a signal on


def any_rank(accelerator: Accelerator, *, mine: bool) -> bool:
    """Whether it is so in any process; all must ask at the same point.

    They end a training at the same step for that: to save takes all of them, and one would wait for ever for another
    that saves, or has left, while it goes on.
    """
    if mine:
        accelerator.set_trigger()
    found: bool = accelerator.check_trigger()
    return found


class JsonLogCallback(TrainerCallback):
    """Appends what the trainer logs to `trainer_log.jsonl`, one object a line, with the time left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Drop what a killed run logged after the checkpoint that this one goes on from."""
        self.started, self.first_step = time.monotonic(), state.global_step
        if not state.is_world_process_zero:
            return
        text = self.path.read_text(encoding="utf-8") if self.path.exists() and state.global_step else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]  # a full disk halves the last
        with atomic_write(self.path) as file:
            file.writelines(line for line in lines if json.loads(line)["current_steps"] <= state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Log the last step whatever --logging_steps says, so that a short run has a loss to show."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Write one line."""
        if not state.is_world_process_zero or not logs:
            return
        elapsed = time.monotonic() - self.started
        done = max(state.global_step - self.first_step, 1)
        left = elapsed / done * max(state.max_steps - state.global_step, 0)
        entry = {
            "current_steps": state.global_step,
            "total_steps": state.max_steps,
            "epoch": state.epoch,
            **logs,
            "elapsed_seconds": round(elapsed, 2),
            "remaining_seconds": round(left, 2),
        }
        with with_file_name(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class AskedStepsCallback(TrainerCallback):
    """Logs, evaluates and saves as often as the options say; of a resumed run the checkpoint says how often it did."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Set the numbers of steps, of which those below 1 are shares of the training."""
        state.compute_steps(args, state.max_steps)


class SignalStopCallback(TrainerCallback):
    """Ends the training after the step in which a signal came to any process, with a checkpoint."""

    def __init__(self, stopped: threading.Event, accelerator: Accelerator) -> None:
        self.stopped, self.accelerator = stopped, accelerator

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ask the trainer to save and stop."""
        if any_rank(self.accelerator, mine=self.stopped.is_set()) and state.global_step < state.max_steps:
            self.stopped.set()
            control.should_save = True
            control.should_training_stop = True


@contextlib.contextmanager
def stop_on_signals(stopped: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Within this, the first Ctrl-C or SIGTERM sets `stopped`; a second Ctrl-C interrupts at once.

    A launcher passes on what its processes were sent as well, by the terminal or by SLURM: that is no second one.
    """
    own, patience, first = os.getpid(), ECHO if launched() else 0.0, 0.0

    def ask(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:
            return  # a worker of the data loader: it ends with this process
        nonlocal first
        if stopped.is_set():
            if number == signal.SIGINT and time.monotonic() - first >= patience:
                raise KeyboardInterrupt
            return
        first = time.monotonic()
        stopped.set()
        say("stopping after this step, with a checkpoint; press Ctrl-C again to stop without one")

    with handled_signals(ask):
        yield


@contextlib.contextmanager
def handled_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within this, Ctrl-C and SIGTERM call the handler."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
