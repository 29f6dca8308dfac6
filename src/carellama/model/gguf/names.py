"""What llama.cpp calls the matrices of a model; runs in the process of the converter, see `carellama.model.gguf.write`.

A matrix of transformers may become several of llama.cpp's (queries, keys and values that were one), and those of
experts become one. Only the converter's own code for the architecture knows, so it is given matrices without numbers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

EXPERT = re.compile(r"\.experts\.\d+\.")
LAYER = re.compile(r"\.(\d+)\.")
FUSED = {"gate_up_proj": ("gate_proj", "up_proj")}  # experts, as transformers 5 keeps them


def open_model(folder: str) -> Any:
    """The converter's object for the model of a folder, weights not read."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(Path(folder), False)  # noqa: FBT003 - not in Mistral's own format
    family = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    return family(Path(folder), gguf.LlamaFileType.ALL_F32, Path(folder) / "unused.gguf", eager=True)


def layer_of(name: str) -> int | None:
    """The number of a parameter's layer; None: it is in none."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def write(folder: str, asked: str, target: str) -> None:
    """Write the names for the parameters of the file `asked` (name: [shape, columns]) as JSON."""
    import torch

    model = open_model(folder)
    found: dict[str, list[str]] = {}
    for name, (shape, columns) in json.loads(Path(asked).read_text(encoding="utf-8")).items():
        if EXPERT.search(name) or len(shape) > 2:
            found[name] = _experts(model, EXPERT.sub(".experts.", name))
            continue
        try:
            made = list(model.modify_tensors(torch.empty(shape, device="meta"), name, layer_of(name)))
        except (ValueError, KeyError, NotImplementedError, RuntimeError):
            made = []  # it has none of that name, or asks for the numbers
        found[name] = [there for there, tensor in made if tensor.ndim == 2 and tensor.shape[-1] == columns]
    Path(target).write_text(json.dumps(found), encoding="utf-8")


def _experts(model: Any, name: str) -> list[str]:
    """The matrices of all experts of a layer, by the name of the parameter that holds all of them."""
    head, _, last = name.removesuffix(".weight").rpartition(".")
    parts = FUSED.get(last, (last,))
    found = [model.tensor_map.get_name(f"{head}.{part}.weight", try_suffixes=(".weight",)) for part in parts]
    return [one for one in found if one]
