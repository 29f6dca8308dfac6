"""Lists of files on ModelScope that do not fit into one answer: pages of datasets, folders of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from carellama.download import modelscope
from carellama.download.hosts import Host, list_host_files
from carellama.download.http import DownloadError
from carellama.download.modelscope import PAGE_SIZE, list_files
from hub_answers import Hub
from hub_double import hub_double

FILES = [f"part/{number:04}.jsonl" for number in range(2 * PAGE_SIZE + 7)]


def test_a_dataset_is_listed_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(url: str, method: str, parameters: dict[str, str]) -> httpx2.Response:
        asked.append(parameters["PageNumber"])
        begins = (int(parameters["PageNumber"]) - 1) * PAGE_SIZE
        rows = [{"Path": name, "Type": "blob", "Size": 3} for name in FILES[begins : begins + PAGE_SIZE]]
        return httpx2.Response(200, content=json.dumps({"Code": 200, "Data": {"Files": rows}}))

    monkeypatch.setattr(modelscope, "check_reachable", answer)
    revision, remotes = list_host_files(Host("modelscope", "o/n", ("part/*",)), token=None)
    assert revision == "master" and [one.name for one in remotes] == FILES and asked == ["1", "2", "3"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    for name in ("config.json", "a/one.bin", "a/deep/two.bin", "a/deep/three.bin", "b/four.bin"):
        place = tmp_path / "model" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(name.encode())
    with hub_double() as made:
        made.add("lab/toy", tmp_path / "model")
        yield made


def files_of(hub: Hub) -> list[Any]:
    return list_files(f"{hub.url}/api/v1/models/lab/toy/repo/files", "master", paged=False)


def test_a_short_list_of_a_model_is_asked_for_once(hub: Hub) -> None:
    assert {one.path for one in files_of(hub)} == {*hub.repositories["lab/toy"].files} and len(hub.asked) == 1


def test_a_list_that_may_be_cut_off_is_asked_for_by_folder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "LONGEST_LIST", 4)
    hub.longest_list = 4
    found = {one.path: one.size for one in files_of(hub)}
    assert found == {name: len(body) for name, body in hub.repositories["lab/toy"].files.items()}
    roots = [parse_qs(urlsplit(path).query).get("Root", [""])[0] for _, path, _ in hub.asked]
    assert sorted(roots) == ["", "", "a", "a/deep", "b"]


def test_a_folder_that_is_itself_too_long_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "LONGEST_LIST", 2)
    hub.longest_list = 2
    with pytest.raises(DownloadError, match=r"the folder / has 2 files or more.*ModelScope's own program"):
        files_of(hub)
