"""Whether the folders and files that options name are there, before any library is loaded and anything is converted.

check_model(ModelArguments("smollm2-135m", checkpoint_dir="output"))     # UserError: there is no such folder
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from carellama.config.model import ModelArguments
from carellama.errors import UserError
from carellama.model.zoo.entries import find_entry
from carellama.model.zoo.resolve import check_name

ADAPTER = "adapter_config.json"  # marks the folder of an adapter


def check_model(model: ModelArguments, adapters: Mapping[str, str] | None = None) -> None:
    """Raise `UserError` for a model, a checkpoint or an adapter (name to folder) that is not there."""
    check_name(model.model_name_or_path)
    check_checkpoints(model.checkpoints)
    for name, folder in (adapters or {}).items():
        option = f"--adapters {name}={folder}"
        if find_entry(folder) and not Path(folder).expanduser().exists():
            continue  # released weights, which are fetched
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"{option}: there is no such folder")
        if not (Path(folder).expanduser() / ADAPTER).is_file():
            raise UserError(f"{option}: this folder holds no adapter ({ADAPTER})")


def check_checkpoints(names: Sequence[str], option: str = "--checkpoint_dir") -> None:
    """Raise `UserError` for a folder that is not there, or that holds neither an adapter nor a model."""
    for name in names:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            if find_entry(name):
                continue  # released weights, which are fetched
            raise UserError(f"{option} {name}: there is no such folder")
        if not (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
            last = sorted(folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
            hint = f"; its last checkpoint is {last[-1]}" if last else ""
            raise UserError(f"{option} {name} holds neither an adapter ({ADAPTER}) nor a model (config.json){hint}")


def check_reward_model(name: str) -> None:
    """Raise `UserError` for a reward model, of folders or on a hub, that is not there."""
    folders = [part.strip() for part in name.split(",") if part.strip()]
    if len(folders) > 1 or Path(name).expanduser().is_dir():
        check_checkpoints(folders, "--reward_model")
        return
    try:
        check_name(name)
    except UserError as error:
        raise UserError(str(error).replace("--model_name_or_path", "--reward_model")) from error
