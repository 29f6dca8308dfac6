"""The difference of whole weights to their base, as a LoRA adapter in peft's form.

    found = extract_lora(tuned, base, rank=16)
    found.save(Path("output_export/lora"), tokenizer, base_name="meta-llama/Llama-2-7b-hf")

Each changed matrix W' - W (out, in) is cut to its largest singular values (Eckart and Young 1936: no matrix of that
rank is nearer), with their roots in both factors. What is no matrix of a linear layer cannot be in a LoRA: embeddings,
output head and norms that have changed go into the adapter whole (`modules_to_save`), and are listed; changed biases
are refused. Nothing is left out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.cards.notes import Note, note

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Settings of a configuration that change nothing of what is computed, or only what the weights themselves show.
NOT_COMPUTED = re.compile(
    r"_.*|.*token_id|.*dropout|.*pdrop|.*loss_coef|output_.*|initializer_.*|(torch_)?dtype|architectures|auto_map|"
    r"transformers_version|use_cache|vocab_size|tie_word_embeddings|quantization_config|id2label|label2id|problem_type|"
    r"return_dict|pretraining_tp|name_or_path|is_decoder|chunk_size_feed_forward"
)
EXACT_SIDE = 2048  # up to this side the whole decomposition is made; above it that of a random projection
OVERSAMPLED, ITERATIONS = 16, 8  # of the projection (Halko, Martinsson and Tropp 2011, algorithm 4.4)


def check_base(tuned: PreTrainedConfig, base: ModelOptions) -> None:
    """Raise `UserError` for a base that computes otherwise than the tuned model: an adapter holds weights alone."""
    from carellama.model.load import load_config

    ours, theirs = _computed(tuned.to_dict()), _computed(load_config(base).to_dict())
    other = [
        f"{name} is {ours[name]} in the model and {theirs[name]} in the base"
        for name in ours.keys() & theirs.keys()
        if ours[name] != theirs[name]
    ]
    if other:
        raise UserError(
            f"--to lora: {base.model_name_or_path} has other settings than the model, and an adapter on it holds none "
            f"({'; '.join(sorted(other))}): export the whole model (--to hf), or give its own base with --lora_base"
        )


def _computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what is computed, those of a part (`text_config`) under its name."""
    found: dict[str, Any] = {}
    positions = config.get("rope_parameters") or {}
    fixed = all(
        one.get("rope_type", "default") in ("default", "linear", "llama3")
        for one in (positions, *(part for part in positions.values() if isinstance(part, dict)))
    )
    for name, value in config.items():
        if NOT_COMPUTED.fullmatch(name) or (fixed and name == "max_position_embeddings"):
            continue  # the number of positions counts only where they are stretched by it
        if isinstance(value, Mapping) and name.endswith("_config"):
            found |= {f"{name}.{key}": one for key, one in _computed(value).items()}
        else:
            found[name] = value
    return found


def write_lora(folder: Path, target: Path, base: ModelOptions, *, rank: int, dtype: str) -> tuple[ExtractedLora, Path]:
    """Write the difference of a model folder to a base into the folder `target`; return it, and the base's folder.

    `dtype`: precision of the base's weights. Raises `UserError` as `extract_lora` does.
    """
    from carellama.export.cards.facts import name_of_base
    from carellama.model.gguf.write import base_folder
    from carellama.model.load import load_model
    from carellama.model.tokenizer import load_tokenizer

    place = base_folder(base)
    of_base = replace(base, model_name_or_path=str(place))
    of_tuned = replace(base, model_name_or_path=str(folder))
    tuned, theirs = (load_model(one, dtype=dtype, attention=None).float() for one in (of_tuned, of_base))
    found = extract_lora(tuned, theirs, rank)
    if not found.factors and not found.whole:
        raise UserError(
            f"--to lora: the model does not differ from {base.model_name_or_path}: an adapter would be empty"
        )
    found.save(target, theirs, load_tokenizer(of_tuned), name_of_base(base))
    shutil.copy(folder / "generation_config.json", target)  # the tokens that end an answer
    return found, place


@dataclass(frozen=True)
class ExtractedLora:
    """A LoRA, and how much of the difference it keeps."""

    rank: int
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> A (rank, in), B (out, rank)
    whole: tuple[str, ...]  # modules that are in it whole
    kept: float  # share of the squared norm of the difference of all matrices
    worst: tuple[str, float] | None  # the layer of which the least is kept
    by_rank: dict[int, float] = field(default_factory=dict)  # rank -> share of all that it would keep
    network: PreTrainedModel | None = None  # the tuned model, whose whole modules are saved

    @property
    def note(self) -> Note:
        """What is kept, in a line for the card."""
        found = note("lora_none")
        if self.factors:
            shares = ", ".join(f"{rank}: {share:.2%}" for rank, share in self.by_rank.items())
            found = note("lora", rank=self.rank, kept=self.kept, matrices=len(self.factors), shares=shares)
        if self.factors and self.worst:
            found += note("lora_least", layer=self.worst[0], share=self.worst[1])
        return found + note("lora_whole", names=", ".join(self.whole)) if self.whole else found

    def save(self, folder: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base_name: str) -> None:
        """Write a folder that peft reads. The base gets the adapter for that, and is of no use afterwards."""
        import torch
        from peft import LoraConfig, TaskType, get_peft_model

        from carellama.model.lora import quiet_peft

        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=self.rank, lora_alpha=self.rank, lora_dropout=0.0,
            target_modules=self._targets(base), modules_to_save=list(self.whole) or None,
        )  # fmt: skip
        with quiet_peft():
            adapted: Any = get_peft_model(base, config)
        modules: dict[str, Any] = dict(adapted.base_model.model.named_modules())
        tuned: dict[str, Any] = dict(self.network.named_modules()) if self.network is not None else {}
        with torch.no_grad():
            for name, (first, second) in self.factors.items():
                modules[name].lora_A["default"].weight.copy_(first)
                modules[name].lora_B["default"].weight.copy_(second)
            for name in self.whole:
                modules[name].modules_to_save["default"].load_state_dict(tuned[name].state_dict())
        adapted.peft_config["default"].base_model_name_or_path = base_name
        # changed embeddings are whole modules; peft would ask the hub whether others have been enlarged
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's page, which names a folder of this machine
        tokenizer.save_pretrained(str(folder))

    def _targets(self, base: PreTrainedModel) -> list[str]:
        """Names of the adapted layers: short ones where all layers of such a name are adapted."""
        names = sorted(self.factors)
        short = {name.rpartition(".")[2] for name in names}
        every = {name for name, _ in base.named_modules() if name.rpartition(".")[2] in short}
        return sorted(short) if every == set(names) else names


