"""What each kind of host has of a dataset, and how a file of it is fetched.

    for remote in list_host_files(entry.hosts[0], token=None):
        fetch_file(entry.hosts[0], remote, Path("incoming"), token=None)

Hugging Face goes through `huggingface_hub` (its mirror HF_ENDPOINT, its tokens, its resuming); ModelScope by the
file API of its hub (modelscope/hub/api.py), GitHub by raw files and the tree API, Google Drive by its download page.
"""

from __future__ import annotations

import fnmatch
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote, urlsplit

from carellama.download.http import (
    DownloadedFile,
    DownloadError,
    HostUnreachable,
    RemoteFile,
    check_free_space,
    check_reachable,
    download,
    get_json,
    sha256_of,
)
from carellama.download.modelscope import ListingRefused, list_files

HostKind = Literal["huggingface", "modelscope", "github", "google-drive", "url", "manual"]
BASE_URLS = {
    "modelscope": "https://www.modelscope.cn/api/v1/datasets/{repo}/repo?Revision={revision}&FilePath={path}",
    "modelscope-tree": "https://www.modelscope.cn/api/v1/datasets/{repo}/repo/tree",
    "github": "https://raw.githubusercontent.com/{repo}/{revision}/{path}",
    "github-lfs": "https://media.githubusercontent.com/media/{repo}/{revision}/{path}",
    "github-tree": "https://api.github.com/repos/{repo}/git/trees/{revision}",
    "google-drive": "https://drive.usercontent.google.com/download?id={repo}&export=download&confirm=t",
    "google-drive-page": "https://drive.google.com/file/d/{repo}/view",
}
NON_DATA_FILES = ("README*", ".*", "*.py", "*/.*", "dataset_infos.json")  # left where a host names no files


@dataclass(frozen=True)
class Host:
    """One place a dataset can be had from.

    huggingface, modelscope: `repo` "owner/name" and `files`, names or patterns in it.
    github: `repo` "owner/name", `revision`, and `files`, paths in it. google-drive: `repo` is the file's id, `files`
    the name to keep it under. url: `repo` is the address. manual: `repo` is the page to visit, `files` what to
    look for there.

    Hosts with the same `holds` are places of the same files, and one of them is enough; where a dataset is spread over
    several repositories each has its own `holds`, the folder under which its files are kept.
    """

    kind: HostKind
    repo: str
    files: tuple[str, ...] = ()
    revision: str = "main"
    sha256: str = ""  # of a single file, where we have seen it
    note: str = ""
    holds: str = ""
    seen: bool = True  # False: nobody saw the host's list of files, the names are what others say of it


def web_page_of(host: Host) -> str:
    """The page a person opens to see the host's files."""
    kinds = {
        "huggingface": f"https://huggingface.co/datasets/{host.repo}",
        "modelscope": f"https://www.modelscope.cn/datasets/{host.repo}",
        "github": f"https://github.com/{host.repo}",
        "google-drive": BASE_URLS["google-drive-page"].format(repo=host.repo),
    }
    return kinds.get(host.kind, host.repo)


def list_host_files(host: Host, token: str | None) -> tuple[str, list[RemoteFile]]:
    """(revision, files) of a host. Raises `DownloadError` where it cannot be reached or has none of the files."""
    kinds = {
        "huggingface": _list_huggingface, "modelscope": _list_modelscope, "github": _list_github,
        "google-drive": _list_google_drive, "url": _list_url,
    }  # fmt: skip
    revision, remotes = kinds[host.kind](host, token)
    if len(remotes) == 1 and host.sha256:
        remotes = [replace(remotes[0], sha256=host.sha256)]
    for remote in remotes:
        safe_relative_path(remote.name)
    return revision, remotes


def safe_relative_path(name: str) -> PurePosixPath:
    """A relative path that stays in its folder; `DownloadError` for any other (a name the host chose)."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise DownloadError(f"the path {name!r} leads out of the dataset's folder")
    return path


def select_files(names: Sequence[str], host: Host) -> list[str]:
    """Those of a host's files that its entry names; all that hold data where it names none."""
    if not host.files:
        return [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in NON_DATA_FILES)]
    found = []
    for pattern in host.files:
        fits = [name for name in names if fnmatch.fnmatchcase(name, pattern) or name == pattern]
        if not fits and not is_pattern(pattern):
            raise DownloadError(f"{web_page_of(host)} has no file {pattern}")
        found += fits
    if not found:
        raise DownloadError(f"{web_page_of(host)} has no file {' or '.join(host.files)}")
    return list(dict.fromkeys(found))


def is_pattern(name: str) -> bool:
    """Whether a name stands for several files, or for none where a host keeps the same in another format."""
    return bool(set(name) & set("*?["))


