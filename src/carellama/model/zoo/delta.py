"""Weights that were published as a difference: added to their base, tensor by tensor.

    apply_delta(base, delta, Path("huatuogpt-13b"), allow_pickle=False, names=("base", "delta"))

LLaMA could not be given away, so projects of 2023 gave w - w_base (FastChat, fastchat/model/apply_delta.py). Sums are
made in float32 and rounded to the type of the delta; a file at a time is in memory. A delta may have more rows of
tokens than its base: those are the delta's own, as the base had none. Some deltas hold a part of their tensors whole
(HuatuoGPT-13b: its embeddings and its head, by its apply_delta.py): `whole` names them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.errors import UserError
from carellama.files import write_json
from carellama.model.load import check_weights
from carellama.model.zoo.fetch import check_whole, copy_small
from carellama.weights import safetensors_header, weight_files

if TYPE_CHECKING:
    import torch

LARGEST_DIFFERENCE = 0.5  # of the base's norm: fine-tuning moves weights by a few percent
TOKEN_ROWS = tuple(  # the ends of the names of embeddings and output heads
    f"{name}.weight" for name in ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out")
)
RECOMPUTED = "rotary_emb.inv_freq"  # old files keep it, new ones make it


def apply_delta(
    base: Path,
    delta: Path,
    target: Path,
    *,
    allow_pickle: bool,
    names: tuple[str, str],
    whole: tuple[str, ...] = (),
) -> None:
    """Fill the empty folder `target` with the sum of a base and its delta, as safetensors.

    `names` are those of base and delta, for messages; `whole` are parts of the names of tensors that are no
    differences. Raises `UserError` for tensors that one of them lacks or has in
    another size, for a delta that is as large as weights are, and for sums that are no numbers.
    """
    import torch
    from safetensors.torch import save_file

    for folder in (base, delta):
        check_weights(folder, allow_pickle=allow_pickle)
        check_whole(folder)
    files = weight_files(delta, pickles=allow_pickle)
    known = {name: path for path in weight_files(base, pickles=allow_pickle) for name in tensor_names(path)}
    own = [name for path in files for name in tensor_names(path)]
    _compare(set(known), {name for name in own if not any(part in name for part in whole)}, names, whole)
    moved, before_all, total = 0.0, 0.0, 0
    weight_map: dict[str, str] = {}
    for number, path in enumerate(files, 1):
        made: dict[str, torch.Tensor] = {}
        for name, change in read_tensors(path):
            if name.endswith(RECOMPUTED):
                continue
            after = change
            if not any(part in name for part in whole):
                before = _padded(read_tensor(known[name], name), change, name, names)
                after = (before.float() + change.float()).to(change.dtype)
                moved += float(change.float().pow(2).sum())
                before_all += float(before.float().pow(2).sum())
            if not torch.isfinite(after).all():
                raise UserError(f"{names[1]} added to {names[0]} gives no numbers in {name}: one of them is damaged")
            made[name] = after.contiguous()
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file(made, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(made, file)
        total += sum(one.numel() * one.element_size() for one in made.values())
    if moved**0.5 > LARGEST_DIFFERENCE * before_all**0.5:
        raise UserError(
            f"{names[1]} is no difference to {names[0]}: it is {(moved / before_all) ** 0.5:.2f} times as large as the "
            "weights (fine-tuning changes a few percent); the base is another one, or the weights are whole already"
        )
    if len(files) > 1:
        write_json(
            target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    copy_small(delta, target)


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors of a file."""
    if path.suffix == ".safetensors":
        return [name for name in safetensors_header(path)[1] if name != "__metadata__"]
    return list(_unpickled(path))


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor of a file."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor
    return _unpickled(path)[name]


def read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a file, one at a time."""
    for name in tensor_names(path):
        yield name, read_tensor(path, name)


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled file, which are read from the disk when they are used; no code of it runs."""
    import torch

    try:
        found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path.name} is damaged, or holds more than weights; it was not read") from error
    return found


def _compare(base: set[str], delta: set[str], names: tuple[str, str], whole: tuple[str, ...]) -> None:
    for missing, which in ((delta - base, 0), (base - delta, 1)):
        left = [name for name in missing if not name.endswith(RECOMPUTED) and not any(part in name for part in whole)]
        if left := sorted(left):
            raise UserError(
                f"{names[1]} does not belong to {names[0]}: {names[which]} lacks {len(left)} of the tensors "
                f"(the first: {left[0]})"
            )


def _padded(before: torch.Tensor, change: torch.Tensor, name: str, names: tuple[str, str]) -> torch.Tensor:
    """The base's tensor; with rows of zeros where the embedding or the head of the delta has more tokens."""
    import torch

    if before.shape == change.shape:
        return before
    rows = change.dim() == before.dim() == 2 and name.endswith(TOKEN_ROWS)
    more = change.shape[0] - before.shape[0] if rows else -1
    if more < 0 or change.shape[1:] != before.shape[1:]:
        raise UserError(
            f"{names[1]} does not belong to {names[0]}: {name} is {tuple(change.shape)} there and "
            f"{tuple(before.shape)} in the base"
        )
    return torch.cat([before, before.new_zeros(more, before.shape[1])])