def extract_lora(tuned: PreTrainedModel, base: PreTrainedModel, rank: int) -> ExtractedLora:
    """Return the difference of two models of one architecture as a LoRA of a rank, or less where it is smaller.

    Raises `UserError` for models of other shapes and for differences that no adapter can hold.
    """
    import torch

    from carellama.model.lora import in_out_features

    ours, theirs = tuned.state_dict(), base.state_dict()
    _check_shapes(ours, theirs)
    linear = {name: module for name, module in tuned.named_modules() if in_out_features(module)}
    head = tuned.get_output_embeddings()
    changed = [name for name in ours if not torch.equal(ours[name].float(), theirs[name].float())]
    layers = {name.rpartition(".")[0]: name for name in changed}
    heads = {name for name, module in tuned.named_modules() if module is head}
    matrices = [name for name in layers if name in linear and name not in heads]
    biases = [name for name in changed if name.endswith(".bias") and name.rpartition(".")[0] in linear]
    if biases:
        raise UserError(
            f"--to lora: {biases[0]} has changed, and a LoRA has no biases: export the whole model (--to hf)"
        )
    whole = sorted(set(layers) - set(matrices))
    tied = head is not None and head.weight is tuned.get_input_embeddings().weight
    entry = {name for name, module in tuned.named_modules() if module is tuned.get_input_embeddings()}
    if tied and (entry | heads) & set(whole):
        raise UserError(
            "--to lora: the embedding has changed, and it is the output head as well, which an adapter cannot hold "
            "together: export the whole model (--to hf)"
        )
    factors, sums = {}, _Sums(rank)
    for layer in matrices:
        name = layers[layer]
        difference = ours[name].float() - theirs[name].float()
        if not isinstance(linear[layer], torch.nn.Linear):  # GPT-2's layers, whose weights are (in, out)
            difference = difference.T
        factors[layer] = _cut(difference, rank, sums, layer)
    return ExtractedLora(rank, factors, tuple(whole), sums.kept, sums.worst, sums.by_rank(), tuned)


class _Sums:
    """Squared singular values of all layers, summed by rank."""

    def __init__(self, rank: int) -> None:
        self.total, self.kept_by = 0.0, [0.0] * rank
        self.worst: tuple[str, float] | None = None

    def add(self, layer: str, values: torch.Tensor, total: float) -> None:
        squares = values.double().square().cumsum(0).tolist()
        self.total += total
        for at in range(len(self.kept_by)):
            self.kept_by[at] += squares[min(at, len(squares) - 1)]
        share = min(1.0, squares[-1] / total)
        if self.worst is None or share < self.worst[1]:
            self.worst = (layer, share)

    @property
    def kept(self) -> float:
        return min(1.0, self.kept_by[-1] / self.total) if self.total else 1.0

    def by_rank(self) -> dict[int, float]:
        """What the ranks 1, 2, 4, ... up to the one that was asked for keep."""
        ranks = [1 << power for power in range(12) if 1 << power <= len(self.kept_by)]
        return {rank: min(1.0, self.kept_by[rank - 1] / self.total) for rank in ranks} if self.total else {}


def _cut(difference: torch.Tensor, rank: int, sums: _Sums, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (rank, in) and B (out, rank), whose product is nearest to the difference (out, in)."""
    import torch

    first, second = torch.zeros(rank, difference.shape[1]), torch.zeros(difference.shape[0], rank)
    rank = min(rank, *difference.shape)
    if min(difference.shape) <= EXACT_SIDE:
        left, values, right = torch.linalg.svd(difference.double(), full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(
                difference, q=min(rank + OVERSAMPLED, *difference.shape), niter=ITERATIONS
            )
            right = right.T
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    sums.add(layer, values, float(difference.double().square().sum()))
    roots = values.sqrt()
    first[:rank], second[:, :rank] = roots[:, None] * right, left * roots
    return first, second


def _check_shapes(ours: Any, theirs: Any) -> None:
    """Refuse models that are no two states of one architecture."""
    if other := sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"--lora_base is of another architecture: only one of both has {other[0]}")
    for name, weight in ours.items():
        if weight.shape != theirs[name].shape:
            raise UserError(
                f"--lora_base is another model: {name} has the shape {tuple(theirs[name].shape)} there and "
                f"{tuple(weight.shape)} here"
            )
