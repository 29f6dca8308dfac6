"""A row of the table: what a reader found in a written form, against what the trained model gave.

row = compare(trained, reading, folder, form="q4_K_M", file="model.q4_K_M.gguf")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.errors import UserError
from carellama.export.parity.table import NOTICEABLE, ParityRow, SafetyChange
from carellama.export.parity.trained import Trained
from carellama.records import JSONObject

if TYPE_CHECKING:
    import torch

ROWS_AT_ONCE = 64  # tokens whose whole vocabulary is compared together, in float64
QUANTILE = 0.999


def compare(
    trained: Trained,
    reading: JSONObject,
    folder: Path,
    *,
    form: str,
    file: str,
    tensor_types: Mapping[str, int] | None = None,
) -> ParityRow:
    """Return the figures of a form. `folder` has the logits that its reader wrote. Raises `UserError`: no numbers."""
    import torch

    largest, divergences, same, losses = 0.0, list[torch.Tensor](), 0, list[torch.Tensor]()
    for number, ids in enumerate(trained.windows):
        name = f"window-{number}.npy"
        expected, given = _logits(trained.scratch / name), _logits(folder / name)
        columns = min(expected.shape[1], given.shape[1])  # some forms have rows for no token
        for first in range(0, len(ids), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            before, after = expected[rows, :columns].double(), given[rows, :columns].double()
            if not after.isfinite().all():
                raise UserError(f"{form} ({file}): its logits are not numbers; nothing was written")
            largest = max(largest, float((before - after).abs().max()))
            if number:  # the first is the answer, which is no held-out text
                old, new = before.log_softmax(-1), after.log_softmax(-1)
                divergences.append((old.exp() * (old - new)).sum(-1).clamp_min(0))
                same += int((before.argmax(-1) == after.argmax(-1)).sum())
                losses.append(_losses(new, ids, first))
    divergence, loss = torch.cat(divergences), torch.cat(losses)
    return ParityRow(
        form=form,
        reader=reading["reader"],
        file=file,
        dtype=reading["dtype"],
        ids_equal=[*trained.text_ids] == reading["text_ids"] and [*trained.prompt_ids] == reading["prompt_ids"],
        end_tokens_equal={*trained.ends} <= {*reading["ends"]},
        max_logit_difference=largest,
        greedy_equal=_same_beginning(trained.greedy, reading["greedy"]),
        kl_mean=float(divergence.mean()),
        kl_999=float(divergence.quantile(QUANTILE)),
        top1_agreement=same / len(divergence),
        perplexity=float(loss.mean().exp()),
        tokens=len(divergence),
        safety=_safety(trained, reading["answers"]),
        tensor_types=dict(tensor_types or {}),
        kl_median=float(divergence.median()),
        kl_noticeable=int((divergence > NOTICEABLE).sum()),
    )


def perplexity(trained: Trained) -> float:
    """Return the perplexity of the trained model on the held-out tokens."""
    import torch

    losses = []
    for number, ids in enumerate(trained.windows[1:], start=1):
        logits = _logits(trained.scratch / f"window-{number}.npy")
        losses += [
            _losses(logits[first : first + ROWS_AT_ONCE].double().log_softmax(-1), ids, first)
            for first in range(0, len(ids), ROWS_AT_ONCE)
        ]
    return float(torch.cat(losses).mean().exp())


def _logits(file: Path) -> torch.Tensor:
    """The logits (T, V) of a window, read where they are asked for."""
    import numpy as np
    import torch

    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _losses(scores: torch.Tensor, ids: Sequence[int], first: int) -> torch.Tensor:
    """The negative log-likelihoods of the tokens behind those at `first` and on."""
    import torch

    following = torch.tensor(ids[first + 1 : first + 1 + len(scores)])
    return -scores[: len(following)].gather(1, following[:, None])[:, 0]


def _same_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def _safety(trained: Trained, answers: Sequence[str]) -> SafetyChange | None:
    """How urgent the answers are before and after, as `carellama safety eval --by model` reads them."""
    from carellama.evaluate.triage import Verdicts
    from carellama.safety.answers.urgency import urgency_of

    if not trained.cases:
        return None
    before, after = (
        Verdicts("model", trained.cases, [urgency_of(text) for text in texts]) for texts in (trained.answers, answers)
    )
    return SafetyChange(
        cases=len(trained.cases),
        changed=sum(one != other for one, other in zip(before.levels, after.levels, strict=True)),
        emergencies=before.misses()[1],
        missed_before=before.misses()[0],
        missed_after=after.misses()[0],
        false_alarms_before=before.false_alarms()[0],
        false_alarms_after=after.false_alarms()[0],
    )
