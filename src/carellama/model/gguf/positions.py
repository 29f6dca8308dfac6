"""The scaling of positions that a .gguf states, as transformers writes it in config.json.

    scaled_positions(path, header.facts, header.tensors, config)     # {"rope_type": "linear", "factor": 4.0}

transformers drops it when it reads a .gguf (`modeling_gguf_pytorch_utils.load_gguf_checkpoint`). Linear scaling and
YaRN stand in the metadata (ggml-org/ggml, docs/gguf.md, "RoPE scaling"). Of Llama 3.1's the file has only the factors
of the frequencies (tensor `rope_freqs.weight`): the settings are those whose factors, by transformers' own function,
are the file's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedConfig

FREQUENCIES = "rope_freqs.weight"
# llama.cpp multiplies YaRN's factor of attention as the paper does unless `attn_factor` or `yarn_*` say otherwise
YARN = {"type", "factor", "original_context_length", "finetuned"}
LLAMA3_ORIGINALS = tuple(2**power for power in range(6, 19))  # 8192 in all released ones
CLOSE = 1e-4  # of a factor: the file has them in float32


def scaled_positions(
    path: Path, facts: Mapping[str, Any], tensors: Collection[str], config: PreTrainedConfig
) -> dict[str, Any]:
    """Return the settings of the scaling of a file that has one, to be put into `config.rope_parameters`.

    {}: transformers has read it. Raises `UserError` for one that config.json cannot be given faithfully.
    """
    plain = getattr(config, "rope_parameters", None)
    if not isinstance(plain, dict) or "rope_theta" not in plain:
        raise _refusal(path, "in a way of its own")  # none, or another for each kind of layer
    if plain.get("rope_type", "default") != "default":
        return {}
    prefix = f"{facts['general.architecture']}.rope.scaling."
    stated = {name.removeprefix(prefix): value for name, value in facts.items() if name.startswith(prefix)}
    factors = sorted(name for name in tensors if name.startswith("rope_f"))
    kind = stated.get("type") or "none"
    if factors == [FREQUENCIES] and kind == "none":
        return _llama3(path, config)
    if factors or kind not in ("linear", "yarn"):
        raise _refusal(path, f"by {kind if kind != 'none' else ', '.join(factors)}")
    return _by_facts(path, stated, kind)


def _by_facts(path: Path, facts: Mapping[str, Any], kind: str) -> dict[str, Any]:
    more = sorted(facts.keys() - (YARN if kind == "yarn" else {"type", "factor", "finetuned"}))
    if more or "factor" not in facts:
        raise _refusal(path, f"by {kind} {'with ' + ', '.join(more) if more else 'without a factor'}")
    found: dict[str, Any] = {"rope_type": kind, "factor": float(facts["factor"])}
    if kind == "yarn":
        if "original_context_length" not in facts:
            raise _refusal(path, "by yarn without original_context_length")
        found["original_max_position_embeddings"] = int(facts["original_context_length"])
    return found


def _llama3(path: Path, config: PreTrainedConfig) -> dict[str, Any]:
    import gguf
    import numpy as np

    (data,) = (one.data for one in gguf.GGUFReader(path).tensors if one.name == FREQUENCIES)
    wanted = np.array(data, dtype=np.float32)
    for settings in _candidates(float(wanted.max())):
        found = _factors(config, settings)
        if found.shape == wanted.shape and np.allclose(found, wanted, rtol=CLOSE):
            return settings
    raise _refusal(path, f"by factors ({FREQUENCIES}) that are not those of Llama 3.1")


def _candidates(largest: float) -> Iterator[dict[str, Any]]:
    for factor in (round(largest, 3), 8.0, 32.0):  # the largest: all of it, where the lowest frequency is scaled whole
        for original in sorted(LLAMA3_ORIGINALS, key=lambda one: one != 8192):
            yield {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }  # fmt: skip


def _factors(config: PreTrainedConfig, settings: dict[str, Any]) -> np.ndarray:
    """By how much each frequency is divided: transformers' frequencies without and with the scaling."""
    import numpy as np
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = deepcopy(config)
    scaled.rope_parameters = {**config.rope_parameters, **settings}
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, torch.device("cpu"))
    size = 2 * len(inverse)
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, size, 2) / size)
    return np.asarray(plain / inverse.double().numpy())


def _refusal(path: Path, how: str) -> UserError:
    return UserError(
        f"{path} scales its positions {how}, which cannot be carried over into a model folder: take the model's "
        "folder or hub id instead, or let llama.cpp answer (--engine llamacpp)"
    )