def _list_huggingface(host: Host, token: str | None) -> tuple[str, list[RemoteFile]]:
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        info = HfApi(token=token).dataset_info(host.repo, revision=host.revision, files_metadata=True)
    except GatedRepoError as error:
        raise DownloadError(_is_gated(host)) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(f"{web_page_of(host)} is not there, or is private") from error
    except (OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise HostUnreachable(urlsplit(constants.ENDPOINT).netloc) from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{web_page_of(host)}: {str(error).splitlines()[0]}") from error
    known = {file.rfilename: file for file in info.siblings or ()}
    revision = info.sha or host.revision
    return revision, [
        RemoteFile(
            name,
            f"{constants.ENDPOINT}/datasets/{host.repo}/resolve/{revision}/{quote(name)}",
            known[name].size,
            lfs.sha256 if (lfs := known[name].lfs) else "",
        )
        for name in select_files(list(known), host)
    ]


def _is_gated(host: Host) -> str:
    return f"{web_page_of(host)} asks for acceptance: accept its terms there, then give your token with --hf_auth_token"


def _list_modelscope(host: Host, _token: str | None) -> tuple[str, list[RemoteFile]]:
    revision = "master" if host.revision == "main" else host.revision
    url = BASE_URLS["modelscope-tree"].format(repo=host.repo)
    try:
        files = {file.path: file for file in list_files(url, revision, paged=True)}
    except ListingRefused as error:
        raise DownloadError(f"{web_page_of(host)} does not list its files (answer {error.status})") from error
    return revision, [
        RemoteFile(
            name,
            BASE_URLS["modelscope"].format(repo=host.repo, revision=revision, path=quote(name, safe="")),
            files[name].size or None,
            files[name].sha256,
        )
        for name in select_files(list(files), host)
    ]


def _list_github(host: Host, _token: str | None) -> tuple[str, list[RemoteFile]]:
    names = list(host.files)
    if not names or any(is_pattern(name) for name in names):
        revision = "HEAD" if host.revision == "main" else host.revision
        tree = get_json(BASE_URLS["github-tree"].format(repo=host.repo, revision=quote(revision)), {"recursive": "1"})
        if tree.get("truncated"):
            raise DownloadError(f"{web_page_of(host)} has more files than GitHub lists")
        names = select_files([item["path"] for item in tree["tree"] if item["type"] == "blob"], host)

    def address(kind: str, name: str, revision: str) -> str:
        return BASE_URLS[kind].format(repo=host.repo, revision=quote(revision), path=quote(name))

    other = "master" if host.revision == "main" else ""  # older repositories
    remotes = [
        RemoteFile(
            name,
            address("github", name, host.revision),
            lfs_url=address("github-lfs", name, host.revision),
            other_url=address("github", name, other) if other else "",
            page=web_page_of(host),
        )
        for name in names
    ]
    check_reachable(remotes[0].url)
    return host.revision, remotes


def _list_google_drive(host: Host, _token: str | None) -> tuple[str, list[RemoteFile]]:
    url = BASE_URLS["google-drive"].format(repo=quote(host.repo))
    check_reachable(url)
    return "", [RemoteFile(host.files[0] if host.files else host.repo, url, page=web_page_of(host))]


def _list_url(host: Host, _token: str | None) -> tuple[str, list[RemoteFile]]:
    check_reachable(host.repo)
    name = host.files[0] if host.files else PurePosixPath(urlsplit(host.repo).path).name
    return "", [RemoteFile(name or "data", host.repo, page=host.repo)]


def fetch_file(host: Host, revision: str, remote: RemoteFile, incoming: Path, token: str | None) -> DownloadedFile:
    """Bring a file to `incoming`/its name. Raises `DownloadError`."""
    target = incoming / safe_relative_path(remote.name)
    if host.kind != "huggingface":
        return download(remote, target)
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import FileMetadataError, GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    incoming.mkdir(parents=True, exist_ok=True)
    check_free_space(remote.size or 0, incoming)
    try:
        found = hf_hub_download(
            host.repo, remote.name, repo_type="dataset", revision=revision, local_dir=incoming, token=token
        )
    except GatedRepoError as error:
        raise DownloadError(_is_gated(host)) from error
    except (HfHubHTTPError, FileMetadataError, LocalEntryNotFoundError, httpx2.TransportError) as error:
        raise DownloadError(f"{remote.name}: {str(error).splitlines()[0] if str(error) else error!r}") from error
    path = Path(found)
    size, sha256 = path.stat().st_size, sha256_of(path)
    if (remote.size is not None and size != remote.size) or (remote.sha256 and sha256 != remote.sha256):
        path.unlink()
        shutil.rmtree(incoming / ".cache", ignore_errors=True)
        raise DownloadError(f"{remote.name} is not what the hub announces (size or SHA-256)")
    return DownloadedFile(remote.url, size, sha256)
