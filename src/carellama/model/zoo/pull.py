"""Names of released weights to what the rest of the program takes: a model, and the folders of adapters on it.

    model, data = with_named_weights(ModelOptions("CareLlama2-7b-chat-sft-multi"), PromptOptions())
    model.model_name_or_path     # "meta-llama/Llama-2-7b-chat-hf"
    model.checkpoints            # [".../models/CareLlama2-7b-chat-sft-multi"]

An adapter is fetched from the hub once and kept in the user's cache, as safetensors: the weights of 2023 are pickles,
which torch's loader that runs no code turns into safetensors. A delta is added to its base once and kept there too.
Whole models and bases are fetched where they are loaded; from ModelScope (`--hub modelscope`) they are fetched here.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from carellama.config.data import PromptOptions
from carellama.config.environment import model_home
from carellama.config.model import ModelOptions
from carellama.download.http import check_free_space
from carellama.errors import UserError
from carellama.files import create_once, print_status, write_json
from carellama.model.digests import write_digests
from carellama.model.zoo.entries import ModelEntry, find_entry, hub_of
from carellama.model.zoo.fetch import Listing, fetch_repository, list_repository
from carellama.model.zoo.licences import clash
from carellama.model.zoo.resolve import EMBEDDED, model_ggufs
from carellama.run_record import PULLED, weights_folder
from carellama.weights import base_fingerprint

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=ModelOptions)
Prompt = TypeVar("Prompt", bound=PromptOptions)
CONFIG, SAFE, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
OF_ADAPTERS = (CONFIG, SAFE, PICKLE, "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")


def with_named_weights(model: Model, data: Prompt) -> tuple[Model, Prompt]:
    """Return the options with each name of released weights replaced by a model, adapter folders and chat format.

    A folder of that name beside the person comes first. `--template` that was given stays. Raises `UserError` for
    weights that cannot be fetched.
    """
    place = Path(model.model_name_or_path).expanduser()
    if place.is_dir() and len(files := model_ggufs(place)) == 1:
        model = replace(model, model_name_or_path=str(files[0]))
    named = None if place.exists() else find_entry(model.model_name_or_path)
    base = named if named and named.kind != "embedded" else None
    checkpoints, used = list[str](), [base] if base else []
    if base:
        model, folder = _with_entry(model, base)
        if base.kind == "adapter":
            _check_base(base, model)
        checkpoints += [str(folder)] if folder else []
    elif named is None:
        model = _from_modelscope(model)
    for name in model.checkpoints:
        entry = None if _is_there(name) else find_entry(name)
        if entry is None:
            checkpoints.append(_adapter_folder(name, model))
            continue
        if entry.kind != "adapter" or (folder := pull_adapter(entry, _without_revision(model))) is None:
            raise UserError(f"--checkpoint_dir {name} is a whole model; give it as --model_name_or_path")
        _check_base(entry, model)
        used.append(entry)
        checkpoints.append(str(folder))
    model = replace(model, checkpoint_dir=",".join(checkpoints) or None)
    if not used:
        return model, data
    template = data.template or used[-1].template or None
    if data.template is None and template:
        log.info("template %s: %s was trained with it", template, used[-1].name)
    return model, replace(data, template=template)


def _with_entry(model: Model, entry: ModelEntry) -> tuple[Model, Path | None]:
    """The options with an entry's model in place of its name, and the folder of its adapter, if it is one."""
    if entry.place:
        if entry.kind == "adapter":
            return replace(model, model_name_or_path=entry.base), Path(entry.place)
        return replace(model, model_name_or_path=entry.place), None
    _check_reads(entry)
    if entry.kind == "delta":
        return replace(model, model_name_or_path=str(pull_delta(entry, model))), None
    if entry.kind == "adapter" and (folder := pull_adapter(entry, model)):
        based = entry.base_modelscope if model.hub == "modelscope" else entry.base
        if not entry.base:
            raise UserError(
                f"{entry.name} is an adapter whose base is on no hub. {entry.terms} Give that base as "
                f"--model_name_or_path and {entry.name} as --checkpoint_dir"
            )
        if not based:
            raise UserError(
                f"{entry.name} is an adapter, and no id of its base {entry.base} on ModelScope is known: fetch the "
                f"base, then give it as --model_name_or_path and {entry.name} as --checkpoint_dir"
            )
        return _from_modelscope(replace(_without_revision(model), model_name_or_path=based)), folder
    if entry.weights == "bin" and not model.allow_pickle:
        raise UserError(
            f"{entry.hub} has only pickled weights (.bin), which can run code when read; "
            "if you trust where they come from add --allow_pickle true"
        )
    if entry.remote_code and not model.trust_remote_code:
        log.info("%s brings Python code of its own; newer releases of transformers may read it without", entry.name)
    place, revision = hub_of(entry, model.hub, model.model_name_or_path), revision_of(entry, model)
    return _from_modelscope(replace(model, model_name_or_path=place, model_revision=revision)), None


