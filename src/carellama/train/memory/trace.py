"""The memory of a training, found by going through one step of a few of its layers without numbers.

    model = meta_model(...)                # torch's meta device
    stack = sample_layers(model)
    model = apply_adapters_meta(model, plan)
    print(trace_step(model, stack, batch, step))

Layers that are alike need the same, so that one or two of each kind are gone through; what the others need is added.
Tensors have shapes and types but no values (torch's `FakeTensorMode`), and the adapters, the loss, autograd, gradient
checkpointing and the optimiser of the run go over them. Whatever they allocate is counted until it is freed, so that
nothing is assumed about an architecture. What kernels need inside themselves is not seen.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from carellama.model.load import SCORE_HEAD
from carellama.model.lora import AnyModel, base_of
from carellama.train.chunked_loss import ChunkedCrossEntropy, ChunkedLogProbs

if TYPE_CHECKING:
    from peft import PeftModel

TRANSIENT_PARTS = ("activations", "casts", "logits")  # what comes and goes within a step
SAMPLED_RECORDS = 4  # records of a batch that are gone through; activations grow with the number of tokens
# the C library gives larger pieces back to the system at once (glibc: DEFAULT_MMAP_THRESHOLD_MAX)
HEAP_LIMIT_BYTES = 32 << 20


@dataclass
class _Storage:
    """What a live storage is counted as; the reference takes it out when it is freed."""

    part: str
    size: int  # bytes
    reference: weakref.ref[torch.UntypedStorage]


class AllocationTracker(TorchDispatchMode):
    """Counts the bytes of all live tensors by part, and remembers the moment with the most of `TRANSIENT_PARTS`.

    `part`: what tensors that come into being now belong to; copies of `parameters` in another precision are "casts".
    `heaped`: of all activations that were ever made, those that lie in the C library's heap when they are `scale` times
    as large.
    """

    def __init__(self, parameters: Sequence[torch.Tensor] = (), scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.part = "weights"
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.heaped = 0
        self._most = 0
        self._owner: dict[int, _Storage] = {}
        for one in parameters:
            self.hold(one)
        self._parameters = set(self._owner)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Do it, and count what came out."""
        made = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._parameters
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self.hold(one, new="casts" if cast else self.part)
        return made

    def hold(self, tensor: torch.Tensor, part: str | None = None, new: str | None = None) -> None:
        """Count a tensor, as `new` if it is; with `part`, one that is counted already goes there."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._owner:
            if part:
                entry = self._owner[key]
                self._add(entry.part, -entry.size)
                self._add(part, entry.size)
                entry.part = part
            return
        size, part = storage.nbytes(), part or new or self.part
        self._owner[key] = _Storage(part, size, weakref.ref(storage, lambda _: self._free(key)))
        self._add(part, size)
        if part == "activations" and size * self.scale < HEAP_LIMIT_BYTES:
            self.heaped += size

    def _add(self, part: str, size: int) -> None:
        self.live[part] += size
        if size > 0 and (total := sum(self.live[name] for name in TRANSIENT_PARTS)) > self._most:
            self._most, self.peak = total, Counter(self.live)

    def _free(self, key: int) -> None:
        storage = self._owner.pop(key)
        self.live[storage.part] -= storage.size

    def restart(self) -> Counter[str]:
        """Return what there was at the moment with the most so far, and forget it."""
        peak, self._most, self.peak = self.peak, 0, Counter(self.live)
        return peak

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Within this, new tensors belong to `part`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before


@dataclass
class LayerSample:
    """The layers that are gone through, and how many more there are of the kind of each."""

    layers: list[torch.nn.Module]
    others: list[int]

    def whole(self, model: torch.nn.Module, size: Callable[[torch.nn.Module], int]) -> int:
        """The size of the whole model, of that of the shortened one and of its layers."""
        return size(model) + sum(count * size(layer) for layer, count in zip(self.layers, self.others, strict=True))


def sample_layers(model: AnyModel) -> LayerSample:
    """Leave the first layer of each kind in a model, in place, and a second of the kind that learns first.

    (The input of the first that learns needs no gradient.) A model without a list of its layers stays whole.
    """
    depth = int(model.config.get_text_config().num_hidden_layers)
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if len(found) != 1 or depth < 2:
        return LayerSample([], [])
    kinds = [_kind(layer) for layer in found[0]]
    learning = next((at for at, layer in enumerate(found[0]) if any(w.requires_grad for w in layer.parameters())), 0)
    chosen = {kinds.index(kind): kinds.count(kind) - 1 for kind in kinds}  # and how many more there are of its kind
    if kinds[learning] in kinds[learning + 1 :]:
        more = chosen[learning]
        chosen |= {learning: 0, kinds.index(kinds[learning], learning + 1): more - 1}
    for index in reversed(range(depth)):
        if index not in chosen:
            del found[0][index]
    return LayerSample(list(found[0]), [chosen[index] for index in sorted(chosen)])


def _kind(layer: torch.nn.Module) -> tuple[object, ...]:
    """What two layers that need the same have in common: types, windows, and weights that are trained or not."""
    parts = (f"{name} {type(one).__name__} {getattr(one, 'sliding_window', '')}" for name, one in layer.named_modules())
    weights = ((name, one.shape, one.requires_grad) for name, one in layer.named_parameters())
    return (*parts, *weights)


def to_fake(model: torch.nn.Module, mode: FakeTensorMode, device: str) -> None:
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
        for table in (module._parameters, module._buffers):  # noqa: SLF001 - the tables themselves are changed
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = of(tensor)  # type: ignore[assignment]


@dataclass(frozen=True)
class BatchShape:
    """What decides over the memory of a batch: the tokens of its records, and how many positions are learned."""

    lengths: tuple[int, ...]
    targets: int
    padded: bool = False
    others: tuple[int, ...] = ()  # kto: tokens of the prompts with the answers to other prompts

    @property
    def tokens(self) -> int:
        """Positions that are computed."""
        return max(self.lengths) * len(self.lengths) if self.padded else sum(self.lengths)

    def sample(self, count: int) -> BatchShape:
        """At most so many of its records, short and long ones; with all its targets."""
        if len(self.lengths) <= count:
            return self

        def chosen(lengths: tuple[int, ...]) -> tuple[int, ...]:
            ordered = sorted(lengths)
            return tuple(
                ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count if ordered else 0)
            )

        return BatchShape(chosen(self.lengths), self.targets, self.padded, chosen(self.others))


@dataclass(frozen=True)
class StepConfig:
    """How a step is made: what of a run's options decides over its memory."""

    device: str = "cpu"
    compute: torch.dtype | None = None  # of mixed precision
    checkpointing: dict[str, object] | None = None  # None: none; else its settings
    micro_batches: int = 1  # that gradients are summed over
    objective: str = "tokens"  # tokens, answers (log-probabilities of each), scores, completions (all logits)
    reference: bool = False  # compared with the model as it was
    copied: bool = False  # which is a copy of its own
    chunked: bool = True  # the head is applied in chunks
    optimiser: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None  # class, settings


