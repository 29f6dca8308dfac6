"""NEFTune: noise on the embeddings of a training batch (Jain et al., arXiv:2310.05914, section 2).

    with neftune_noise(model, 5.0, batch):
        loss = ...

x + alpha / sqrt(L d) * u, u uniform in (-1, 1), for a record of L tokens with embeddings of d numbers. L is the
record's own length, in a row as in a padded batch (transformers takes the length of the row, which makes the noise of
a row of eight records a third of what the paper adds); padding gets none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from carellama.model.adapters import unwrap

if TYPE_CHECKING:
    from carellama.train.chunked_loss import Batch


@contextmanager
def neftune_noise(model: torch.nn.Module, alpha: float | None, batch: Batch) -> Iterator[None]:
    """Add the noise to what the embedding gives within this, while the model trains; nothing for no `alpha`."""
    if not alpha:
        yield
        return
    scale = alpha / record_lengths(batch).float().sqrt()  # (B, T)

    def add(module: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor | None:
        if not module.training or output.shape[:2] != scale.shape:
            return None
        noise = torch.empty_like(output).uniform_(-1, 1)
        noisy: torch.Tensor = output + noise * (scale / output.shape[-1] ** 0.5).to(output)[..., None]
        return noisy

    handle = unwrap(model).get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def record_lengths(batch: Batch) -> torch.Tensor:
    """Each position's record's length, (B, T); infinite for padding."""
    borders = batch.get("cu_seq_lens_q")
    if borders is not None:
        lengths: torch.Tensor = borders.diff().long()
        return lengths.float().repeat_interleave(lengths)[None]
    mask: torch.Tensor = batch["attention_mask"]
    return torch.where(mask.bool(), mask.sum(-1, keepdim=True).float(), torch.inf)