def _check_base(entry: ModelEntry, model: ModelOptions) -> None:
    """Refuse an adapter by its name on another base than the one whose fingerprint its entry has."""
    if not entry.fingerprint or model.allow_other_base:
        return
    folder = weights_folder(model.model_name_or_path, model)
    found = base_fingerprint(folder) if folder else None
    if found and not entry.fingerprint.items() <= found.tensors.items():
        if model.model_name_or_path == entry.base:
            raise UserError(
                f"{entry.name} belongs to {entry.base}, whose weights were others when the entry was made: if they "
                "are the same model, merged or quantised, add --allow_other_base true"
            )
        raise UserError(
            f"{entry.name} belongs to {entry.base}, and {model.model_name_or_path} has other weights: give "
            f"--model_name_or_path {entry.base}; if it is the same model, merged or quantised, add "
            "--allow_other_base true"
        )


def _check_reads(entry: ModelEntry) -> None:
    if "text" not in entry.reads:
        raise UserError(f"{entry.name} takes {' and '.join(entry.reads)}, no text: CareLlama does not run it")


def revision_of(entry: ModelEntry, model: ModelOptions) -> str:
    """The commit of an entry, which is one of Hugging Face's, where the person names none."""
    pinned = entry.revision if model.hub == "huggingface" else ""
    return pinned if pinned and model.model_revision == "main" else model.model_revision


def _without_revision(model: Model) -> Model:
    """The options for what `--model_revision` is not said of: it is that of `--model_name_or_path` alone."""
    return replace(model, model_revision="main")


def _kept_listing(entry: ModelEntry, model: ModelOptions) -> tuple[Path, Listing | None]:
    """(where an adapter or delta is kept, what the hub has of it); no listing where it is kept there already.

    Another revision than that of the list has a folder of its own.
    """
    target = model_home() / entry.name
    is_other = model.model_revision not in ("main", entry.revision)
    if target.is_dir() and not is_other:
        return target, None
    listing = list_repository(hub_of(entry, model.hub), model, revision_of(entry, model))
    if is_other:
        target = target.with_name(f"{entry.name}@{listing.commit.replace('/', '--')}")
    return target, None if target.is_dir() else listing


def _from_modelscope(model: Model) -> Model:
    """The options with the folder of a ModelScope id in its place, if that hub is asked for."""
    name = model.model_name_or_path
    if model.hub != "modelscope" or _is_there(name) or name in EMBEDDED or name.count("/") != 1:
        return model
    listing = list_repository(name, model)
    return replace(model, model_name_or_path=str(fetch_repository(listing, model)))


def with_named_folders(adapters: Mapping[str, str], model: ModelOptions) -> dict[str, str]:
    """Return the folders of `--adapters` (name to folder) with those of released weights in place of their names.

    Raises `UserError` for weights that cannot be fetched, or that are a whole model.
    """
    found: dict[str, str] = {}
    for name, folder in adapters.items():
        entry = None if _is_there(folder) else find_entry(folder)
        own = pull_adapter(entry, _without_revision(model)) if entry and entry.kind == "adapter" else None
        if entry and own is None:
            raise UserError(f"--adapters {name}={folder} is a whole model; give it as --model_name_or_path")
        found[name] = str(own) if own else _adapter_folder(folder, model)
    return found