@dataclass(frozen=True)
class StepMemory:
    """Bytes by part at the moment with the most, and of two sums: all that is learned, and all that layers put into the
    heap on their way forwards."""

    parts: dict[str, int]
    learned: int
    heaped: int


def trace_step(model: AnyModel, stack: LayerSample, batch: BatchShape, how: StepConfig) -> StepMemory:
    """Go through one step of training of a meta model, which is used up; the state of the optimiser is there already.

    The moment with the most is in the loss, with all activations, or at the end of the way back, with all gradients.
    """
    found = fixed_bytes(model, stack, how)
    sample = batch.sample(SAMPLED_RECORDS)
    more = batch.tokens / sample.tokens
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    to_fake(model, mode, how.device)
    tracker = AllocationTracker([*model.parameters(), *model.buffers()], more)
    trained = [one for one in model.parameters() if one.requires_grad]
    for one in trained:
        one.register_post_accumulate_grad_hook(lambda it: tracker.hold(it.grad, "gradients"))
    model.train()
    if how.checkpointing is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how.checkpointing or None)
    others = _SkippedLayers(stack, tracker)
    with mode, tracker, tracker.of("activations"):
        _micro_batch(model, sample, how, tracker)
    ends = tracker.restart()
    most = others.most or ends
    with mode, tracker, tracker.of("optimiser"):
        kind, settings = how.optimiser or (torch.optim.AdamW, {"lr": 1e-4, "fused": True})
        optimiser = kind(trained, **settings)  # holds its moments while they are counted
        optimiser.step()
    grown = found["gradients"] / max(sum(one.nbytes for one in trained), 1)
    found["optimiser"] = int(tracker.live["optimiser"] * grown)

    def passing(peak: Counter[str], layers: Counter[str]) -> dict[str, int]:
        scale = {"activations": more, "casts": 1.0, "logits": 1.0}
        return {part: int(scale[part] * (peak[part] + layers[part])) for part in TRANSIENT_PARTS}

    learned = found["gradients"]
    loss, end = passing(most, others.kept), passing(ends, Counter())
    if how.micro_batches == 1 and sum(loss.values()) > sum(end.values()) + found["gradients"]:
        found["gradients"] = 0  # they come as the activations go
    elif how.micro_batches == 1:
        loss = end
    return StepMemory(found | loss, learned, int(more * others.heaped))


