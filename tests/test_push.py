"""Exports uploaded to a hub, a double with its routes: listed before, private, resumed, refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import carellama
from carellama.errors import UserError
from carellama.export.push import listing, parse_place
from hub_answers import Hub
from hub_double import TOKEN, hub_double
from hub_uploads import READER
from reader_environments import environment

PUSH = """
import sys
from pathlib import Path
from carellama.errors import UserError
from carellama.export.push import push
try:
    print(push(Path(sys.argv[1]), sys.argv[2], public=sys.argv[3] == "public"))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "output_export"
    (folder / "lora").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# 模型\n", encoding="utf-8")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 5000)
    (folder / "x.q4_K_M.gguf").write_bytes(b"g" * 3000)
    (folder / "lora" / "adapter_model.safetensors").write_bytes(b"l" * 2000)
    (folder / ".lock").write_text("no")
    return folder


def push(hub: Hub, tmp_path: Path, folder: Path, place: str = "hf:ward/model", *, public: str = "", token: str = TOKEN):
    environment = hub.environment(tmp_path) | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), place, public], env=environment, capture_output=True, text=True
    )


def test_an_export_is_listed_then_uploaded_private(export, tmp_path) -> None:
    with hub_double() as hub:
        done = push(hub, tmp_path, export)
        assert done.returncode == 0, done.stderr
        repository = hub.repositories["ward/model"]
        assert repository.private
        assert repository.files == {
            path.relative_to(export).as_posix(): path.read_bytes()
            for path in export.rglob("*")
            if path.is_file() and path.name != ".lock"
        }
    assert "to hf:ward/model (private): 5 files, 0.0 MB" in done.stderr and "x.q4_K_M.gguf" in done.stderr
    assert f"{hub.url}/ward/model" in done.stdout and TOKEN not in done.stdout + done.stderr


def test_an_upload_that_broke_off_goes_on_with_what_is_missing(export, tmp_path) -> None:
    with hub_double() as hub:
        hub.broken_uploads = 1
        first = push(hub, tmp_path, export)
        assert first.returncode == 1 and "go on with `hf upload ward/model " in first.stderr
        assert hub.repositories["ward/model"].files == {} and len(hub.stored) < 3
        kept = len(hub.stored)
        hub.asked.clear()
        assert push(hub, tmp_path, export).returncode == 0
        assert sum(method == "PUT" for method, *_ in hub.asked) == 3 - kept
        assert len(hub.repositories["ward/model"].files) == 5


def test_a_public_repository_is_not_written_to_unless_told(export, tmp_path) -> None:
    with hub_double() as hub:
        hub.create("ward/model", private=False)
        done = push(hub, tmp_path, export)
        assert "hf:ward/model is there already and is public: give --push_public true" in done.stderr
        assert hub.repositories["ward/model"].files == {}
        assert push(hub, tmp_path, export, public="public").returncode == 0
        assert len(hub.repositories["ward/model"].files) == 5


@pytest.mark.parametrize(
    ("token", "says"),
    [("", "does not know who you are: `hf auth login`, or set HF_TOKEN"), (READER, "may not write to ward/model")],
    ids=["no token", "a token that reads"],
)
def test_what_the_hub_refuses_is_one_line(export, tmp_path, token, says) -> None:
    with hub_double() as hub:
        done = push(hub, tmp_path, export, token=token)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("refused: --push_to hf:ward/model: ") and says in last and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def modelscope_client() -> Path:
    """The Python of an environment with ModelScope's own package."""
    return environment("modelscope")


def push_to_modelscope(hub: Hub, tmp_path: Path, python: Path, folder: Path, public: str = "", token: str = TOKEN):
    own = {"PYTHONPATH": str(Path(carellama.__file__).parents[1]), "MODELSCOPE_HOME": str(tmp_path / "ms")}
    own |= {"MODELSCOPE_CACHE": str(tmp_path / "ms-cache"), "HF_TOKEN": "hf_secret", "MODELSCOPE_API_TOKEN": token}
    command = [str(python), "-c", PUSH, str(folder), "modelscope:ward/model", public]
    return subprocess.run(command, env=hub.environment(tmp_path) | own, capture_output=True, text=True)


@pytest.mark.slow
def test_modelscopes_own_client_uploads_an_export(export, tmp_path, modelscope_client) -> None:
    before = {path: path.read_bytes() for path in export.rglob("*") if path.is_file()}
    with hub_double() as hub:
        done = push_to_modelscope(hub, tmp_path, modelscope_client, export)
        assert done.returncode == 0, done.stderr
        made = hub.repositories["ward/model"]
        assert made.private and made.licence == "mit"
        sent = {path.relative_to(export).as_posix(): body for path, body in before.items() if path.name != ".lock"}
        assert made.files == sent
        assert "to modelscope:ward/model (private): 5 files" in done.stderr
        assert f"{hub.url}/models/ward/model" in done.stdout
        stored = len(hub.stored)
        assert stored and push_to_modelscope(hub, tmp_path, modelscope_client, export).returncode == 0
        assert len(hub.stored) == stored
    assert {path: path.read_bytes() for path in export.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_modelscope_refuses_is_one_line(export, tmp_path, modelscope_client) -> None:
    with hub_double() as hub:
        reading = push_to_modelscope(hub, tmp_path, modelscope_client, export, token=READER)
        assert hub.repositories == {}
        hub.create("ward/model", private=False)
        there = push_to_modelscope(hub, tmp_path, modelscope_client, export)
        assert hub.repositories["ward/model"].files == {}
    for done, says in ((reading, "this token may not write"), (there, "is public: give --push_public true")):
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("refused: ") and says in last


@pytest.mark.parametrize("text", ["ward/model", "hf:model", "github:ward/model", "hf:ward/model/x", ""])
def test_a_place_that_is_none_is_refused(text) -> None:
    with pytest.raises(UserError, match="give hf:USER/NAME or modelscope:USER/NAME"):
        parse_place(text)


def test_hidden_files_stay_here(export) -> None:
    assert ".lock" not in dict(listing(export)) and dict(listing(export))["lora/adapter_model.safetensors"] == 2000
