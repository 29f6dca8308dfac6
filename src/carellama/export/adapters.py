"""Several adapters put into one model's weights at once, each with a weight.

    merge_weighted(network, [Path("cardiology"), Path("nursing")], AdapterMerge("ties", (0.7, 0.3), density=0.5))

What is combined are the changes of the weights, B·A times the scale of its adapter, so adapters may differ in rank and
layers. linear: their weighted sum. ties: of each change the largest share `density`, then per number the sign with the
larger sum, and the mean of what agrees with it (Yadav et al. 2023, arXiv:2306.01708). dare_linear and dare_ties: a
random share 1 - `density` is dropped, and the rest enlarged by 1 / `density`, first (Yu et al. 2023, arXiv:2311.03099).
The arithmetic is peft's (`peft.utils.merge_utils`): in ties and dare_ties the sign is chosen without the weights, which
multiply what the mean is taken of. peft's `add_weighted_adapter` combines the factors A and B in place of their
product, which is an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from carellama.adapter_json import read_adapter_json
from carellama.errors import UserError
from carellama.export.cards.notes import Note, note

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Kind = Literal["linear", "ties", "dare_linear", "dare_ties"]


@dataclass(frozen=True)
class AdapterMerge:
    """How several adapters become one change of the weights.

    No weights: each counts 1 / their number where changes are summed, and 1 where a mean is taken (ties, dare_ties).
    """

    kind: Kind
    weights: tuple[float, ...] = ()
    density: float = 0.5
    random_seed: int = 0

    def weights_of(self, folders: Sequence[Path]) -> list[float]:
        """Return a weight for each folder. Raises `UserError` for another number of them."""
        if len(folders) < 2:
            raise UserError(
                f"--merge {self.kind} combines several adapters, and --checkpoint_dir names {len(folders)}: name more, "
                "comma separated, or leave --merge out"
            )
        if not self.weights:
            return [1.0 if self.kind.endswith("ties") else 1 / len(folders)] * len(folders)
        if len(self.weights) != len(folders):
            raise UserError(
                f"--merge_weights has {len(self.weights)} numbers for {len(folders)} adapters: give one for each, in "
                "the order of --checkpoint_dir"
            )
        return list(self.weights)

    def described(self, folders: Sequence[Path]) -> Note:
        """Say in a line what was merged how, for the card."""
        shares = ", ".join(
            f"{folder.name} × {weight:g}" for folder, weight in zip(folders, self.weights_of(folders), strict=True)
        )
        found = note("merged", kind=self.kind, shares=shares)
        if self.kind != "linear":
            found += note("density", density=self.density)
        return found + note("seed", seed=self.random_seed) if self.kind.startswith("dare") else found


def parse_weights(text: str | None) -> tuple[float, ...]:
    """Return the numbers of `--merge_weights`. Raises `UserError` for what is none."""
    found = []
    for word in text.split(",") if text else ():
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"--merge_weights: {word.strip()!r} is no number; give numbers like 0.7,0.3")
        found.append(number)
    return tuple(found)


def merge_weighted(
    network: PreTrainedModel, folders: Sequence[Path], merge: AdapterMerge, *, allow_pickle: bool = False
) -> PreTrainedModel:
    """Return the model with the combined change in its weights, each layer summed in float32 and rounded once.

    Raises `UserError` for an adapter that is more than a change of matrices: another kind than LoRA, DoRA, modules or
    tokens that were trained whole.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    from carellama.model.adapters import load_adapter, separate_tied_weights, unload_merged

    weights = torch.tensor(merge.weights_of(folders))
    for folder in folders:
        _check_plain(folder, allow_pickle=allow_pickle)
    adapted: Any = network
    names = [f"part{number}" for number in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        adapted = load_adapter(adapted, folder, name, allow_pickle=allow_pickle)
    separate_tied_weights(adapted)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(merge.random_seed)
        for layer in adapted.modules():
            if isinstance(layer, BaseTunerLayer):
                _change(layer, names, weights, merge)
    return unload_merged(adapted)


def _change(layer: Any, names: Sequence[str], weights: torch.Tensor, merge: AdapterMerge) -> None:
    """Add the combined change of a layer to its weight."""
    import torch
    from peft.utils import merge_utils

    # of experts a parameter is adapted (target_parameters), of other layers the weight
    weight = layer.get_param() if hasattr(layer, "get_param") else layer.get_base_layer().weight
    none = torch.zeros(weight.shape)
    changes = [
        layer.get_delta_weight(name).float().cpu() if name in (*layer.lora_A, *layer.lora_embedding_A) else none
        for name in names
    ]
    if merge.kind == "linear":
        change = merge_utils.task_arithmetic(changes, weights)
    else:
        change = getattr(merge_utils, merge.kind)(changes, weights, merge.density)
    weight.data = (weight.data.float() + change.to(weight.device)).to(weight.dtype)


def _check_plain(folder: Path, *, allow_pickle: bool) -> None:
    from carellama.model.adapter_files import whole_modules
    from carellama.model.adapter_plan import beyond_lora_reason

    config = read_adapter_json(folder)
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        reason = f"is of kind {kind.lower()}"
    elif config.get("use_dora"):
        reason = "is a DoRA, whose change is no sum"
    elif config.get("modules_to_save") or config.get("trainable_token_indices"):
        reason = "has whole modules or tokens of its own, of which there can be only one"
    elif whole := whole_modules(folder, allow_pickle=allow_pickle):
        reason = f"has {next(iter(whole.values())).name} whole, of which there can be only one"
    else:
        reason = beyond_lora_reason(config)
    if reason:
        raise UserError(
            f"--merge: {folder} {reason}; adapters with weights have to be plain LoRA: leave --merge out to put the "
            "adapters on each other in order"
        )
