"""Stages `pt` and `sft`: next-token prediction over plain text, or over the answers of conversations.

    loss = - 1/N sum_t log p(y_t | y_<t)  over the N supervised tokens of a step

(Radford et al. 2018, eq. 1; with only the answers supervised: Ouyang et al. 2022, section 3.5.) The two stages differ
in the records they take and in packing, nothing else. LoRA: Hu et al. 2021, arXiv:2106.09685.

It does not decide what data or which model: `carellama.run` does, and calls `run`.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

from carellama.config.run import RunConfig
from carellama.data.collate import collate_padded, collate_row
from carellama.data.prepare import Prepared
from carellama.disk import write_json
from carellama.errors import UserError
from carellama.model.attention import takes_packed_rows
from carellama.train.trainer import LogCallback, RowTrainer, StopCallback, signals_stop

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The training ended after `step`, by the person or, with a `failure`, by the data; `checkpoint` is what it saved.

    Without a checkpoint no step was finished.
    """

    def __init__(self, step: int, checkpoint: Path | None, failure: str | None = None) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.checkpoint, self.failure = step, checkpoint, failure


def make_trainer(config: RunConfig, model: Any, tokenizer: Any, prepared: Prepared) -> RowTrainer:
    """Return the trainer of a stage, its batches laid out as the model's attention takes them."""
    implementation = model.config._attn_implementation
    if takes_packed_rows(implementation):
        collate: Any = collate_row
    else:
        log.info("attention %r can not keep records apart in one row: batches are padded", implementation)
        collate = partial(collate_padded, pad_token_id=tokenizer.pad_token_id)
        if prepared.packed:
            raise UserError(f"--packing needs attention that keeps records apart, not {implementation!r}")
    return RowTrainer(
        model=model,
        args=config.training,
        data_collator=collate,
        train_dataset=prepared.train,
        eval_dataset=prepared.held_out,
        processing_class=tokenizer,
        callbacks=[LogCallback(Path(config.training.output_dir) / "trainer_log.jsonl")],
    )


def run(config: RunConfig, trainer: RowTrainer, resume_from: str | None) -> dict[str, Any]:
    """Train, save the model into the output folder and return the metrics.

    Raises `Stopped` after Ctrl-C, and when the data turns out to be unusable while it is read.
    """
    output = Path(config.training.output_dir)
    stopped = threading.Event()
    trainer.add_callback(StopCallback(stopped, trainer.accelerator))
    with signals_stop(stopped, log.warning):
        result = trainer.train(resume_from_checkpoint=resume_from)
    step = trainer.state.global_step
    if trainer.failure or (stopped.is_set() and step < trainer.state.max_steps):
        raise Stopped(step, trainer.checkpoint or (Path(resume_from) if resume_from else None), trainer.failure)
    trainer.save_model()
    trainer.save_state()
    metrics: dict[str, Any] = dict(result.metrics)
    if trainer.is_world_process_zero():
        write_json(output / "train_results.json", metrics)
    return metrics
