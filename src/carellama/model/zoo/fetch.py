"""Repositories of models on a hub: what they hold, and how they come here.

    listing = list_repository("FreedomIntelligence/HuatuoGPT-o1-7B", model)     # what, how big, which commit
    folder = fetch_repository(listing, model)                                   # whole, checked

Hugging Face goes through `huggingface_hub` (its mirror HF_ENDPOINT, its cache, its resuming, HF_HUB_OFFLINE),
ModelScope by the file API of its hub through `carellama.download`. Pickled weights are fetched where there are no
others and `--allow_pickle` was given. Whatever a hub or a disk refuses is one line.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import quote

from carellama.config.environment import check_hub, model_home, modelscope_endpoint
from carellama.config.model import ModelOptions
from carellama.download.hosts import safe_relative_path
from carellama.download.http import (
    DownloadError,
    HostUnreachable,
    RemoteFile,
    check_free_space,
    download,
    sha256_of,
)
from carellama.download.modelscope import ListingRefused, list_files
from carellama.errors import UserError
from carellama.files import disk_full_message, is_disk_full, write_json
from carellama.model.digests import write_digests
from carellama.model.zoo.entries import Hub, is_on
from carellama.run_record import PULLED
from carellama.weights import safetensors_header, shard_names

SAFE, PICKLED = "*.safetensors", ("*.bin", "*.pt", "*.pth")
# What no loader here reads: other frameworks' weights, training states, pictures, and llama.cpp's files beside weights.
LEFT_OUT = (
    *("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "*.ggml", "*.zip", "*.tar.gz"),
    *(
        "consolidated*",
        "original/*",
        "onnx/*",
        "openvino/*",
        "*.png",
        "*.jpg",
        "*.jpeg",
        "*.gif",
        "*.mp4",
        "*.pdf",
        "*.svg",
    ),
    *("optimizer*", "training_args.bin", "scheduler.pt", "rng_state*", "trainer_state.json", ".gitattributes"),
)


@dataclass(frozen=True)
class Listing:
    """What a hub has of a repository: the commit, and the files that are fetched."""

    repo: str
    hub: Hub
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)


def page_of(repo: str, hub: Hub) -> str:
    """The page of a repository, where terms are accepted."""
    return f"{modelscope_endpoint()}/models/{repo}" if hub == "modelscope" else f"https://huggingface.co/{repo}"


def list_repository(repo: str, model: ModelOptions, revision: str | None = None) -> Listing:
    """Return what the hub that `--hub` names has of a repository. Raises `UserError`."""
    asked = revision or model.model_revision
    if model.hub == "modelscope":
        listing = _list_modelscope(repo, "master" if asked == "main" else asked)
    else:
        listing = _list_huggingface(repo, asked, model)
    files = tuple(_wanted(listing, allow_pickle=model.allow_pickle))
    weights = (one.name for one in files if any(fnmatch.fnmatch(one.name, pattern) for pattern in (SAFE, *PICKLED)))
    if not any("/" not in name for name in weights):
        packed = next((one.name for one in listing.files if one.name.endswith(".gguf")), "")
        hint = f"; fetch its {packed} by hand, and give that file as --model_name_or_path" if packed else ""
        what = repo if all(one.url for one in listing.files) else f"what was fetched before of {repo}"
        raise UserError(f"{what} has no weights ({SAFE}); number of its files: {len(listing.files)}{hint}")
    return Listing(repo, model.hub, listing.commit, files)


def _list_huggingface(repo: str, revision: str, model: ModelOptions) -> Listing:
    from huggingface_hub import HfApi, constants, is_offline_mode

    if is_offline_mode():
        return _list_fetched(repo, revision, model)
    check_hub(model.hf_auth_token)
    with hub_errors(repo, "huggingface"):
        info = HfApi(token=model.hf_auth_token).model_info(repo, revision=revision, files_metadata=True)
    files = [
        RemoteFile(
            one.rfilename,
            f"{constants.ENDPOINT}/{repo}/resolve/{info.sha or revision}/{quote(one.rfilename)}",
            one.size,
            one.lfs.sha256 if one.lfs else "",
        )
        for one in info.siblings or ()
    ]
    return Listing(repo, "huggingface", info.sha or revision, tuple(files))


def _list_fetched(repo: str, revision: str, model: ModelOptions) -> Listing:
    """The files that were fetched before, where the hub is switched off."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(snapshot_download(repo, revision=revision, cache_dir=model.cache_dir, local_files_only=True))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"{repo} was not fetched before, and the hub is switched off (HF_HUB_OFFLINE)") from error
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = tuple(RemoteFile(path.relative_to(folder).as_posix(), "", path.stat().st_size) for path in paths)
    return Listing(repo, "huggingface", folder.name, files)


