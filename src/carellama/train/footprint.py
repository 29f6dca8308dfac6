"""The memory of a training, found by going through one step without numbers.

    with imagined() as tracker:
        model = blank(config, ...)
        found = step(...)

The model is built from its configuration with tensors that have shapes and types but no values (torch's
`FakeTensorMode`), and the adapters, the loss, autograd, gradient checkpointing and the optimiser of the run go over
them. Whatever they allocate is counted until it is freed, so that nothing is assumed about an architecture. What
kernels need inside themselves is not seen, nor what an allocator keeps: `carellama.train.fit` adds that.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from carellama.model.load import SCORE
from carellama.train.loss import ChunkedLoss, LogProbs

PARTS = ("weights", "reference", "adapters", "gradients", "optimiser", "activations", "logits", "answering")


class Tracker(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, by part, and remembers the moment with the most.

    `part`: what tensors that come into being now belong to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = "weights"
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._total = self._most = 0
        self._owner: dict[int, list[Any]] = {}  # of each storage: part, bytes, weak reference

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it, and count what came out."""
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self.hold(one)
        return made

    def hold(self, tensor: torch.Tensor, part: str | None = None) -> None:
        """Count a tensor; with `part`, one that is counted already goes there."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._owner:
            if part and (entry := self._owner[key])[0] != part:
                self.live[entry[0]] -= entry[1]
                self.live[part] += entry[1]
                entry[0] = part
            return
        size = storage.nbytes()
        self._owner[key] = [part or self.part, size, weakref.ref(storage, lambda _: self._free(key))]
        self._add(part or self.part, size)

    def _add(self, part: str, size: int) -> None:
        self.live[part] += size
        self._total += size
        if self._total > self._most:
            self._most, self.peak = self._total, Counter(self.live)

    def _free(self, key: int) -> None:
        part, size, _ = self._owner.pop(key)
        self.live[part] -= size
        self._total -= size

    def reset(self) -> None:
        """Forget the moment with the most so far."""
        self._most, self.peak = self._total, Counter(self.live)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Within this, new tensors belong to `part`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before


def hollow(model: torch.nn.Module, mode: FakeTensorMode, device: str) -> None:
    """Give a model of the meta device tensors that say they are on `device`, in place; shared ones stay shared."""
    made: dict[int, torch.Tensor] = {}

    def of(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            fake = mode.fake_tensor_converter.from_meta_and_device(
                mode, tensor.detach().to("meta"), torch.device(device)
            )
            made[id(tensor)] = (
                torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake
            )
        return made[id(tensor)]

    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = of(tensor)  # type: ignore[assignment]


@dataclass(frozen=True)
class Batch:
    """What decides over the memory of a batch: the tokens of its records, and how many positions are learned."""

    lengths: tuple[int, ...]
    targets: int
    padded: bool = False

    @property
    def tokens(self) -> int:
        """Positions that are computed."""
        return max(self.lengths) * len(self.lengths) if self.padded else sum(self.lengths)


@dataclass(frozen=True)
class Manner:
    """How a step is made: what of a run's options decides over its memory."""

    device: str = "cpu"
    compute: torch.dtype | None = None  # of mixed precision
    checkpointing: dict[str, Any] | None = None  # None: none; else its settings
    micro_batches: int = 1  # that gradients are summed over
    objective: str = "tokens"  # tokens, answers (log-probabilities of each), scores, completions (all logits)
    reference: bool = False  # compared with the model as it was
    copied: bool = False  # which is a copy of its own
    chunked: bool = True  # the head is applied in chunks
    optimiser: Any = None  # (class, settings)


