"""The optimizer and the schedule of a training: LoRA+, and one line for settings that the libraries refuse.

    class PackedTrainer(AtomicCheckpointMixin, OwnOptimizer, Trainer): ...
    check_optimizer(training)    # before the model is loaded

A class to put before transformers' `Trainer`. Optimizers and schedules themselves are transformers'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_scheduler

from carellama.errors import UserError

if TYPE_CHECKING:
    from transformers import Trainer as Host

    from carellama.model.lora import AnyModel
else:
    Host = object

REFUSALS = (ImportError, ValueError, TypeError, KeyError)  # of transformers and torch, over a person's settings


class OwnOptimizer(Host):
    """Makes the optimizer; with LoRA+ the B matrices of an adapter learn faster (Hayou et al., arXiv:2402.12354)."""

    model: AnyModel
    loraplus_lr_ratio: float | None = None

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer. Raises `UserError` for options that it does not take."""
        with _of_option("--optim", self.args.optim):
            if self.optimizer is None and self.loraplus_lr_ratio and isinstance(self.model, PeftModel):
                from peft.optimizers import create_loraplus_optimizer

                learning = cast("PeftModel", self.model if model is None else model)
                kind, settings = Trainer.get_optimizer_cls_and_kwargs(self.args, cast("PreTrainedModel", learning))
                self.optimizer = create_loraplus_optimizer(
                    learning,
                    kind,
                    loraplus_lr_ratio=self.loraplus_lr_ratio,
                    weight_decay=self.args.weight_decay,
                    **settings,
                )
            return super().create_optimizer(model)


def check_optimizer(training: TrainingArguments) -> None:
    """Raise `UserError` for a schedule that does not take its settings, and for an optimizer that is not installed."""
    with _of_option("--lr_scheduler_type", training.lr_scheduler_type):
        some = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
        get_scheduler(
            training.lr_scheduler_type,
            some,
            0,
            1000,
            scheduler_specific_kwargs=cast("dict[str, object] | None", training.lr_scheduler_kwargs),
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(training)
    except ImportError as error:
        raise _refusal("--optim", training.optim, error) from error
    except Exception:  # noqa: BLE001 - some need the model: they are asked again when it is there
        return


@contextmanager
def _of_option(option: str, value: object) -> Iterator[None]:
    try:
        yield
    except REFUSALS as error:
        raise _refusal(option, value, error) from error


def _refusal(option: str, value: object, error: Exception) -> UserError:
    return UserError(f"{option} {getattr(value, 'value', value)}: {' '.join(str(error).split())}")
