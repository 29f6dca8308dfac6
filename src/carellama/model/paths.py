"""Whether the folders that options name are there, before any library is loaded, and the folder that a model is put in.

check_model(ModelOptions("smollm2-135m", checkpoint_dir="output"))     # UserError: there is no such folder
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.files import print_status
from carellama.model.gguf.read import check_adapter_file
from carellama.model.zoo.entries import find_entry
from carellama.model.zoo.resolve import check_name
from carellama.weights import ADAPTER, check_one_kind


def check_model(model: ModelOptions, adapters: Mapping[str, str] | None = None) -> None:
    """Raise `UserError` for a model, a checkpoint or an adapter (name to folder) that is not there."""
    check_name(model.model_name_or_path)
    check_checkpoints(model.checkpoints)
    for name, folder in (adapters or {}).items():
        option = f"--adapters {name}={folder}"
        if find_entry(folder) and not Path(folder).expanduser().exists():
            continue  # released weights, which are fetched
        if Path(folder).expanduser().is_file():
            check_adapter_file(Path(folder).expanduser())
            continue
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"{option}: there is no such folder")
        if not (Path(folder).expanduser() / ADAPTER).is_file():
            raise UserError(f"{option}: this folder holds no adapter ({ADAPTER})")
        check_one_kind(Path(folder).expanduser())


def check_checkpoints(names: Sequence[str], option: str = "--checkpoint_dir") -> None:
    """Raise `UserError` for a folder that is not there, or that holds neither an adapter nor a model."""
    for name in names:
        folder = Path(name).expanduser()
        if folder.is_file():
            check_adapter_file(folder)
            continue
        check_one_kind(folder)
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


def check_output(folder: Path, read: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write over anything but, if asked to, an older model that nothing here is read from."""
    try:
        target = folder.resolve()  # what a link leads to is replaced, and the link stays
    except (OSError, RuntimeError) as error:
        raise UserError(f"--output_dir {folder} is a link that leads to itself: give another folder") from error
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file")
    if folder.exists() and (folder.samefile(Path.cwd()) or target.is_mount()):
        raise UserError(
            f"--output_dir {folder} is the current folder or a mounted disk, in whose place no finished folder can be "
            f"put: name a folder in it, as {folder / 'output_export'}"
        )
    parent = next(parent for parent in target.parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if parent.is_dir() else "is a file"
        raise UserError(f"--output_dir {folder}: {parent} {reason}; give another folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    for source in read:
        if any(path == target or target in path.parents for path in places_of(source)):
            raise UserError(f"--output_dir {folder} holds {source}, which is read: give another folder")
    if not any((folder / name).is_file() for name in ("config.json", "parity.json")):
        raise UserError(
            f"--output_dir {folder} is not empty and holds no model (config.json, parity.json), so it is "
            "not replaced: give another folder"
        )
    if not overwrite:
        raise UserError(
            f"--output_dir {folder} is not empty; give another folder, or --overwrite_output_dir true to replace it"
        )


def places_of(source: Path) -> list[Path]:
    """Where a file or folder really lies, and the files that links in it lead to; nothing where it is not there."""
    path = source.expanduser()
    if not path.exists():
        return []
    links = [one for one in path.iterdir() if one.is_symlink() and one.exists()] if path.is_dir() else []
    return [one.resolve() for one in (path, *links)]


def check_space(folder: Path, needed: int, what: str = "the model takes") -> None:
    """Refuse when the disk has less room than so many bytes, which is `what`."""
    free = shutil.disk_usage(next(parent for parent in folder.resolve().parents if parent.exists())).free
    if free < needed:
        raise UserError(
            f"{what} {needed / 1e9:.2f} GB, and the disk of {folder} has {free / 1e9:.2f} GB free: "
            "make room there, or write to another disk"
        )


@contextmanager
def filled_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder, which gets this name when the block ends well; with `overwrite` in place of an older one.

    Raises `UserError` where the folder is not empty by then, as another run may have filled it meanwhile.
    Of a link the folder that it leads to is replaced. What a killed process left is named, not deleted: another one may
    still be writing there.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.making-*"):
        print_status(f"{left} is of a run that writes now or was killed: delete it if none is running")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.making-", dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        made.mkdir()
        yield made
        try:
            if folder.exists() and overwrite:
                folder.rename(Path(temporary) / "older")
            elif folder.exists():
                folder.rmdir()  # which fails on one that is not empty, as the next line does
            made.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UserError(
                f"--output_dir {folder} was empty at first, and another run has filled it meanwhile: nothing was "
                "written; give another folder"
            ) from error