def measured(model: Any, batch: Batch, how: Manner) -> dict[str, int]:
    """Go through one step of training of a meta model, which is used up, and return the bytes by part at the peak.

    The step is one in the midst of a training: the state of the optimiser is there already.
    """
    tracker = Tracker()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    hollow(model, mode, how.device)
    trained = [one for one in model.parameters() if one.requires_grad]
    adapted = hasattr(model, "peft_config")
    for one in [*model.parameters(), *model.buffers()]:
        tracker.hold(one, "adapters" if adapted and one.requires_grad else "weights")
    model.train()
    if how.checkpointing is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how.checkpointing or None)
    for one in trained:
        one.register_post_accumulate_grad_hook(lambda it: tracker.hold(it.grad, "gradients"))
    with mode, tracker:
        if how.copied:
            with tracker.of("reference"):
                copies = [torch.empty_like(one) for one in model.parameters()]
        optimiser = _optimiser(trained, how)
        with tracker.of("gradients"):
            for one in trained:
                one.grad = torch.empty_like(one)
        _update(optimiser, tracker)
        with tracker.of("activations"):
            for _ in range(min(how.micro_batches, 2)):
                _micro_batch(model, batch, how, tracker)
        _update(optimiser, tracker)
        del optimiser
        if how.copied:
            del copies
    return {part: tracker.peak[part] for part in PARTS if tracker.peak[part]}


def _optimiser(trained: list[Any], how: Manner) -> Any:
    kind, settings = how.optimiser or (torch.optim.AdamW, {"lr": 1e-4, "fused": True})
    return kind(trained, **settings)


def _update(optimiser: Any, tracker: Tracker) -> None:
    """Step, and drop the gradients; clipping them needs nothing."""
    with tracker.of("optimiser"):
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _micro_batch(model: Any, batch: Batch, how: Manner, tracker: Tracker) -> None:
    """Forward and backward."""
    with _mixed(how):
        loss = _loss(model, batch, how, tracker)
        if how.reference:
            with torch.no_grad(), _reference(model):
                other = _loss(model, batch, how, tracker)
            loss = loss - other
    loss.backward()


def _mixed(how: Manner) -> Any:
    """Mixed precision, as accelerate switches it on."""
    return torch.autocast(how.device, dtype=how.compute) if how.compute else nullcontext()


def _reference(model: Any) -> Any:
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def _loss(model: Any, batch: Batch, how: Manner, tracker: Tracker) -> torch.Tensor:
    """A scalar of the shape of the stage's loss."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.base_model(**_inputs(batch, how), use_cache=False).last_hidden_state
    hidden = hidden.reshape(-1, hidden.shape[-1])
    with tracker.of("logits"):
        if how.objective == "scores":
            scores: torch.Tensor = base.get_submodule(SCORE)(hidden)
            return scores.float().sum()
        targets = torch.zeros(batch.targets, dtype=torch.long, device=how.device)
        head, chosen = base.get_output_embeddings(), hidden[targets]
        if how.objective == "completions":
            logits = head(chosen) / 1.0
            return torch.log_softmax(logits, -1).gather(1, targets[:, None]).sum()
        if not how.chunked:
            return F.cross_entropy(head(chosen).float(), targets, reduction="sum")
        function = ChunkedLoss if how.objective == "tokens" else LogProbs
        dtype = torch.bfloat16 if how.compute == torch.bfloat16 else head.weight.dtype
        total: torch.Tensor = function.apply(chosen.to(dtype), head.weight.to(dtype), targets)
        return total.sum()


class _Borders:
    """Where the records of a row begin: the one input that attention reads the values of."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.values = [0, *itertools.accumulate(lengths)]

    def tolist(self) -> list[int]:
        return self.values


def _inputs(batch: Batch, how: Manner) -> dict[str, Any]:
    longest, count = max(batch.lengths), len(batch.lengths)
    lines, width = (count, longest) if batch.padded else (1, sum(batch.lengths))
    ids = torch.zeros(lines, width, dtype=torch.long, device=how.device)
    if batch.padded:
        mask = torch.zeros(count, 1, longest, longest, dtype=torch.bool, device=how.device)
        return {"input_ids": ids, "attention_mask": mask}
    borders = _Borders(batch.lengths)
    return {
        "input_ids": ids, "position_ids": torch.zeros_like(ids), "cu_seq_lens_q": borders, "cu_seq_lens_k": borders,
        "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip
