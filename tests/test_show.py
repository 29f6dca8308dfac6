"""What the catalogue shows of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from carellama.data.catalogue import show
from carellama.data.catalogue.entries import Entry, Part, entries
from carellama.download.hosts import Host
from carellama.errors import UserError
from carellama.files import write_json


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path))


def test_the_list_has_every_dataset_whole_and_in_columns(capsys):
    show.list_datasets([])
    heading, *lines, count = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(entries())
    for line, entry in zip(lines, entries().values(), strict=True):
        assert entry.licence in line and entry.rows in line and entry.hosts[0].kind in line
    assert heading.split() == list(show.HEADINGS) and f"{len(lines)} of {len(lines)}" in count


@pytest.mark.parametrize("stage", ["pt", "sft", "rm", "exam"])
def test_the_list_can_be_of_one_stage_and_language(stage, capsys):
    show.list_datasets(["--stage", stage, "--language", "en"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert names == [name for name, own in entries().items() if stage in own.stages and "en" in own.language]


def test_what_is_pulled_is_said(tmp_path, capsys):
    files = tmp_path / "datasets/chatmed-consult/files"
    files.mkdir(parents=True)
    (files / "ChatMed_Consult-v0.3.json").write_bytes(b"12345")
    write_json(files.parent / "pulled.json", {"sources": [{"source": "huggingface"}], "time": "then"})
    show.list_datasets([])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("yes")] == [
        "chatmed-consult"
    ]
    show.show(["chatmed-consult"])
    out = capsys.readouterr().out
    assert "pulled then from huggingface" in out and "5 bytes  ChatMed_Consult-v0.3.json" in out
    assert out.endswith("next: carellama data convert chatmed-consult\n")


def test_show_says_all_that_an_entry_has():
    part = Part("dialogues", "sft", ("train*",), ("test*",), ("turns",))
    places = (
        Host("github", "owner/name", ("a.zip",), "v1", "ab" * 32, "the smaller one"),
        Host("manual", "https://page"),
    )
    entry = Entry("toy", "A toy", "zh", "12", "MIT", "https://terms", True, "https://home", places, (part,), "A note.")
    text = "\n".join(show.description(entry))
    for word in (
        "A toy",
        "https://terms",
        "has to be accepted",
        "https://home",
        "owner/name at v1",
        "a.zip",
        "ab" * 32,
    ):
        assert word in text
    for word in ("the smaller one", "https://page", "toy:dialogues", "train*", "test*", "turns", "A note.", "ab" * 32):
        assert word in text
    assert text.endswith("next: carellama data pull toy --accept_licence")


def test_every_entry_can_be_shown(capsys):
    for name in entries():
        show.show([name])
    assert capsys.readouterr().out.count("next: carellama data pull") == len(entries())


def test_an_unknown_name_has_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'chatmed-consult'"):
        show.show(["chatmed-consul"])


def test_the_list_needs_nothing_of_a_model():
    program = (
        "import sys; from carellama.data.catalogue.show import list_datasets; list_datasets([]); "
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