def _adapter_folder(name: str, model: ModelOptions) -> str:
    """A folder as it is; an adapter in GGUF as a folder, by the model that it is put on."""
    if not Path(name).expanduser().is_file():
        return name
    from carellama.model.gguf.write import lora_folder_of_gguf

    return str(lora_folder_of_gguf(model, Path(name)))


def _is_there(name: str) -> bool:
    return Path(name).expanduser().exists()


def pull_adapter(entry: ModelEntry, model: ModelOptions) -> Path | None:
    """Return the folder of an adapter, fetched on first use; None: its repository holds a whole model.

    `model` says how the hub is asked. Raises `UserError` for what the hub does not give.
    """
    if entry.place:
        return Path(entry.place)
    target, listing = _kept_listing(entry, replace(model, allow_pickle=True))
    if listing is None:
        return target
    listing = replace(listing, files=tuple(one for one in listing.files if one.name in OF_ADAPTERS))
    names = {one.name for one in listing.files}
    if CONFIG not in names:
        return None
    if not names & {SAFE, PICKLE}:
        raise UserError(f"{listing.repo} has no {SAFE}")
    print_status(announcement(entry, listing))
    with create_once(target) as making:
        if making:
            folder = fetch_repository(listing, replace(model, model_revision=revision_of(entry, model)))
            for name in sorted(names - {PICKLE}):
                shutil.copy(folder / name, making / name)
            if SAFE not in names:
                to_safetensors(folder / PICKLE, making / SAFE)
            finish(making, entry, listing, base={"repo": entry.base})
    return target


def pull_delta(entry: ModelEntry, model: ModelOptions) -> Path:
    """Return the folder of the model that a delta and its base make, made on first use. Raises `UserError`."""
    from carellama.model.zoo.delta import apply_delta

    target, listing = _kept_listing(entry, model)
    if listing is None:
        return target
    based = entry.base_modelscope if model.hub == "modelscope" else entry.base
    if not based:
        raise UserError(f"no id of the base of {entry.name} on ModelScope is known; leave --hub out")
    of_base = list_repository(based, model, "main")
    print_status(announcement(entry, listing))
    print_status(f"its base {based}: {shown_size(of_base.size)}; the sum takes {shown_size(listing.size)} more")
    with create_once(target) as making:
        if making:
            check_free_space(listing.size, making)
            before = fetch_repository(of_base, replace(model, model_revision="main"))
            change = fetch_repository(listing, replace(model, model_revision=revision_of(entry, model)))
            found = base_fingerprint(before) if entry.fingerprint else None
            if found and not entry.fingerprint.items() <= found.tensors.items():
                raise UserError(f"{based} is not the base that {entry.name} was made from: its weights are others")
            apply_delta(
                before, change, making,
                allow_pickle=model.allow_pickle, names=(based, listing.repo), whole=entry.delta_whole,
            )  # fmt: skip
            finish(making, entry, listing, base={"repo": based, "commit": of_base.commit})
    return target


def announcement(entry: ModelEntry, listing: Listing) -> str:
    """What is fetched, how big it is, from where, and under which licence: one line."""
    said = clash(entry.licence, entry.base_licence)
    about = f"{shown_size(listing.size)}, licence {entry.licence or 'not stated'}"
    parts = [
        f"fetching {entry.name} from {listing.repo} ({about})",
        entry.terms.rstrip("."),
        said,
    ]
    return ". ".join(part for part in parts if part) + "."


def shown_size(size: int) -> str:
    """Bytes as a person reads them: `3.2 GB`, `17 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.3g} MB"


def finish(folder: Path, entry: ModelEntry, listing: Listing, **more: object) -> None:
    """Write beside fetched weights where they come from, and SHA256SUMS."""
    fetched = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"name": entry.name, "hub": listing.hub, "repo": listing.repo, "commit": listing.commit}
    write_json(folder / PULLED, about | {"licence": entry.licence, "fetched": fetched} | more)
    write_digests(folder)


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
