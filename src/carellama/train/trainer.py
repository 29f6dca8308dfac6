"""transformers' `Trainer` for padding-free rows: its loop, checkpoints and flags, our loss.

What differs from `Trainer`:
1. the loss is the sum over supervised tokens divided by their number in the whole step, over all accumulated batches
   and all processes, so that it does not depend on how records are batched;
2. evaluation is the token-weighted mean over the whole set, not the mean of batch means;
3. a batch of many tokens is learned from in parts, so that what a step keeps does not grow with it, see `parts`;
4. a checkpoint appears under its name only when it is complete, and Ctrl-C or SIGTERM makes one before stopping;
   so does data that turns out to be unusable while it is read, see `failure`.
"""

from __future__ import annotations

import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, Trainer

from carellama.config.run import RunOptions
from carellama.data.encoding.collate import collate_row, part_of_row, row_parts
from carellama.data.encoding.prepare import Prepared
from carellama.data.encoding.token_stream import FailingStream, Failure, TokenStream, collate_or_fail
from carellama.errors import UserError
from carellama.model.lora import PISSA_RAW, TRAINED_ADAPTER, AnyModel, base_of, convert_pissa_to_lora
from carellama.model.readers import share_weights
from carellama.model.sharded import gathered
from carellama.records import IGNORED, Tokens
from carellama.train.batch_layout import choose_collator
from carellama.train.checkpoints import AtomicCheckpointMixin, json_log_callback
from carellama.train.chunked_loss import Batch, Collator, has_plain_head
from carellama.train.distributed import engine_of
from carellama.train.divergence_guard import DivergenceGuard, LossTerm
from carellama.train.neftune import neftune_noise
from carellama.train.optimizer import OwnOptimizer
from carellama.train.progress import Progress, ThroughputCounter
from carellama.train.summary import EvaluationTable

if TYPE_CHECKING:
    from carellama.config.run import Training

log = logging.getLogger(__name__)

INTERVAL_SUFFIXES = ("", "_low", "_high")  # of the names of a mean and its interval


