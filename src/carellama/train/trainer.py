"""transformers' `Trainer` for padding-free rows: its loop, checkpoints and flags, our loss.

What differs from `Trainer`:
1. the loss is the sum over supervised tokens divided by their number in the whole step, over all accumulated batches
   and all processes, so that it does not depend on how records are batched;
2. evaluation is the token-weighted mean over the whole set, not the mean of batch means;
3. a checkpoint appears under its name only when it is complete, and Ctrl-C or SIGTERM makes one before stopping;
   so does data that turns out to be unusable while it is read, see `failure`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from carellama.data.stream import FailingStream, Failure, TokenStream, collate_or_fail
from carellama.errors import UserError
from carellama.train.loss import head_is_plain, record_losses, row_loss

STAGING = ".saving"  # a checkpoint is written in here, then moved out


class RowTrainer(Trainer):
    """A `Trainer` over packed rows (or padded batches) of `carellama.data.collate`.

    After `train`, `failure` says which data ended it early, in this process or another (None: it ran to its end, or
    was stopped by a signal), and `checkpoint` is the last one that was written.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # compute_loss below divides by the step's tokens itself
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self._chunked = not sharded and head_is_plain(self.model)
        self._saving = False
        self.failure: str | None = None
        self.checkpoint: Path | None = None
        self._head_dtype = torch.bfloat16 if self.args.bf16 else None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the batch's share of the step's mean loss."""
        total, count = row_loss(model, inputs, chunked=self._chunked, dtype=self._head_dtype)
        loss = total / (num_items_in_batch if num_items_in_batch is not None else count.clamp(min=1))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the gradients are averaged over the processes
        return (loss, None) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader:
        """The trainer's loader; of a stream, which divides itself among the processes, a plain one."""
        data = self.train_dataset
        if not isinstance(data, TokenStream):
            loader: DataLoader = super().get_train_dataloader()
            return loader
        workers = self.args.dataloader_num_workers
        return DataLoader(
            FailingStream(data),
            batch_size=self._train_batch_size,
            collate_fn=partial(collate_or_fail, self.data_collator),
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """Return the batches of a step and the number of supervised tokens in them.

        When the data fails there are none, and the training ends as after Ctrl-C, with a checkpoint of what was
        learned since the last one.
        """
        batches: list[Any] = []
        failure = None
        try:
            for batch in itertools.islice(epoch_iterator, num_batches):
                if isinstance(batch, Failure):
                    raise UserError(batch.message)
                batches.append(batch)
        except UserError as error:
            failure = str(error)
        self.failure = self._failure_of_any(failure)
        if self.failure is None:
            return batches, self._get_num_items_in_batch(batches, device)
        step = self.state.global_step
        saved = self.checkpoint is not None and self.checkpoint.name == f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if step > self._initial_global_step and not saved:
            self._save_checkpoint(self.model_wrapped, None)
        self.control.should_training_stop = True
        return [], None

    def _failure_of_any(self, mine: str | None) -> str | None:
        """Return the first failure of all processes, or None."""
        if not any_process(self.accelerator, mine is not None):
            return None
        failures: list[str | None] = gather_object([mine])
        return next(failure for failure in failures if failure is not None)

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return loss per token and perplexity over the whole set, with n records and a 95% bootstrap interval."""
        started = time.monotonic()
        batches = self.get_eval_dataloader(eval_dataset)
        if not self.accelerator._models:  # evaluation without training before it
            self.model_wrapped = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        model = self.model_wrapped
        model.eval()
        sums = []
        for inputs in batches:
            batch = self._prepare_inputs(inputs)
            sums.append(record_losses(model, batch, chunked=self._chunked, dtype=self._head_dtype))
            self.control: Any = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        records = torch.cat(gather_object(sums)).numpy()  # (records, 2) of all processes
        loss, low, high = mean_with_interval(records)
        named = {
            "loss": loss,
            "loss_low": low,
            "loss_high": high,
            "perplexity": math.exp(min(loss, 700)),
            "perplexity_low": math.exp(min(low, 700)),
            "perplexity_high": math.exp(min(high, 700)),
            "samples": len(records),
            "tokens": int(records[:, 1].sum()),
            "runtime": round(time.monotonic() - started, 4),
        }
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in named.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_output_dir(self, trial: Any) -> str:
        """Where `Trainer` puts a checkpoint: the staging folder while one is being written."""
        folder: str = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint in a staging folder, then move it to its place in one step."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        home = Path(self._get_output_dir(trial))
        if self.args.should_save:
            shutil.rmtree(home / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        self.checkpoint = home / name
        if not self.args.should_save:
            return
        made = home / STAGING / name
        if str(STAGING) in (self.state.best_model_checkpoint or ""):
            self.state.best_model_checkpoint = str(home / name)
            self.state.save_to_json(str(made / "trainer_state.json"))
        shutil.rmtree(home / name, ignore_errors=True)
        made.rename(home / name)
        shutil.rmtree(home / STAGING, ignore_errors=True)
        rotate_checkpoints(str(home), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)

    def _finalize_training(self, *args: Any) -> Any:
        """End as `Trainer` does; one that was stopped keeps its last checkpoint, which need not be the best one."""
        if self.state.global_step < self.state.max_steps:
            self.state.best_model_checkpoint = None  # the checkpoint has it
        return super()._finalize_training(*args)


def any_process(accelerator: Accelerator, mine: bool) -> bool:
    """Whether it is so in any process; all must ask at the same point.

    They end a training at the same step for that: to save takes all of them, and one would wait for ever for another
    that saves, or has left, while it goes on.
    """
    if mine:
        accelerator.set_trigger()
    found: bool = accelerator.check_trigger()
    return found


def mean_with_interval(records: np.ndarray, resamples: int = 1000) -> tuple[float, float, float]:
    """Return (mean loss per token, low, high) of (records, 2) sums and counts, resampling whole records."""
    draw = np.random.default_rng(0)
    drawn = np.array([records[draw.integers(0, len(records), len(records))].sum(axis=0) for _ in range(resamples)])
    low, high = np.percentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), [2.5, 97.5])
    total, tokens = records.sum(axis=0)
    return float(total / max(tokens, 1)), float(low), float(high)


class LogCallback(TrainerCallback):
    """Appends what the trainer logs to `trainer_log.jsonl`, one object a line, with the time left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what a killed run logged after the checkpoint that this one goes on from."""
        self.started, self.first_step = time.monotonic(), state.global_step
        if not state.is_world_process_zero:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = (
            [line for line in lines if json.loads(line)["current_steps"] <= state.global_step]
            if state.global_step
            else []
        )
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the last step whatever --logging_steps says, so that a short run has a loss to show."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class StopCallback(TrainerCallback):
    """Ends the training after the step in which a signal came to any process, with a checkpoint."""

    def __init__(self, stopped: threading.Event, accelerator: Accelerator) -> None:
        self.stopped, self.accelerator = stopped, accelerator

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the trainer to save and stop."""
        if any_process(self.accelerator, self.stopped.is_set()) and state.global_step < state.max_steps:
            self.stopped.set()
            control.should_save = True
            control.should_training_stop = True


@contextlib.contextmanager
def signals_stop(stopped: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Within this, the first Ctrl-C or SIGTERM sets `stopped`; a second Ctrl-C interrupts at once."""
    own = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            return  # a worker of the data loader: it ends with this process
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        say("stopping after this step, with a checkpoint; press Ctrl-C again to stop without one")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
