"""Files of a repository on ModelScope, all of them (modelscope_hub/_legacy_api.py, list_repo_files).

    for file in list_files("https://www.modelscope.cn/api/v1/models/owner/name/repo/files", "master", paged=False):
        print(file.path, file.size)

The route of datasets gives pages; that of models has none, and cuts a long list off without a word. A list that may
have been cut off is asked for folder by folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carellama.download.http import DownloadError, check_reachable

PAGE_SIZE = 100  # files in one answer of the route of datasets
LONGEST_LIST = 3000  # entries after which the route of models cuts off (modelscope_hub/constants.py)


class ListingRefused(DownloadError):
    """ModelScope does not list the files; `status` and `answer` say why."""

    def __init__(self, url: str, status: int, answer: Any) -> None:
        super().__init__(f"{url} answers {status} and does not list its files")
        self.status, self.answer = status, answer


@dataclass(frozen=True)
class RepositoryFile:
    """One file. size: bytes, None where ModelScope does not say; sha256: "" likewise."""

    path: str
    size: int | None
    sha256: str


def list_files(url: str, revision: str, *, paged: bool) -> list[RepositoryFile]:
    """Return the files of a revision. paged: `url` is the route of datasets. Raises `DownloadError`."""
    entries = _pages(url, revision) if paged else _folders(url, revision)
    return [
        RepositoryFile(
            path, int(str(one["Size"])) if one.get("Size") is not None else None, str(one.get("Sha256") or "")
        )
        for path, one in entries.items()
        if one.get("Type") != "tree"
    ]


def _pages(url: str, revision: str) -> dict[str, Mapping[str, Any]]:
    """All entries, page by page until one is not full or brings nothing new."""
    found: dict[str, Mapping[str, Any]] = {}
    for page in range(1, 1 << 20):
        part = _ask(
            url, {"Revision": revision, "Recursive": "True", "PageNumber": str(page), "PageSize": str(PAGE_SIZE)}
        )
        before = len(found)
        found |= {str(one["Path"]): one for one in part}
        if len(part) < PAGE_SIZE or len(found) == before:
            break
    return found


def _folders(url: str, revision: str) -> dict[str, Mapping[str, Any]]:
    """All entries at once, or folder by folder where they may have been cut off."""
    whole = _ask(url, {"Revision": revision, "Recursive": "True"})
    if len(whole) < LONGEST_LIST:
        return {str(one["Path"]): one for one in whole}
    found: dict[str, Mapping[str, Any]] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        part = _ask(url, {"Revision": revision, "Recursive": "False"} | ({"Root": folder} if folder else {}))
        if len(part) >= LONGEST_LIST:
            raise DownloadError(
                f"{url}: the folder {folder or '/'} has {len(part):,} files or more, and ModelScope lists no more: "
                "fetch it with ModelScope's own program"
            )
        folders += [str(one["Path"]) for one in part if one.get("Type") == "tree" and str(one["Path"]) not in found]
        found |= {str(one["Path"]): one for one in part}
    return found


def _ask(url: str, parameters: dict[str, str]) -> list[Mapping[str, Any]]:
    response = check_reachable(url, "GET", parameters)
    try:
        answer = response.json()
    except ValueError:
        answer = {}
    data = answer.get("Data") if isinstance(answer, dict) else None
    if response.status_code != 200 or not isinstance(data, dict) or not isinstance(data.get("Files"), list):
        raise ListingRefused(url, response.status_code, answer)
    return list(data["Files"])