class PackedTrainer(AtomicCheckpointMixin, OwnOptimizer, Trainer, ABC):
    """A `Trainer` over packed rows (or padded batches) of `carellama.data.encoding.collate`; each stage is a subclass.

    A stage says what is summed in a step (`batch_loss`), over how many of what (`units`), and what evaluation
    measures of each record (`batch_values`) and tells of all of them (`summary`).

    `passes`: how often a batch goes forwards through a model besides being learned.
    After `train`, `failure` says which data ended it early, in this process or another, and `checkpoint` is the last
    one that was written (`carellama.train.checkpoints`).
    """

    processing_class: PreTrainedTokenizerBase
    args: Training
    data_collator: Collator
    passes = 0.0
    sums = False  # whether what is measured are sums over tokens, which add up for the pieces of a record

    def __init__(
        self,
        options: RunOptions,
        model: AnyModel,
        tokenizer: PreTrainedTokenizerBase,
        prepared: Prepared,
    ) -> None:
        experts = any("expert" in name for name, _ in model.named_modules())  # not all of which every batch goes to
        if isinstance(model, PeftModel) and options.training.ddp_find_unused_parameters is None and not experts:
            # which transformers cannot know of an adapter
            options = options.with_training(ddp_find_unused_parameters=False)
        super().__init__(
            model=model,
            args=options.training,
            data_collator=collate_row,
            train_dataset=prepared.train,
            eval_dataset=prepared.held_out,
            processing_class=tokenizer,
        )
        self.work = ThroughputCounter(self.model, self.passes)
        self.progress = Progress(self.work, options.compute_dtype)
        for shown in (ProgressCallback, PrinterCallback):  # ours says more
            self.remove_callback(shown)
        self.add_callback(self.progress)
        self.add_callback(EvaluationTable(self.progress.show))
        self.add_callback(json_log_callback(options.training.output_dir))
        self.model_accepts_loss_kwargs = True  # compute_loss below divides by the step's units itself
        engine = engine_of(options.training)
        self.sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.sharded != engine.shards:
            raise UserError(f"{engine} was asked for, and accelerate goes on with {self.accelerator.distributed_type}")
        asked = prepared.packed and bool(options.data.packing)
        self.data_collator = choose_collator(model, tokenizer, packing=asked, sharded=self.sharded)
        self.chunked = not self.sharded and has_plain_head(self.model)
        self.head_dtype = torch.bfloat16 if self.args.bf16 else None
        self.noise = options.training.neftune_noise_alpha
        self.neftune_noise_alpha = None  # ours knows where records begin, see carellama.train.neftune
        self.loraplus_lr_ratio = options.finetuning.loraplus_lr_ratio  # see carellama.train.optimizer
        self.eval_parts: dict[str, slice] = prepared.parts  # the examples of each held-out dataset
        self.row_limit = options.row_limit
        self.together = options.stage.loss_unit or 1
        self._guard = DivergenceGuard()
        self._noted: dict[str, list[float]] = {}

    @abstractmethod
    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the losses of a batch and the number of its units."""

    @abstractmethod
    def units(self, batch: Batch) -> torch.Tensor:
        """Over how many the loss is averaged: supervised tokens, pairs, ..."""

    @abstractmethod
    def batch_values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return what is measured of each record (or pair) of a batch, (records, K), without gradients."""

    @abstractmethod
    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Return the metrics of all records, (records, K)."""

    def note(self, values: Mapping[str, float]) -> None:
        """Remember numbers of a training batch; their means stand in the next line of the log."""
        for name, value in values.items():
            self._noted.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means of what was noted since the last time, and the rates."""
        if "loss" in logs:
            means = {name: sum(values) / len(values) for name, values in self._noted.items()}
            logs = logs | means | self.progress.rates()
            self._noted = {}
        super().log(logs, start_time)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - `Trainer`'s signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, None]:
        """Return the batch's share of the step's mean loss."""
        with neftune_noise(model, self.noise, inputs):
            total, count = self.batch_loss(model, inputs)
        loss = total / (num_items_in_batch if num_items_in_batch is not None else count.clamp(min=1))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the gradients are averaged over the processes
        return (loss, None) if return_outputs else loss

    def training_step(
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of a batch. Raises `TrainingDiverged` before the optimizer step."""
        losses = [
            super(PackedTrainer, self).training_step(model, part, num_items_in_batch) for part in self.parts(inputs)
        ]
        loss = torch.stack(losses).sum()
        targets = int((inputs["labels"] != IGNORED).sum()) if "labels" in inputs else 0
        borders, ids = inputs.get("cu_seq_lens_q"), inputs["input_ids"]
        pairs = ids.shape[1] * ids.numel() if borders is None else int(borders.diff().long().square().sum())
        self.work.add(ids.numel(), targets, pairs)
        self.check_loss(float(loss), inputs.get("sources", []), self.loss_terms())
        return loss

    def loss_terms(self) -> list[LossTerm]:
        """Return the parts of the last batch's loss that have causes of their own; none in most stages."""
        return []

    def parts(self, row: Batch) -> list[Batch]:
        """A row in parts of at most --row_tokens, whose losses add up to its own; a padded batch as it is."""
        borders = row.get("cu_seq_lens_q")
        if borders is None or not self.row_limit or int(borders[-1]) <= self.row_limit:
            return [row]
        lengths = borders.diff().tolist()
        return [part_of_row(row, *part) for part in row_parts(lengths, self.row_limit, self.together)]

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor | int | None:
        """Count the units of a step, over all processes."""
        if not batch_samples:
            return None
        count = torch.stack([self.units(batch) for batch in batch_samples]).sum().to(device)
        if self.args.average_tokens_across_devices:
            count = self.accelerator.gather(count).sum()
        return count.clamp(min=1)

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
            collate_fn=partial(collate_or_fail, self.data_collator),  # type: ignore[arg-type]  # theirs is wider
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch | Failure], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Return the batches of a step and the number of supervised tokens in them.

        When the data fails there are none, and the training ends as after Ctrl-C, with a checkpoint of what was
        learned since the last one.
        """
        batches: list[Batch] = []
        failure = None
        try:
            for batch in itertools.islice(epoch_iterator, num_batches):
                if isinstance(batch, Failure):
                    raise UserError(batch.message)
                batches.append(batch)
        except UserError as error:
            failure = str(error)
        self.failure = self.failure_of_any(failure)
        if self.failure is None:
            return batches, self._get_num_items_in_batch(batches, device)
        self.save_what_was_learned()
        self.control.should_training_stop = True
        return [], None

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the stage's metrics over the whole set, with the number of records; of several datasets each too."""
        started = time.monotonic()
        batches = self.get_eval_dataloader(eval_dataset)  # type: ignore[arg-type]  # one set, as all callers give
        self.prepare_evaluation()
        model, values = self.model_wrapped, []
        model.eval()
        for inputs in batches:
            values.append(self.batch_values(model, self._prepare_inputs(inputs)))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        data = cast("Sequence[list[Tokens]]", batches.dataset)  # a list: a stream is only for training
        entries = gather_in_order(gather_object(values), self.accelerator.num_processes, len(data)).numpy()
        check_finite(entries, data)
        # the record that each entry is of: a long one is cut into several
        sources = [data[number][0].source for number in range(len(data))] if self.sums else [""] * len(data)
        named = self._measures(entries, sources)
        for name, where in (self.eval_parts if eval_dataset is None else {}).items():
            of_part = self._measures(entries[where], sources[where])
            named |= {f"{name}_{key}": value for key, value in of_part.items()}
        named["runtime"] = round(time.monotonic() - started, 4)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in named.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measures(self, entries: np.ndarray, sources: Sequence[str]) -> dict[str, float]:
        """The stage's metrics of entries, (entries, K), and their number: of records, where the stage adds them up."""
        values = whole_records(entries, sources) if self.sums else entries
        return {"samples": len(values)} | self.summary(values)

    def save_model(
        self,
        output_dir: str | None = None,
        _internal_call: bool = False,  # noqa: FBT001, FBT002 - `Trainer`'s signature
    ) -> None:
        """Save as `Trainer` does; under FSDP whole weights, whatever its checkpoints hold, and adapters always whole.

        `Trainer` would save none where checkpoints hold shards. Of those all but the weights is saved here.
        """
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        shards_only = self._saving and engine_of(self.args).state != "FULL_STATE_DICT"
        if not shards_only or isinstance(self.model, PeftModel):
            self._save(output_dir, gathered(self.model))
        elif self.args.should_save:
            folder = str(output_dir or self.args.output_dir)
            model = base_of(self.model)
            model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
            model.config.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save as `Trainer` does; of an adapter nothing but the adapter, and one of PiSSA as LoRA of the base."""
        folder = Path(output_dir or self.args.output_dir)
        if not isinstance(self.model, PeftModel):
            super()._save(output_dir, state_dict)
            share_weights(folder, "config.json")
            return
        model = self.model
        save = model.save_pretrained
        # peft would add the whole embedding where tokens were added, and ask the hub about it at each save
        model.save_pretrained = partial(save, save_embedding_layers=False)  # type: ignore[method-assign]
        try:
            super()._save(output_dir, state_dict)
        finally:
            model.save_pretrained = save  # type: ignore[method-assign]
        start = getattr(self.model, "pissa_start", None)
        if start and self.args.should_save:
            convert_pissa_to_lora(folder, start, keep_raw=self._saving)
        share_weights(folder, "adapter_config.json")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Load as `Trainer` does; the matrices of PiSSA as they were trained."""
        raw = Path(resume_from_checkpoint, PISSA_RAW)
        if not raw.is_file():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        set_peft_model_state_dict(self.model if model is None else model, load_file(raw), adapter_name=TRAINED_ADAPTER)

    def _load_best_model(self) -> None:
        """Load as `Trainer` does, see `_load_from_checkpoint`."""
        best = self.state.best_model_checkpoint
        if best and Path(best, PISSA_RAW).is_file():
            self._load_from_checkpoint(best)
        else:
            super()._load_best_model()