def fixed_bytes(model: torch.nn.Module, stack: LayerSample, how: StepConfig) -> dict[str, int]:
    """Bytes of what there is through a whole step, for the whole model; of the optimiser as Adam's two moments."""

    def size(chosen: Callable[[torch.Tensor], bool]) -> int:
        return stack.whole(model, lambda part: sum(one.nbytes for one in part.parameters() if chosen(one)))

    weights, trained = size(lambda one: True), size(lambda one: one.requires_grad)
    adapters = trained if hasattr(model, "peft_config") else 0
    return {
        "weights": weights - adapters, "reference": weights if how.copied else 0, "adapters": adapters,
        "gradients": trained, "optimiser": 2 * trained,
    }  # fmt: skip


class _SkippedLayers:
    """What the layers that are not gone through would have added, told by how the tracker's counts grow in a layer.

    `kept`: what they keep for the way back. `heaped`: what all layers together put into the heap. `most`: at the moment
    with the most before the way back comes to the first layer that learns.
    """

    def __init__(self, stack: LayerSample, tracker: AllocationTracker) -> None:
        self.kept: Counter[str] = Counter()
        self.heaped = 0
        self.most: Counter[str] | None = None
        self.tracker = tracker
        self._begun: tuple[Counter[str], int] = (Counter(), 0)
        self._hooked = False
        for layer, count in zip(stack.layers, stack.others, strict=True):
            layer.register_forward_pre_hook(self._begin)
            layer.register_forward_hook(lambda *given, count=count: self._end(count, given[-1]))

    def _begin(self, *given: object) -> None:
        self._begun = Counter(self.tracker.live), self.tracker.heaped

    def _end(self, count: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        live, heaped = self._begun
        self.heaped += (count + 1) * (self.tracker.heaped - heaped)
        hidden = output[0] if isinstance(output, tuple) else output
        if not hidden.requires_grad:
            return
        for part in TRANSIENT_PARTS:
            self.kept[part] += count * (self.tracker.live[part] - live[part])
        if not self._hooked:
            self._hooked = True
            hidden.register_hook(self._note_most)

    def _note_most(self, _: torch.Tensor) -> None:
        """Keep the most of the time until the gradients reach the last layer."""
        self.most = self.tracker.restart()


def _micro_batch(model: AnyModel, batch: BatchShape, how: StepConfig, tracker: AllocationTracker) -> None:
    """Forward and backward."""
    reference = cast("PeftModel", model).disable_adapter if hasattr(model, "peft_config") else nullcontext
    with torch.autocast(how.device, dtype=how.compute) if how.compute else nullcontext():
        loss = _loss(model, batch, how, tracker)
        if how.reference:
            with torch.no_grad(), reference():
                other = _loss(model, batch, how, tracker)
            loss = loss - other
        if batch.others:
            with torch.no_grad():
                _loss(model, dataclasses.replace(batch, lengths=batch.others), how, tracker)
    loss.backward()


def _loss(model: AnyModel, batch: BatchShape, how: StepConfig, tracker: AllocationTracker) -> torch.Tensor:
    """A scalar of the shape of the stage's loss."""
    base = base_of(model)
    hidden = base.base_model(**_inputs(batch, how), use_cache=False).last_hidden_state
    hidden = hidden.reshape(-1, hidden.shape[-1])
    with tracker.of("logits"):
        if how.objective == "scores":
            scores: torch.Tensor = base.get_submodule(SCORE_HEAD)(hidden)
            return scores.float().sum()
        targets = torch.zeros(batch.targets, dtype=torch.long, device=how.device)
        head, chosen = base.get_output_embeddings(), hidden[targets]
        if how.objective == "completions":
            logits = head(chosen) / 1.0
            return torch.log_softmax(logits, -1).gather(1, targets[:, None]).sum()
        if not how.chunked:
            return F.cross_entropy(head(chosen).float(), targets, reduction="sum")
        function = ChunkedCrossEntropy if how.objective == "tokens" else ChunkedLogProbs
        dtype = torch.bfloat16 if how.compute == torch.bfloat16 else head.weight.dtype
        total: torch.Tensor = function.apply(chosen.to(dtype), head.weight.to(dtype), targets)
        return total.sum()


class _FakeSequenceLengths:
    """Where the records of a row begin: the one input that attention reads the values of."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.values = [0, *itertools.accumulate(lengths)]

    def tolist(self) -> list[int]:
        return self.values


def _inputs(batch: BatchShape, how: StepConfig) -> dict[str, object]:
    longest, count = max(batch.lengths), len(batch.lengths)
    lines, width = (count, longest) if batch.padded else (1, sum(batch.lengths))
    ids = torch.zeros(lines, width, dtype=torch.long, device=how.device)
    if batch.padded:
        mask = torch.zeros(count, 1, longest, longest, dtype=torch.bool, device=how.device)
        return {"input_ids": ids, "attention_mask": mask}
    borders = _FakeSequenceLengths(batch.lengths)
    return {
        "input_ids": ids, "position_ids": torch.zeros_like(ids), "cu_seq_lens_q": borders, "cu_seq_lens_k": borders,
        "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip
