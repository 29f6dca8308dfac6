"""An export uploaded to Hugging Face or ModelScope: listed first, private unless told otherwise, resumable.

    push(Path("output_export"), "hf:someone/llama2-7b-medical", public=False)

The token is that of the environment or of an earlier login (`hf auth login`, `modelscope login`). Large files are sent
before the commit that names them, so an upload that broke off resumes with those that the hub does not have yet.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carellama.errors import UserError, need
from carellama.files import print_status
from carellama.model.card_head import card_head, stated_licence

PLACE = re.compile(r"(hf|modelscope):([\w.-]+/[\w.-]+)")
Hub = Literal["hf", "modelscope"]
SITES = {"hf": "the Hugging Face hub", "modelscope": "ModelScope"}
LOGINS = {"hf": "`hf auth login`, or set HF_TOKEN", "modelscope": "`modelscope login`, or set MODELSCOPE_API_TOKEN"}
LEFT_OUT = (".*", "*.tmp")  # locks and what another program has begun


@dataclass(frozen=True)
class Place:
    """Where a folder goes."""

    hub: Hub
    repo: str

    def __str__(self) -> str:
        return f"{self.hub}:{self.repo}"


def parse_place(text: str) -> Place:
    """Read `--push_to`. Raises `UserError` for what is no place."""
    match = PLACE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"--push_to {text}: give hf:USER/NAME or modelscope:USER/NAME")
    return Place("hf" if match[1] == "hf" else "modelscope", match[2])


def listing(folder: Path) -> list[tuple[str, int]]:
    """Return the files that are uploaded, with their sizes in bytes."""
    found = [
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.match(pattern) for pattern in LEFT_OUT)
    ]
    return [(name, size) for name, size in found if not any(part.startswith(".") for part in name.split("/"))]


def print_listing(folder: Path, place: Place, *, public: bool) -> None:
    """Print what is uploaded, before anything is."""
    files = listing(folder)
    if not files:
        raise UserError(f"--push_to {place}: {folder} holds no file")
    total = sum(size for _, size in files)
    print_status(f"to {place} ({'public' if public else 'private'}): {len(files)} files, {total / 1e6:,.1f} MB")
    for name, size in files:
        print_status(f"  {size / 1e6:12,.3f} MB  {name}")


def push(folder: Path, text: str, *, public: bool, token: str | None = None) -> str:
    """Upload a folder and return its address. Raises `UserError` in one line for what the hub refuses."""
    place = parse_place(text)
    print_listing(folder, place, public=public)
    with _in_one_line(place, folder):
        return (_to_hf if place.hub == "hf" else _to_modelscope)(folder, place.repo, public=public, token=token)


def _to_hf(folder: Path, repo: str, *, public: bool, token: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    api = HfApi(token=token)
    disable_progress_bars()
    made = api.create_repo(repo, private=not public, exist_ok=True)
    if not public and api.model_info(repo).private is False:
        raise UserError(_is_there(f"hf:{repo}"))
    names = [name for name, _ in listing(folder)]
    api.upload_folder(
        repo_id=repo, folder_path=folder, allow_patterns=[_literal(name) for name in names],
        commit_message="Upload an export of CareLlama",
    )  # fmt: skip
    return str(made)


def _to_modelscope(folder: Path, repo: str, *, public: bool, token: str | None) -> str:
    """Upload by ModelScope's own package and with a token of its own: `token` is that of Hugging Face."""
    del token
    why = "uploading to ModelScope (pip install 'modelscope>=1.40')"
    api = need("modelscope.hub.api", extra="hub", why=why).HubApi()
    if api.repo_exists(repo, repo_type="model", re_raise=True):
        if not public and _is_public(api.get_model(repo)):
            raise UserError(_is_there(f"modelscope:{repo}"))
    else:
        visibility = "public" if public else "private"
        licence = stated_licence(card_head(folder)) or "other"  # without one their package would write Apache-2.0
        api.create_repo(repo, repo_type="model", visibility=visibility, license=licence)
    api.upload_folder(
        repo_id=repo, folder_path=str(folder), repo_type="model", use_cache=False, disable_tqdm=True,
        allow_patterns=[_literal(name) for name, _ in listing(folder)],
        commit_message="Upload an export of CareLlama",
    )  # fmt: skip
    return f"{api.endpoint}/models/{repo}"


def _is_public(about: Mapping[str, object]) -> bool:
    """Whether what ModelScope says of a repository is that everybody may read it (1: private, 3: internal)."""
    return next((about[key] not in (1, 3) for key in ("Visibility", "visibility") if about.get(key)), True)


def _is_there(place: str) -> str:
    return f"{place} is there already and is public: give --push_public true to upload to it, or another name"


def _literal(name: str) -> str:
    """A file name as a pattern that is nothing but this name."""
    return re.sub(r"([*?\[])", r"[\1]", name)


@contextmanager
def _in_one_line(place: Place, folder: Path) -> Iterator[None]:
    """Say what the hub refuses, and what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own; the reason goes to the user
        status = getattr(getattr(error, "response", None) or error, "status_code", None)  # ModelScope's: of the error
        raise UserError(f"--push_to {place}: {_reason(place, folder, status, error)}") from error


def _reason(place: Place, folder: Path, status: int | None, error: Exception) -> str:
    if status == 401 or type(error).__name__ in ("LocalTokenNotFoundError", "NotLoginException", "AuthenticationError"):
        return f"{SITES[place.hub]} does not know who you are: {LOGINS[place.hub]} with a token that may write"
    if status == 403:
        return f"this token may not write to {place.repo}: take one with the permission to write, or another name"
    if status == 404:
        return f"{SITES[place.hub]} has no such place, or the token may not see it: check user and name"
    if status == 409:
        return f"{place.repo} has changed meanwhile, or the name is taken: {_again(place, folder)}"
    if status == 413 or status == 507:
        return "the hub has no room for it: a file or the whole is larger than your account may have"
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{said[:200]}; {_again(place, folder)}"


def _again(place: Place, folder: Path) -> str:
    """The command that goes on: the export itself stays."""
    return f"go on with `{place.hub} upload {place.repo} {shlex.quote(str(folder))}`, which sends what is missing"
