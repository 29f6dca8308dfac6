"""Batches of an epoch and steps of a training, counted before it as the loop counts them.

steps_of_epoch(9, training)      # 3 batches of 4, of which --dataloader_drop_last leaves out one: 2
check_last_batch(9, training)    # says what is left out; raises UserError where that is everything
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from carellama.config.environment import world
from carellama.errors import UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments

log = logging.getLogger(__name__)


def batch_of_processes(training: TrainingArguments) -> int:
    """Examples that all processes read at once."""
    return int(training.per_device_train_batch_size * world()[1])


def steps_of_epoch(examples: int, training: TrainingArguments) -> int:
    """Steps of the optimizer in an epoch of so many examples."""
    batch = batch_of_processes(training)
    batches = examples // batch if training.dataloader_drop_last else math.ceil(examples / batch)
    return max(math.ceil(batches / training.gradient_accumulation_steps), 1)


def check_last_batch(examples: int, training: TrainingArguments) -> None:
    """Say what --dataloader_drop_last leaves out. Raises `UserError` where that is everything."""
    batch = batch_of_processes(training)
    if not training.dataloader_drop_last or not examples % batch:
        return
    if examples < batch:
        raise UserError(
            f"--dataloader_drop_last leaves out a batch that is not full, and all {examples} examples are fewer "
            f"than the {batch} of a batch: leave it out, or lower --per_device_train_batch_size"
        )
    log.warning("--dataloader_drop_last: %d of %d examples are left out of each epoch", examples % batch, examples)