def _list_modelscope(repo: str, revision: str) -> Listing:
    """The files by the route that ModelScope's own client asks."""
    check_hub(None)
    address = f"{modelscope_endpoint()}/api/v1/models/{repo}/repo"
    with hub_errors(repo, "modelscope"):
        try:
            found = list_files(f"{address}/files", revision, paged=False)
        except ListingRefused as error:
            raise DownloadError(_modelscope_refusal(repo, error.status, error.answer)) from error
    files = [
        RemoteFile(
            one.path,
            f"{address}?Revision={quote(revision)}&FilePath={quote(one.path, safe='')}",
            one.size,
            one.sha256,
        )
        for one in found
    ]
    return Listing(repo, "modelscope", revision, tuple(files))


def _modelscope_refusal(repo: str, status: int, answer: Any) -> str:
    page = page_of(repo, "modelscope")
    if status in (401, 403):
        return f"{page} asks for an account or acceptance of its terms: fetch it with ModelScope's own program"
    if status == 404:
        return f"ModelScope has no model {repo} (or it is private): see {page}"
    said = answer.get("Message") if isinstance(answer, dict) else None
    if status == 200 and not said:
        return "the answer is not ModelScope's: is a login page or a proxy between?"
    return f"ModelScope answers {status} for {repo}" + (f": {said}" if said else "")


def _wanted(listing: Listing, *, allow_pickle: bool) -> Iterator[RemoteFile]:
    """The files that are fetched: all but weights in other forms; pickles only where there is nothing else."""
    safe = any(fnmatch.fnmatch(one.name, SAFE) for one in listing.files)
    for one in listing.files:
        try:
            safe_relative_path(one.name)
        except DownloadError as error:
            raise UserError(
                f"{listing.repo} lists the file {one.name!r}, which leads out of the model's folder: nothing was "
                "fetched; look who has put it there"
            ) from error
        pickled = any(fnmatch.fnmatch(one.name, pattern) for pattern in PICKLED)
        if any(fnmatch.fnmatch(one.name, pattern) for pattern in LEFT_OUT) or (pickled and safe):
            continue
        if pickled and not allow_pickle and "/" not in one.name and not one.name.startswith("adapter_model"):
            raise UserError(
                f"{listing.repo} has only pickled weights ({one.name}), which can run code when read; "
                "if you trust where they come from add --allow_pickle true"
            )
        yield one


def fetch_repository(listing: Listing, model: ModelOptions) -> Path:
    """Return a folder with the files of a listing, fetched as far as they are not here. Raises `UserError`.

    Space on the disk is looked at before anything comes; a download that broke off is resumed. Every shard that
    an index names, and every byte that a safetensors file announces, is there.
    """
    if listing.hub == "modelscope":
        return _fetch_modelscope(listing)
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    cache = Path(model.cache_dir or constants.HF_HUB_CACHE)
    missing = [
        one for one in listing.files
        if not isinstance(try_to_load_from_cache(listing.repo, one.name, cache, listing.commit), str)
    ]  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    check_free_space(sum(one.size or 0 for one in missing), cache)
    shown = not are_progress_bars_disabled()
    if shown and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        with hub_errors(listing.repo, "huggingface", cache):
            folder = Path(
                snapshot_download(
                    listing.repo, revision=model.model_revision, cache_dir=cache, token=model.hf_auth_token,
                    allow_patterns=[_literal(one.name) for one in listing.files],
                )
            )  # fmt: skip
    finally:
        if shown:
            enable_progress_bars()
    for one in missing:
        path = folder / one.name
        if one.sha256 and path.is_file() and sha256_of(path) != one.sha256:  # the hub's own program looks at the size
            _throw_away(path)
            raise UserError(f"{listing.repo}: {one.name} came damaged (its SHA-256 is another): fetch it again")
    check_whole(folder, listing.files)
    return folder


def _throw_away(path: Path) -> None:
    """Remove a file of the hub's cache, which is a link there, so that it is fetched again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _literal(name: str) -> str:
    """A pattern that fits this name only."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def modelscope_folder(repo: str, revision: str = "master") -> Path:
    """Where a revision of a repository of ModelScope is kept."""
    name = repo if revision == "master" else f"{repo}@{revision}"
    return model_home() / "modelscope" / name.replace("/", "--")


def _fetch_modelscope(listing: Listing) -> Path:
    from filelock import FileLock

    target = modelscope_folder(listing.repo, listing.commit)
    incoming = target.with_name(f".{target.name}.incoming")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        incoming.mkdir(exist_ok=True)
        with hub_errors(listing.repo, "modelscope", incoming):
            here = {one.name for one in listing.files if _has(incoming / one.name, one.size)}
            check_free_space(sum(one.size or 0 for one in listing.files if one.name not in here), incoming)
            for one in listing.files:
                if one.name not in here:
                    download(one, incoming / safe_relative_path(one.name))
        check_whole(incoming, listing.files)
        write_json(incoming / PULLED, {"hub": listing.hub, "repo": listing.repo, "commit": listing.commit})
        write_digests(incoming)
        incoming.rename(target)
    return target


