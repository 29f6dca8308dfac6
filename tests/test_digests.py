"""SHA256SUMS of a folder: written as coreutils reads it, and what has changed since is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from carellama.errors import UserError
from carellama.model.digests import DIGESTS, check_digests, read_digests, write_digests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("config.json", "web/index.html", "-dash", "模型.gguf", "two  spaces", "back\\slash", "new\nline")
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number]) * 1000)
    write_digests(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils are not installed")
def test_sha256sum_reads_what_is_written_and_what_it_writes_is_read(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", DIGESTS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 7, done.stderr
    ours = read_digests(folder)
    theirs = subprocess.run(["sha256sum", "--", *ours], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert sorted(theirs.splitlines()) == sorted((folder / DIGESTS).read_text().splitlines())
    (folder / DIGESTS).write_text(theirs)
    assert read_digests(folder) == ours and check_digests(folder) == []


def test_changed_missing_and_added_files_are_named(folder: Path) -> None:
    assert check_digests(folder) == []
    (folder / "web/index.html").write_bytes(b"\1" * 999 + b"\2")
    (folder / "模型.gguf").unlink()
    (folder / "web/added.js").write_bytes(b"x")
    faults = check_digests(folder)
    assert [fault.split(":")[0] for fault in faults] == ["模型.gguf", "web/added.js", "web/index.html"]
    assert "missing" in faults[0] and "not in SHA256SUMS" in faults[1] and "changed" in faults[2]


def test_what_is_no_file_is_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Links to folders, links to nothing and pipes were passed over, and the folder was called as it was written."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "code.py").touch()
    (folder / "web/linked").symlink_to(elsewhere)
    (folder / "dangling").symlink_to("nowhere")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "web/pipe")
    assert check_digests(folder) == [
        "circle: a link to what is not there (circle), so nobody can vouch for it",
        "dangling: a link to what is not there (nowhere), so nobody can vouch for it",
        f"web/linked: a link to a folder ({elsewhere}), so nobody can vouch for it",
        "web/pipe: no file (a pipe, a socket or a device), so nobody can vouch for it",
    ]
    (folder / DIGESTS).unlink()
    os.mkfifo(folder / DIGESTS)
    with pytest.raises(UserError, match="SHA256SUMS is no file"):  # it was waited for without end
        check_digests(folder)


def test_a_snapshot_of_the_hubs_cache_is_files(tmp_path: Path) -> None:
    """There all files are links to blobs; they are compared by what they lead to."""
    blob, snapshot = tmp_path / "blobs/0123", tmp_path / "snapshots/abc"
    for path in (blob.parent, snapshot / "sub"):
        path.mkdir(parents=True)
    blob.write_bytes(b"weights")
    for name in ("model.safetensors", "sub/model.safetensors"):
        (snapshot / name).symlink_to(blob)
    write_digests(snapshot)
    assert len(read_digests(snapshot)) == 2 and check_digests(snapshot) == []
    blob.write_bytes(b"others")
    assert ["changed or damaged" in fault for fault in check_digests(snapshot)] == [True, True]
    blob.unlink()
    assert ["a link to what is not there" in fault for fault in check_digests(snapshot)] == [True, True]


def test_what_a_hub_puts_beside_the_files_is_no_fault(folder: Path) -> None:
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/x.lock").touch()
    (folder / "model.sig").touch()
    (folder / ".gitattributes").touch()
    assert check_digests(folder) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no file"),
        ("0123  a\n", r"SHA256SUMS:1: no line of sha256sum"),
        (f"{'a' * 64}  config.json\n{'a' * 64}  ../outside\n", r"SHA256SUMS:2: \.\./outside leads out"),
        (f"{'a' * 64}  /etc/passwd\n", "leads out"),
        (f"{'a' * 64}  x\n{'b' * 64}  ./x\n", "SHA256SUMS:2: x has another digest in an earlier line"),
    ],
)
def test_a_file_that_is_no_list_of_digests_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / DIGESTS).write_text(text)
    with pytest.raises(UserError, match=said):
        check_digests(folder)


def test_a_folder_without_digests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no SHA256SUMS"):
        check_digests(tmp_path)
