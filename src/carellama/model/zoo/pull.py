"""Names of released weights to what the rest of the program takes: the base, and the folder of the adapter.

    model, data = with_named_weights(ModelOptions("CareLlama2-7b-chat-sft-multi"), PromptOptions())
    model.model_name_or_path     # "meta-llama/Llama-2-7b-chat-hf"
    model.checkpoints            # [".../models/CareLlama2-7b-chat-sft-multi"]

An adapter is fetched from the hub once and kept in the user's cache, as safetensors: the weights of 2023 are pickles,
which torch's loader that runs no code turns into safetensors. Bases are fetched where they are loaded.
"""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from carellama.config.data import PromptOptions
from carellama.config.environment import model_home
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.files import create_once, print_status
from carellama.model.zoo.entries import ModelEntry, find_entry

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=ModelOptions)
Prompt = TypeVar("Prompt", bound=PromptOptions)
CONFIG, SAFE, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def with_named_weights(model: Model, data: Prompt) -> tuple[Model, Prompt]:
    """Return the options with each name of released weights replaced by base, adapter folder and chat format.

    A folder of that name beside the person comes first. `--template` that was given stays. Raises `UserError` for
    weights that cannot be fetched.
    """
    named = [] if _is_there(model.model_name_or_path) else [find_entry(model.model_name_or_path)]
    base = next((entry for entry in named if entry and entry.kind == "adapter"), None)
    checkpoints, used = list[str](), [base] if base else []
    if base:
        folder = pull_adapter(base, model)
        if folder is None:  # the repository holds a whole model
            model = replace(model, model_name_or_path=base.hub)
        else:
            model = replace(model, model_name_or_path=base.base)
            checkpoints.append(str(folder))
    for name in model.checkpoints:
        entry = None if _is_there(name) else find_entry(name)
        if entry is None:
            checkpoints.append(name)
            continue
        if entry.kind != "adapter" or (folder := pull_adapter(entry, model)) is None:
            raise UserError(f"--checkpoint_dir {name} is a whole model; give it as --model_name_or_path")
        used.append(entry)
        checkpoints.append(str(folder))
    if not used:
        return model, data
    template = data.template or used[-1].template or None
    if data.template is None and template:
        log.info("template %s: %s was trained with it", template, used[-1].name)
    return replace(model, checkpoint_dir=",".join(checkpoints) or None), replace(data, template=template)


def with_named_folders(adapters: Mapping[str, str], model: ModelOptions) -> dict[str, str]:
    """Return the folders of `--adapters` (name to folder) with those of released weights in place of their names.

    Raises `UserError` for weights that cannot be fetched, or that are a whole model.
    """
    found: dict[str, str] = {}
    for name, folder in adapters.items():
        entry = None if _is_there(folder) else find_entry(folder)
        own = pull_adapter(entry, model) if entry and entry.kind == "adapter" else None
        if entry and own is None:
            raise UserError(f"--adapters {name}={folder} is a whole model; give it as --model_name_or_path")
        found[name] = str(own) if own else folder
    return found


def _is_there(name: str) -> bool:
    return Path(name).expanduser().exists()


def pull_adapter(entry: ModelEntry, model: ModelOptions) -> Path | None:
    """Return the folder of an adapter, fetched on first use; None: its repository holds a whole model.

    `model` says how the hub is asked. Raises `UserError` for what the hub does not give.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from carellama.model.load_errors import as_user_error

    def fetch(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(entry.hub, name, cache_dir=model.cache_dir, token=model.hf_auth_token))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    target = model_home() / entry.name
    with as_user_error(entry.hub, "adapter"):
        if not target.is_dir() and fetch(CONFIG) is None:
            return None
        with create_once(target) as making:
            if making:
                print_status(f"fetching {entry.name} from {entry.hub} (licence {entry.licence}). {entry.terms}")
                for name in (CONFIG, "README.md", "LICENSE"):
                    if found := fetch(name):
                        shutil.copy(found, making / name)
                weights = fetch(SAFE)
                if weights:
                    shutil.copy(weights, making / SAFE)
                elif pickled := fetch(PICKLE):
                    to_safetensors(pickled, making / SAFE)
                else:
                    raise UserError(f"{entry.hub} has no {SAFE}")
    return target


def to_safetensors(source: Path, target: Path) -> None:
    """Turn pickled weights into safetensors without running code. Raises `UserError` for all else that a file holds."""
    import torch
    from safetensors.torch import save_file

    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{source.name} is damaged, or holds more than weights; it was not read") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{source.name} holds no table of tensors")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, target, metadata={"format": "pt"})
