"""Bad input of an export: one line that says what to do, and nothing half-written."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import preloaded
from carellama.config.commands import ExportOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export import command
from conftest import make_model, make_tokenizer
from exporting import export


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process and of those that it starts grows beyond a size."""
    preloaded.python()  # the server of forks has no limit
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "hf,ggfu"}, r"unknown form of --to 'ggfu'\. Did you mean 'gguf'\? Known: "),
        ({"to": "hf,hf"}, "name each once"),
        ({"to": " , "}, "--to names nothing; known: hf"),
        ({"gguf_type": "q2_K"}, r"unknown number format of --gguf_type 'q2_K'\. Known: f16"),  # q6_K was meant
        ({"gguf_type": "q4_K_L"}, r"unknown number format of --gguf_type 'q4_K_L'\. Did you mean 'q4_K_M'\?"),
    ],
)
def test_unknown_forms_are_named_with_the_nearest(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ExportOptions("out", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gguf_type q4_K_M", "--gguf_type needs --to gguf, ollama or web"),
        ("--to gguf,web --max_shard_size 1GB", "--max_shard_size needs --to hf"),
        ("--system hello --to gguf", "--system needs --to ollama or web"),
        (
            "--to GGUF --importance x.gguf --gguf_type Q8_0,f16",
            "--importance needs --gguf_type q6_K, q5_K_M, q4_K_M, iq4_xs or q4_0",
        ),
        ("--lora_rank 16", "--lora_rank needs --to lora"),
        ("--merge linear --merge_seed 0", "--merge_seed needs --merge dare_linear or dare_ties"),
        ("--push_public true", "--push_public needs --push_to"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(words: str, said: str) -> None:
    """A folder was written where somebody had asked for a number format of GGUF, also for the default one."""
    argv = ["--model_name_or_path", "smollm2-135m", "--output_dir", "out", *words.split()]
    with pytest.raises(UserError, match=f"^{said}: nothing of this export reads it$"):
        command.main(argv)


@pytest.mark.parametrize("size", [20_000, 200_000], ids=["weights", "logits"])
def test_a_disk_that_fills_up_leaves_nothing(size: int, tiny_folder: Path, tmp_path: Path) -> None:
    """The tiny weights take 150 kB, the logits of a window 400 kB."""
    with files_of_at_most(size), pytest.raises(UserError) as told:
        export(ModelOptions(str(tiny_folder)), None, tmp_path / "out")
    assert "make room there" in str(told.value) and "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_reward_model_goes_into_no_form_that_answers(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    config = make_model().config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "rm")
    make_tokenizer().save_pretrained(tmp_path / "rm")
    with pytest.raises(UserError, match="--to gguf,web: this is a reward model, which gives scores and no answers"):
        export(ModelOptions(str(tmp_path / "rm")), None, tmp_path / "out", to="hf,gguf,web")
    assert not (tmp_path / "out").exists()


def broken(tiny_folder: Path, folder: Path, how: str) -> Path:
    """A copy of the tiny model in two shards, one of which is missing or cut."""
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").unlink()
    make_model().save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    if how == "missing":
        shards[1].unlink()
    else:
        shards[1].write_bytes(shards[1].read_bytes()[:-1000])
    return folder


def test_a_step_of_a_small_model_is_named_once_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below 50 million weights nothing was said, however long it took."""
    monkeypatch.setattr(command, "SLOW_SECONDS", 0.05)
    for weights, seconds, said in (
        (1000, 0.3, "writing\n  done in 0 s\n"),
        (1000, 0, ""),
        (10**9, 0, "writing\n  done"),
    ):
        with command._announced("writing", SimpleNamespace(weights=weights)):  # type: ignore[arg-type]
            time.sleep(seconds)
        shown = capsys.readouterr().err
        assert shown.startswith(said) and bool(shown) == bool(said)


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_shards_that_are_missing_or_cut_are_named(how: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = broken(tiny_folder, tmp_path / "base", how)
    with pytest.raises(UserError, match="model-00002-of-") as told:
        export(ModelOptions(str(folder)), None, tmp_path / "out")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "hf,lora-gguf"}, "--to lora-gguf writes an adapter: give one as --checkpoint_dir"),
        ({"to": "lora"}, "--lora_base is missing"),
        ({"to": "lora", "lora_base": "./nope"}, r"^--lora_base ./nope: there is no such folder or file"),
        ({"to": "ollama", "system": 'Say """yes"""'}, "cannot stand in a Modelfile"),
        ({"to": "web", "country": "Atlantis"}, "unknown country 'ATLANTIS'"),
        ({"to": "gguf", "importance": "nowhere.gguf"}, "nowhere.gguf"),
        ({"results": "nowhere.json"}, "cannot read nowhere.json"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.get("to", "results"),
)
def test_what_cannot_be_is_refused_before_the_model_is_asked(
    options: dict[str, Any], said: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of results that was not there was noticed last of all, and everything was lost."""
    monkeypatch.setattr("carellama.export.command._measure", lambda *_, **__: pytest.fail("the model was asked"))
    with pytest.raises(UserError, match=said):
        export(ModelOptions(str(tiny_folder)), None, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_interrupted_leaves_nothing(number: Any, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["-m", "carellama", "export", "--model_name_or_path", str(tiny_folder), "--output_dir", str(tmp_path / "o")]
    process = subprocess.Popen([preloaded.python(), *words], stderr=subprocess.PIPE, text=True)
    for _ in range(2000):
        if list(tmp_path.glob(".o.*/scratch/trained/*.npy")):
            break
        time.sleep(0.02)
    assert list(tmp_path.glob(".o.*/scratch/trained/*.npy"))
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_parity_is_what_json_readers_take(tiny_folder: Path, tmp_path: Path) -> None:
    export(ModelOptions(str(tiny_folder)), None, tmp_path / "out")
    read = json.loads((tmp_path / "out" / "parity.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert read["rows"][0]["form"] == "hf" and read["past"] == []


def test_each_form_has_its_command_and_its_room_on_the_disk() -> None:
    options = ExportOptions("Ward", to="GGUF,ollama,lora,openvino,web", gguf_type="Q8_0,F16")
    assert (options.targets[:2], options.gguf_types) == (["gguf", "ollama"], ["q8_0", "f16"])
    assert command._uses(Path("Ward"), ModelOptions("base", checkpoint_dir="a"), options) == [
        "carellama chat --model_name_or_path Ward/Ward.q8_0.gguf",
        "ollama create ward -f Ward/Modelfile",
        "carellama chat --model_name_or_path base --checkpoint_dir Ward/lora",
        "carellama chat --model_name_or_path Ward/openvino --engine openvino",
        "python -m http.server 8000 --directory Ward/web      # then open http://localhost:8000",
    ]
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=1))
    source: Any = SimpleNamespace(
        weights=10**9, stored="float32", kind="causal", network=SimpleNamespace(config=config)
    )
    forms = ("hf", "hf,openvino", "hf,lora-gguf", "hf,gptq", "hf,gguf")
    needed = [sum(command._bytes_needed(source, ExportOptions("out", to=one))) / 10**9 for one in forms]
    assert [round(one - needed[0], 2) for one in needed] == [0, 4, 2, 0.65, 4.7]  # a .gguf and what it is made from


def test_a_folder_that_can_not_be_replaced_is_refused_at_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted disk of a container or the current folder: the system says no at the last step, after all the work."""
    model = ModelOptions(str(tiny_folder))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--output_dir \. is the current folder .* as output_export"):
        export(model, None, Path())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output_dir file/out: .*file is a file; give another folder"):
        export(model, None, Path("file/out"))
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(UserError, match="a mounted disk"):
        export(model, None, Path("disk"))
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=r"--output_dir out: .* cannot be written to; give another folder"):
        export(model, None, Path("out"))
