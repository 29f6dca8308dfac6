"""LoRA adapters of peft's as .gguf files, and back; runs in the converter's process, see `carellama.model.gguf.write`.

llama.cpp adds scale * alpha / rank * B A to a matrix W (src/llama-adapter.h). It keeps W under another name than the
model's folder, and for some architectures with its rows in another order (Llama's queries and keys). Both are what the
converter does to W, so it is done to B as well; a row of B belongs to a row of W. That this is all there is to it is
tested for each matrix: converting B A has to give the converted B times A.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from carellama.model.gguf.names import layer_of, open_model


def write(base: str, adapter: str, target: str) -> None:
    """Write the adapter of a folder, for the model of the folder `base`, to the file `target`."""
    import gguf
    import torch
    from safetensors.torch import load_file

    settings = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(Path(adapter) / "adapter_model.safetensors")
    model = open_model(base)
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[model.model_arch])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    alpha = float(settings["lora_alpha"])
    writer.add_float32("adapter.lora.alpha", alpha)
    if other := [key for key in sorted(weights) if ".lora_A." not in key and ".lora_B." not in key]:
        raise SystemExit(f"it has {other[0]}, which llama.cpp does not know; merge it by --checkpoint_dir")
    for key in (key for key in sorted(weights) if ".lora_A." in key):
        module = key.partition(".lora_A.")[0]
        a, b = weights[key].float(), weights[key.replace(".lora_A.", ".lora_B.")].float()  # (r, in), (out, r)
        rank = a.shape[0]
        factor = math.sqrt(rank) if settings.get("use_rslora") else 1.0  # of B; llama.cpp divides by the rank
        name = f"{module.removeprefix('base_model.model.')}.weight"
        layer = layer_of(name)
        changed = [*model.modify_tensors(b * factor, name, layer)], [*model.modify_tensors(b @ a, name, layer)]
        if any(len(one) != 1 for one in changed):
            raise SystemExit(f"{name} is not one matrix of its own in a .gguf; merge it by --checkpoint_dir")
        [(there, rows)], [(again, product)] = changed
        exact = there == again and product.shape == (len(b), a.shape[1])
        if not exact or not torch.allclose(product, rows @ a / factor, rtol=1e-3, atol=1e-5):
            raise SystemExit(f"{name} is changed in a way that no adapter can be; merge it by --checkpoint_dir")
        writer.add_tensor(f"{there}.lora_a", a.numpy())
        writer.add_tensor(f"{there}.lora_b", rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(base: str, source: str, target: str) -> None:
    """Write the adapter of the file `source`, made for the model of the folder `base`, to the folder `target`."""
    import gguf
    import numpy as np
    from safetensors.numpy import save_file

    file = gguf.GGUFReader(source)
    facts = {name: field.contents() for name, field in file.fields.items() if not name.startswith("GGUF.")}
    model = open_model(base)
    architecture = gguf.MODEL_ARCH_NAMES[model.model_arch]
    if facts["general.architecture"] != architecture:
        raise SystemExit(f"it is for a model of the architecture {facts['general.architecture']}, not {architecture}")
    if facts.get("adapter.type") != "lora" or any(name.startswith("adapter.alora") for name in facts):
        raise SystemExit(f"it is an adapter of the kind {facts.get('adapter.type')}, not a plain LoRA")
    known = _places(model)
    read = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in file.tensors}
    names = sorted(name.removesuffix(".lora_a") for name in read if name.endswith(".lora_a"))
    ranks = {name: read[f"{name}.lora_a"].shape[0] for name in names}
    common = max(ranks.values(), key=list(ranks.values()).count)
    alpha = float(facts.get("adapter.lora.alpha") or common)  # llama.cpp multiplies by alpha / rank, by 1 where it is 0
    weights = {}
    for name in names:
        a, b = read[f"{name}.lora_a"], read[f"{name}.lora_b"]  # (r, in), (out, r)
        if name not in known:
            raise SystemExit(f"it changes {name}, which is not one matrix of its own in this model")
        module, order, columns = known[name]
        if (len(b), a.shape[1]) != (len(order), columns) or b.shape[1] != len(a):
            raise SystemExit(
                f"it changes {name} with ({len(b)}, {a.shape[1]}) numbers, "
                f"where this model has ({len(order)}, {columns})"
            )
        own = np.empty_like(b)
        own[order] = b if facts.get("adapter.lora.alpha") else b * (ranks[name] / alpha)
        weights[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(a, np.float32)
        weights[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(own, np.float32)
    modules = {name: known[name][0] for name in names}
    save_file(weights, Path(target) / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none", "lora_dropout": 0.0,
        "r": common, "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": _targets(set(modules.values()), {module for module, _, _ in known.values()}),
        "rank_pattern": {modules[name]: rank for name, rank in ranks.items() if rank != common},
    }  # fmt: skip
    (Path(target) / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _places(model: Any) -> dict[str, tuple[str, Any, int]]:
    """Where each matrix of a .gguf comes from: module, row of the module's matrix for each of its rows, columns."""
    import torch

    found = {}
    for name, tensor in model.model_tensors.items():
        shape = tensor().shape
        if len(shape) != 2 or not name.endswith(".weight"):
            continue
        numbers = torch.arange(shape[0], dtype=torch.float32)[:, None]
        try:
            made = list(model.modify_tensors(numbers, name, layer_of(name)))
        except (ValueError, KeyError, NotImplementedError, RuntimeError):
            continue  # it is made of several, or looked at as a whole
        if len(made) == 1 and made[0][1].shape == numbers.shape and torch.equal(made[0][1].sort(0).values, numbers):
            found[made[0][0]] = (name.removesuffix(".weight"), made[0][1][:, 0].long().numpy(), shape[1])
    return found


def _targets(modules: set[str], every: set[str]) -> list[str]:
    """The shortest names that mean these modules and no others, as adapter_config.json has them."""
    last = {module.rpartition(".")[2] for module in modules}
    meant = {module for module in every if module.rpartition(".")[2] in last}
    return sorted(last if meant == modules else modules)