def _has(path: Path, size: int | None) -> bool:
    return path.is_file() and path.stat().st_size == size


def check_whole(folder: Path, files: Sequence[RemoteFile] = ()) -> None:
    """Raise `UserError` for weights in a folder that are not all there: a missing shard, a file that was cut off."""
    for one in files:
        path = folder / one.name
        if not path.is_file():
            raise UserError(f"{folder} lacks {one.name}: fetch it again")
        if one.size is not None and path.stat().st_size != one.size:
            raise UserError(
                f"{path.resolve()} has {path.stat().st_size:,} bytes instead of {one.size:,}: remove it, fetch it again"
            )
    for index in sorted(folder.glob("*.index.json")):
        shards = shard_names(index)
        if index.name.endswith(".bin.index.json") and any(folder.glob("*.safetensors")):
            continue  # the pickles of the same weights
        if (folder / index.name.removesuffix(".index.json")).is_file():
            continue  # the same weights in one file, which every loader prefers
        if gone := [name for name in shards if not (folder / name).is_file()]:
            raise UserError(f"{folder} lacks {len(gone)} of {len(shards)} files of weights (the first: {gone[0]})")
    for path in sorted(folder.glob("*.safetensors")):
        check_safetensors(path)


def check_safetensors(path: Path) -> None:
    """Raise `UserError` for a safetensors file that is shorter, or longer, than its header says."""
    size = path.stat().st_size
    try:
        begins, header = safetensors_header(path)
        ends = max((one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}): fetch it again") from error
    if begins + ends != size:
        raise UserError(f"{path} has {size:,} bytes, and its header tells of {begins + ends:,}: fetch it again")


def _ways_out(repo: str, hub: Hub) -> str:
    """What helps where a hub is not reached: a mirror, and the other hub where it is known to have the model."""
    if hub == "huggingface":
        return "set HF_ENDPOINT to a mirror" + ", or give --hub modelscope" * is_on(repo, "modelscope")
    if is_on(repo, "huggingface"):
        return "leave --hub out to take Hugging Face, with HF_ENDPOINT set to a mirror where it is not reached"
    return "look at the network and its proxy; no id of Hugging Face is known"


@contextmanager
def hub_errors(repo: str, hub: Hub, folder: Path | None = None) -> Iterator[None]:
    """Turn what a hub, the network or the disk refuses into one line."""
    import httpx2
    from huggingface_hub import errors as of_hub

    page = page_of(repo, hub)
    try:
        yield
    except of_hub.GatedRepoError as error:
        raise UserError(
            f"{page} asks you to accept its terms: do so there, then give your token with --hf_auth_token (or HF_TOKEN)"
        ) from error
    except of_hub.RepositoryNotFoundError as error:
        raise UserError(f"the hub has no model {repo}, or it is private (--hf_auth_token)") from error
    except of_hub.RevisionNotFoundError as error:
        raise UserError(f"{page} has no such --model_revision") from error
    except (of_hub.OfflineModeIsEnabled, of_hub.LocalEntryNotFoundError) as error:
        reason = (
            "is switched off (HF_HUB_OFFLINE)"
            if isinstance(error, of_hub.OfflineModeIsEnabled)
            else "cannot be reached"
        )
        raise UserError(f"{repo} is not among what was fetched before, and the hub {reason}") from error
    except (HostUnreachable, httpx2.TransportError) as error:
        cause = error.__cause__ if isinstance(error, HostUnreachable) else error
        never = cause is None or isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError))
        name = "ModelScope" if hub == "modelscope" else "Hugging Face"
        state = f"no connection to {name} for {repo}:" if never else f"{repo}: the hub broke off: try again,"
        raise UserError(f"{state} {_ways_out(repo, hub)}") from error
    except (DownloadError, of_hub.HfHubHTTPError) as error:
        token = ""
        if isinstance(error, of_hub.HfHubHTTPError) and error.response.status_code in (401, 403):
            token = "; does your token hold (--hf_auth_token, HF_TOKEN)?"
        raise UserError(f"{repo}: {str(error).splitlines()[0].rstrip('.')}{token}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{repo}: the answer is no hub's ({error}): is a login page or a proxy between, or HF_ENDPOINT no mirror?"
        ) from error
    except OSError as error:
        if is_disk_full(error):
            raise UserError(disk_full_message(error, folder)) from error
        raise UserError(f"{repo} cannot be fetched: {shorten(str(error), 300, placeholder=' ...')}") from error


def copy_small(source: Path, target: Path) -> None:
    """Copy what stands beside weights: configuration, tokenizer, licence, card."""
    for path in sorted(source.iterdir()):
        weights = any(fnmatch.fnmatch(path.name, pattern) for pattern in (SAFE, *PICKLED, "*.index.json"))
        if path.is_file() and not weights:
            shutil.copy(path, target / path.name)