def gather_in_order(every: list[torch.Tensor], processes: int, examples: int) -> torch.Tensor:
    """What all processes measured of their batches, one process after the other, in the order of the set, (records, K).

    The batches are dealt out in turn, and the last ones filled up from the first, so that each process has as many:
    what was measured twice stands at the end.
    """
    turns = len(every) // processes
    dealt = [every[at] for turn in range(turns) for at in range(turn, len(every), turns)]
    return torch.cat(dealt)[:examples]


def whole_records(entries: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Add up the neighbouring entries that are of one record: (entries, K) sums -> (records, K).

    They are no samples of their own: an interval over them would be too narrow.
    """
    begins = [at for at, source in enumerate(sources) if not at or source != sources[at - 1]]
    whole: np.ndarray = np.add.reduceat(entries, begins, axis=0) if begins else entries
    return whole


def check_finite(entries: np.ndarray, data: Sequence[object]) -> None:
    """Raise `UserError` where what was measured of a record is no number: no mean of it says anything."""
    bad = np.flatnonzero(~np.isfinite(entries).all(axis=1))
    if len(bad):
        example = data[int(bad[0])]
        first = getattr(example[0], "source", "") if isinstance(example, list) else ""
        raise UserError(
            f"the loss of {len(bad):,} of {len(entries):,} evaluated records is not a number"
            f"{f', from {first} on' if first else ''}: the weights are damaged, or overflow in this precision "
            "(--dtype float32)"
        )


def add_intervals(measured: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of each, and its 95% bootstrap interval under `_low` and `_high`.

    Each is (records,), or (records, 2): sums and how many each is a sum of.
    """
    found: dict[str, float] = {}
    for name, values in measured.items():
        counted = values if values.ndim == 2 else np.column_stack([values, np.ones(len(values))])
        found |= {name + end: number for end, number in zip(INTERVAL_SUFFIXES, bootstrap_ratio(counted), strict=True)}
    return found


def bootstrap_ratio(records: np.ndarray, resamples: int = 1000) -> tuple[float, float, float]:
    """Return (mean, low, high) of (records, 2) sums and counts: a 95% bootstrap interval, resampling whole records."""
    draw = np.random.default_rng(0)
    drawn = np.array([records[draw.integers(0, len(records), len(records))].sum(axis=0) for _ in range(resamples)])
    low, high = np.percentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), [2.5, 97.5])
    total, tokens = records.sum(axis=0)
    return float(total / max(tokens, 1)), float(low), float(high)
