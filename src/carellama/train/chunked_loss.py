"""Next-token loss of a packed row: head and softmax only where there is something to learn, a chunk at a time.

loss = - sum_t log softmax(W h_t)[y_{t+1}] / N over the supervised positions t, N of them in the whole step. A row of
512-token records with short answers has most of its positions masked, and a vocabulary of 50,000 makes the head the
widest product of a small model: neither is computed for masked positions, and never more than `CHUNK_POSITIONS` rows of
logits exist at once (as in Liger, Hsu et al. 2024, arXiv:2410.10989, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from carellama.model.adapters import unwrap
from carellama.records import IGNORED, Tokens

Batch = dict[str, Any]  # tensors by name, and the records that they are of
Collator = Callable[[list[list[Tokens]]], Batch]  # makes a batch of examples

CHUNK_POSITIONS = 256  # positions whose logits are held together


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy of `hidden @ weight.T` against `targets`, with its gradients made on the way forward.

    Each chunk of logits is multiplied out and dropped at once: nothing of vocabulary size is kept for the backward
    pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Take hidden (N, D), weight (V, D), targets (N,); return the sum, float32 scalar."""
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        up_hidden = torch.empty_like(hidden) if wants_hidden else None
        up_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for rows, logs, up in _chunks(hidden, weight, targets, learns=wants_hidden or wants_weight):
            total -= logs.sum()
            if up_hidden is not None:
                torch.mm(up, weight, out=up_hidden[rows])
            if up_weight is not None:
                up_weight += (up.T @ hidden[rows]).float()
        ctx.save_for_backward(up_hidden, up_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Scale the gradients made forward, which are those of the log-probabilities."""
        hidden, weight = ctx.saved_tensors
        scaled_hidden = hidden * -grads[0].to(hidden.dtype) if hidden is not None else None
        scaled_weight = (weight * -grads[0]).to(ctx.weight_dtype) if weight is not None else None
        return scaled_hidden, scaled_weight, None


class ChunkedLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T)[targets] of each position, for losses that weigh positions by their outcome.

    As `ChunkedCrossEntropy`, but the weights of the positions are known only on the way back: what is kept is the
    gradient of each position for itself, (onehot - softmax) W, and a row is scaled when its weight comes. The gradient
    of W needs the logits again.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Take hidden (N, D), weight (V, D), targets (N,); return (N,) float32."""
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        own = torch.empty_like(hidden) if wants_hidden else None
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        for rows, logs, up in _chunks(hidden, weight, targets, learns=wants_hidden):
            found[rows] = logs
            if own is not None:
                torch.mm(up, weight, out=own[rows])
        ctx.save_for_backward(own, *((hidden, weight, targets) if wants_weight else ()))
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Scale each position's own gradient."""
        own, *kept = ctx.saved_tensors
        scaled = own * grads[0][:, None].to(own.dtype) if own is not None else None
        if not kept:
            return scaled, None, None
        hidden, weight, targets = kept
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows, _, up in _chunks(hidden, weight, targets, learns=True):
            up *= grads[0][rows, None]
            grad_weight += (up.T @ hidden[rows]).float()
        return scaled, grad_weight.to(weight.dtype), None


def _chunks(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, learns: bool
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield of each chunk (its rows, log softmax[targets] (n,), onehot - softmax (n, V)), the gradient of the former.

    In float32, the gradient rounded to the weight's precision, and made only where something `learns`. It lies where
    the next chunk's will: on a CPU memory of that size that is allocated again costs about as much as what is computed
    in it.
    """
    size, width = min(CHUNK_POSITIONS, len(targets)), len(weight)
    rounded = weight.new_empty(size, width)
    exact = rounded if weight.dtype == torch.float32 else torch.empty_like(rounded, dtype=torch.float32)
    for start in range(0, len(targets), CHUNK_POSITIONS):
        rows = slice(start, start + CHUNK_POSITIONS)
        target = targets[rows, None]
        up, values = rounded[: len(target)], exact[: len(target)]
        torch.mm(hidden[rows], weight.T, out=up)
        if exact is not rounded:
            values.copy_(up)
        values -= values.amax(-1, keepdim=True)
        logits = values.gather(1, target)
        sums = values.exp_().sum(-1, keepdim=True)
        if learns:
            values /= -sums
            values.scatter_add_(1, target, torch.ones_like(logits))
            if exact is not rounded:
                up.copy_(values)
        yield rows, (logits - sums.log())[:, 0], up


def record_logps(
    model: torch.nn.Module, batch: Batch, *, chunked: bool, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each record's sum of log-probabilities over its supervised positions, and how many these are.

    Both are (records,) float32, in the order of the row; the sums carry gradients where the model does.
    """
    logs, _, record, count = token_logps(model, batch, chunked=chunked, dtype=dtype)
    sums = torch.zeros(count, dtype=torch.float32, device=logs.device).index_add(0, record, logs)
    return sums, torch.bincount(record, minlength=count).float()


def token_logps(
    model: torch.nn.Module, batch: Batch, *, chunked: bool, dtype: torch.dtype | None = None, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Return of each supervised position its log-probability (N,) float32 and the hidden state before it (N, D).

    With them the record that each belongs to, (N,), and the number of records. The positions are in the order of the
    batch, record by record; `temperature` divides the logits, as in sampling.
    """
    inputs, targets, chosen = _split_inputs_and_targets(batch)
    head = _head(model)
    if chunked:
        dtype = dtype or head.weight.dtype
        hidden = _hidden_states(head, model, inputs, chosen)  # (N, D)
        scaled = hidden if temperature == 1 else hidden / temperature
        logs = ChunkedLogProbs.apply(scaled.to(dtype), head.weight.to(dtype), targets[chosen])
    else:
        caught: list[torch.Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = model(**inputs, use_cache=False, logits_to_keep=chosen).logits.view(int(chosen.sum()), -1)
        finally:
            handle.remove()
        hidden = caught[0].view(len(logits), -1)
        logs = -F.cross_entropy(logits.float() / temperature, targets[chosen], reduction="none")
    line, place = chosen.nonzero(as_tuple=True)
    borders = batch.get("cu_seq_lens_q")
    if borders is None:
        return logs, hidden, line, len(chosen)
    return logs, hidden, torch.bucketize(place, borders[1:], right=True), len(borders) - 1


def sum_loss(
    model: torch.nn.Module, batch: Batch, *, chunked: bool, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sum of the losses, number of supervised positions) of one row or padded batch.

    `batch` has input_ids and labels (B, T) and what else the model's forward takes. With `chunked` the head is applied
    here, in chunks of `dtype` (default: the head's); without, by the model itself at the supervised positions (for
    sharded heads and models that do more to their logits than one product).
    """
    inputs, targets, chosen = _split_inputs_and_targets(batch)
    if chunked:
        head = _head(model)
        hidden = _hidden_states(head, model, inputs, chosen)  # (N, D)
        dtype = dtype or head.weight.dtype
        total = ChunkedCrossEntropy.apply(hidden.to(dtype), head.weight.to(dtype), targets[chosen])
    else:
        logits = model(**inputs, use_cache=False, logits_to_keep=chosen).logits.view(int(chosen.sum()), -1)
        total = F.cross_entropy(logits.float(), targets[chosen], reduction="sum")
    return total, chosen.sum()


@torch.no_grad()
def per_record_losses(
    model: torch.nn.Module, batch: Batch, *, chunked: bool, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return (records, 2): each record's sum of losses and its supervised positions, for evaluation."""
    logs, _, record, count = token_logps(model, batch, chunked=chunked, dtype=dtype)
    sums = torch.zeros(count, 2, dtype=torch.float64)
    sums[:, 0].index_add_(0, record.cpu(), -logs.double().cpu())
    sums[:, 1].index_add_(0, record.cpu(), torch.ones(len(record), dtype=torch.float64))
    return sums


def forward_inputs(batch: Batch) -> Batch:
    """What of a batch the model's forward takes."""
    return {name: value for name, value in batch.items() if name not in ("labels", "good", "sources")}


def _split_inputs_and_targets(batch: Batch) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """(what the model reads, what each position has to predict (B, T), where that is supervised (B, T))."""
    inputs = forward_inputs(batch)
    targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    return inputs, targets, targets != IGNORED


def _hidden_states(head: torch.nn.Module, model: torch.nn.Module, inputs: Batch, chosen: torch.Tensor) -> torch.Tensor:
    """Run the model up to its head and return what the head would have got at the chosen positions, (N, D).

    A hook, rather than `output_hidden_states`, because mixed precision makes float32 copies of everything that a
    model returns. The head itself gets no rows, so it costs nothing.
    """
    caught: list[torch.Tensor] = []

    def catch(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        caught.append(args[0])
        return (args[0][:0],)

    handle = head.register_forward_pre_hook(catch)
    try:
        model(**inputs, use_cache=False, logits_to_keep=chosen)
    finally:
        handle.remove()
    return caught[0].view(-1, caught[0].shape[-1])


def _head(model: torch.nn.Module) -> torch.nn.Linear:
    """The output projection behind any wrapper."""
    head: torch.nn.Linear = unwrap(model).get_output_embeddings()
    return head


@torch.no_grad()
def has_plain_head(model: torch.nn.Module) -> bool:
    """Whether the model's logits are its last hidden state times its head's weight, by trying.

    False for soft-capped or scaled logits, a bias, an adapted or sharded head: those go through the model's own head.
    """
    head = unwrap(model).get_output_embeddings()
    if type(head) is not torch.nn.Linear or getattr(head, "bias", None) is not None:
        return False
    ids = torch.tensor([[1, 2, 3, 4]], device=head.weight.device) % head.weight.shape[0]
    training = model.training
    model.eval()
    output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    model.train(training)
    own = F.linear(output.hidden_states[-1].to(head.weight.dtype), head.weight)
    spread = float(own.float().std())
    if not math.isfinite(spread):  # damaged weights, whose loss says so
        return False
    return torch.allclose(own.float(), output.logits.float(), rtol=1e-2, atol=1e-2 * spread)
