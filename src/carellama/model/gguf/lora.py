"""A LoRA adapter of peft's written as a .gguf; runs in the process of the converter, see `carellama.model.gguf.write`.

llama.cpp adds scale * alpha / rank * B A to a matrix W (src/llama-adapter.h). It keeps W under another name than the
model's folder, and for some architectures with its rows in another order (Llama's queries and keys). Both are what the
converter does to W, so it is done to B as well; a row of B belongs to a row of W. That this is all there is to it is
tested for each matrix: converting B A has to give the converted B times A.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from carellama.model.gguf.names import open_model

ALPHA = 1.0  # as written; the adapter's own factor is multiplied into B


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
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for key in sorted(weights):
        module, found, _ = key.partition(".lora_A.")
        if not found:
            continue
        a, b = weights[key].float(), weights[key.replace(".lora_A.", ".lora_B.")].float()  # (r, in), (out, r)
        rank = a.shape[0]
        factor = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        name = f"{module.removeprefix('base_model.model.')}.weight"
        number = re.search(r"\.(\d+)\.", name)
        layer = int(number.group(1)) if number else None
        [(there, rows)] = model.modify_tensors(b * factor * rank / ALPHA, name, layer)
        [(again, product)] = model.modify_tensors(b @ a, name, layer)
        exact = there == again and product.shape == (len(b), a.shape[1])
        if not exact or not torch.allclose(product, rows @ a * (ALPHA / rank / factor), rtol=1e-3, atol=1e-5):
            raise SystemExit(f"{name} is changed in a way that no adapter can be; merge it by --checkpoint_dir")
        writer.add_tensor(f"{there}.lora_a", a.numpy())
        writer.add_tensor(f"{there}.lora_b", rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
