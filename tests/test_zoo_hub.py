"""Models by name from a double of the hubs: adapters with their base, deltas, pickles, shards, moved and gated ids."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from carellama.config.data import PromptOptions
from carellama.config.environment import model_home
from carellama.config.model import ModelOptions
from carellama.download import http
from carellama.errors import UserError
from carellama.model.digests import check_digests
from carellama.model.load import _check_hub_access, load_model
from carellama.model.tokenizer import load_tokenizer
from carellama.model.zoo import entries, pull_command, verify
from carellama.model.zoo.delta import apply_delta
from carellama.model.zoo.entries import ModelEntry
from carellama.model.zoo.fetch import check_safetensors, fetch_repository, list_repository
from carellama.model.zoo.pull import with_named_weights
from carellama.weights import base_fingerprint, fingerprint
from conftest import make_model
from hub_answers import Hub, Repository
from hub_double import TOKEN, hub_double
from test_adapter import logits, trained

MATRIX = "model.layers.0.mlp.up_proj.weight"
OWN = [  # entries of the tests
    {"name": "toy", "about": "Whole.", "kind": "model", "hub": "lab/toy", "aliases": ["old/toy"], "template": "qwen"},
    {"name": "toy-lora", "about": "On it.", "kind": "adapter", "hub": "lab/toy-lora", "base": "lab/toy"},
    {
        "name": "toy-delta", "about": "To it.", "kind": "delta", "hub": "lab/toy-delta", "base": "lab/toy",
        "modelscope": "lab/toy-delta", "base_modelscope": "lab/toy", "delta_whole": ["lm_head"],
    },
    {"name": "toy-bin", "about": "Pickled.", "kind": "model", "hub": "lab/toy-bin", "weights": "bin"},
    {"name": "toy-page", "about": "Elsewhere.", "kind": "model", "page": "https://example.org/weights"},
]  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The double with a whole model `lab/toy`; huggingface_hub and ModelScope of this process ask it."""
    from huggingface_hub import constants

    found = tuple(entries.entry_of(row, "tests") for row in OWN)
    monkeypatch.setattr(entries, "released_entries", lambda: found)
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "RETRY_DELAYS", (0.0,))
    with hub_double() as made:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", made.url)
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        made.add("lab/toy", tiny_folder)
        yield made


def options(name: str, **more: object) -> ModelOptions:
    return replace(ModelOptions(name), **more)  # type: ignore[arg-type]


def changed(folder: Path, by: float, target: Path) -> Path:
    """A copy of a model with other weights, as fine-tuning leaves them."""
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(3)
    moved = {
        name: value + by * value.std().nan_to_num(0.1) * torch.randn_like(value) for name, value in weights.items()
    }
    save_file(moved, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_an_adapter_brings_its_base_and_is_verified(hub: Hub, tmp_path: Path, capsys) -> None:
    adapter = trained(make_model(), tmp_path / "adapter")
    hub.add("lab/toy-lora", adapter)
    pull_command.run(["toy-lora"])
    said = capsys.readouterr()
    assert "lab/toy-lora (" in said.err and f"lab/toy at {'a' * 40}" in said.err and "next: carellama chat" in said.out
    model, _ = with_named_weights(options("toy-lora"), PromptOptions())
    assert (model.model_name_or_path, model.checkpoints) == ("lab/toy", [str(model_home() / "toy-lora")])
    assert check_digests(model_home() / "toy-lora") == []
    record = json.loads((model_home() / "toy-lora" / "pulled.json").read_text())
    assert (record["repo"], record["commit"]) == ("lab/toy-lora", "a" * 40)
    asked = len(hub.asked)
    with_named_weights(options("toy-lora"), PromptOptions())
    assert len(hub.asked) == asked  # it is there
    verify.run(["toy-lora"])
    (model_home() / "toy-lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        verify.run(["toy-lora"])
    assert ended.value.code == 1 and "adapter_config.json: changed or damaged" in capsys.readouterr().out


def test_another_revision_of_a_named_adapter_is_fetched_or_refused(hub: Hub, tmp_path: Path) -> None:
    """It was ignored for the adapter, and asked of its base."""
    adapter = trained(make_model(), tmp_path / "adapter")
    hub.add("lab/toy-lora", adapter, commit="b" * 40)
    with_named_weights(options("toy-lora"), PromptOptions())
    hub.repositories["lab/toy-lora"].commit = "c" * 40
    model, _ = with_named_weights(options("toy-lora", model_revision="c" * 40), PromptOptions())
    assert model.checkpoints == [str(model_home() / f"toy-lora@{'c' * 40}")]
    assert (model.model_name_or_path, model.model_revision) == ("lab/toy", "main")
    record = json.loads((Path(model.checkpoints[0]) / "pulled.json").read_text())
    assert record["commit"] == "c" * 40
    for name in ("toy-lora", "toy-delta"):
        hub.add(f"lab/{name}", adapter)
        with pytest.raises(UserError, match=f"lab/{name} has no such --model_revision"):
            with_named_weights(options(name, model_revision="v9"), PromptOptions())
        with pytest.raises(UserError, match=f"lab/{name} has no such --model_revision"):
            pull_command.run([name, "--model_revision", "v9"])
    base = options("lab/toy", checkpoint_dir="toy-lora", model_revision="a" * 40)
    model, _ = with_named_weights(base, PromptOptions())  # here it is the base's
    assert (model.checkpoints, model.model_revision) == ([str(model_home() / "toy-lora")], "a" * 40)


def test_a_delta_is_added_to_its_base(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    tuned = changed(tiny_folder, 0.05, tmp_path / "tuned")
    base, whole = load_file(tiny_folder / "model.safetensors"), load_file(tuned / "model.safetensors")
    difference = {name: value if "lm_head" in name else value - base[name] for name, value in whole.items()}
    names = sorted(difference)
    (tuned / "model.safetensors").unlink()
    for number, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: difference[name] for name in part}, tuned / f"pytorch_model-0000{number}-of-00002.bin")
    hub.add("lab/toy-delta", tuned)
    with pytest.raises(UserError, match="--allow_pickle true"):
        with_named_weights(options("toy-delta"), PromptOptions())
    for where in ("huggingface", "modelscope"):
        asked = options("toy-delta", allow_pickle=True, hub=where)
        model, _ = with_named_weights(asked, PromptOptions())
        made = AutoModelForCausalLM.from_pretrained(model.model_name_or_path).state_dict()
        assert made.keys() >= whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(made[name], value)
        assert check_digests(Path(model.model_name_or_path)) == []
        shutil.rmtree(model.model_name_or_path)


def test_a_delta_of_another_base_or_no_delta_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    def refused(delta: Path, said: str) -> None:
        with pytest.raises(UserError, match=said):
            apply_delta(tiny_folder, delta, tmp_path, allow_pickle=False, names=("the base", "the delta"))

    refused(tiny_folder, "the delta is no difference to the base: it is 1.00 times as large")
    weights = load_file(tiny_folder / "model.safetensors")
    zero = {name: torch.zeros_like(value) for name, value in weights.items()}
    name = next(iter(zero))
    for at, (made, said) in enumerate(
        (
            ({key: value for key, value in zero.items() if key != name}, f"the delta lacks 1 .*{name}"),
            (zero | {"more": torch.zeros(2)}, "the base lacks 1 of the tensors .*more"),
            (zero | {name: torch.zeros(3, 5)}, f"{name} is \\(3, 5\\) there"),
            (zero | {name: zero[name] + torch.nan}, f"no numbers in {name}"),
        )
    ):
        folder = tmp_path / f"delta{at}"
        folder.mkdir()
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
        refused(folder, said)
    more = torch.cat([zero[MATRIX], torch.zeros(8, zero[MATRIX].shape[1])])
    save_file(zero | {MATRIX: more}, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, f"{MATRIX} is ")  # rows that are no tokens
    assert not list(tmp_path.glob("config.json"))


def test_weights_that_transformers_does_not_read_are_no_part_of_a_sum(tiny_folder: Path, tmp_path: Path) -> None:
    """A `model_ema.safetensors` beside the base was taken in its place; a sum past float16 became infinity."""
    base, delta, made = tmp_path / "base", tmp_path / "delta", tmp_path / "made"
    shutil.copytree(tiny_folder, base)
    shutil.copytree(tiny_folder, delta)
    made.mkdir()
    weights, prints = load_file(base / "model.safetensors"), (fingerprint(base), base_fingerprint(base))
    zero = {name: torch.zeros_like(value) for name, value in weights.items()}
    save_file(zero, delta / "model.safetensors", metadata={"format": "pt"})
    for folder in (base, delta):
        save_file({name: value + 1 for name, value in weights.items()}, folder / "model_ema.safetensors")
    assert (fingerprint(base), base_fingerprint(base)) == prints
    apply_delta(base, delta, made, allow_pickle=False, names=("the base", "the delta"))
    assert all(torch.equal(value, weights[name]) for name, value in load_file(made / "model.safetensors").items())
    large = {MATRIX: torch.full_like(zero[MATRIX], 65_504).half()}
    save_file({name: value + 99 for name, value in weights.items()}, base / "model.safetensors")
    save_file(zero | large, delta / "model.safetensors")
    with pytest.raises(UserError, match=f"no numbers in {MATRIX}"):
        apply_delta(base, delta, made, allow_pickle=False, names=("the base", "the delta"))
    with pytest.raises(UserError, match=f"no numbers in {MATRIX}"):
        broken = {MATRIX: zero[MATRIX] + torch.nan}
        save_file(zero | broken, delta / "model.safetensors")
        apply_delta(base, delta, made, allow_pickle=False, names=("the base", "the delta"), whole=(MATRIX,))


def test_a_moved_id_and_an_older_name_lead_to_the_weights(hub: Hub, tiny_folder: Path) -> None:
    hub.moved["old/toy"] = "lab/toy"
    model, data = with_named_weights(options("old/toy"), PromptOptions())
    assert (model.model_name_or_path, data.template) == ("lab/toy", "qwen")
    listing = list_repository("old/toy", options("old/toy"))
    folder = fetch_repository(listing, options("old/toy"))
    assert (folder / "model.safetensors").read_bytes() == (tiny_folder / "model.safetensors").read_bytes()
    network = load_model(options("old/toy"), dtype="float32", attention=None)
    torch.testing.assert_close(logits(network), logits(make_model()))


def test_a_gated_repository_is_one_line_without_its_terms_accepted(hub: Hub) -> None:
    hub.repositories["lab/toy"].gated = True
    for token in (None, "hf_other"):
        with pytest.raises(
            UserError, match=r"https://huggingface.co/lab/toy asks you to accept its terms.*hf_auth_tok"
        ):
            pull_command.run(["toy", *(["--hf_auth_token", token] if token else [])])
    assert not list(model_home().glob("pulled/*"))
    pull_command.run(["toy", "--hf_auth_token", TOKEN])
    assert (model_home() / "pulled" / "toy.json").is_file()


def test_shards_are_whole_or_refused(hub: Hub, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    sharded = tmp_path / "sharded"
    make_model().save_pretrained(sharded, max_shard_size="100KB")
    shards = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(shards) > 2
    hub.add("lab/toy", sharded)
    pull_command.run(["toy"])
    listing = list_repository("lab/toy", options("lab/toy"))
    folder = fetch_repository(listing, options("lab/toy"))
    one, other = base_fingerprint(folder), base_fingerprint(tiny_folder)
    assert one and other and one.tensors == other.tensors
    verify.run(["toy"])
    (folder / shards[0]).resolve().write_bytes(b"\0" * 10)
    with pytest.raises(SystemExit):
        verify.run(["toy"])
    assert f"{shards[0]}: changed or damaged" in capsys.readouterr().out
    blob = (folder / shards[0]).resolve()  # the hub's cache keeps contents once, under all their names
    with pytest.raises(UserError, match=f"{blob} has 10 bytes instead of .*: remove it"):
        fetch_repository(listing, options("lab/toy"))
    blob.unlink()
    lacking = {name: body for name, body in hub.repositories["lab/toy"].files.items() if name != shards[1]}
    hub.repositories["lab/toy"] = Repository(lacking, commit="b" * 40)
    with pytest.raises(UserError, match=f"lacks 1 of {len(shards)} files of weights .the first: {shards[1]}"):
        pull_command.run(["toy"])


def test_a_file_that_is_cut_short_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    body = (tiny_folder / "model.safetensors").read_bytes()
    for size in (4, 100, len(body) - 1):
        (tmp_path / "model.safetensors").write_bytes(body[:size])
        with pytest.raises(UserError, match=r"model.safetensors (is damaged or cut short|has [\d,]+ bytes, and its)"):
            check_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(body)
    check_safetensors(tmp_path / "model.safetensors")


def test_pickles_need_the_flag_and_run_no_code(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_folder, pickled)
    torch.save(load_file(tiny_folder / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    hub.add("lab/toy-bin", pickled)
    for name in ("toy-bin", "lab/toy-bin"):
        with pytest.raises(UserError, match=r"only pickled weights .*--allow_pickle true"):
            with_named_weights(options(name), PromptOptions())
        with pytest.raises(UserError, match=r"only pickled weights .*--allow_pickle true"):
            pull_command.run([name])
    model, _ = with_named_weights(options("toy-bin", allow_pickle=True), PromptOptions())
    network = load_model(model, dtype="float32", attention=None)
    torch.testing.assert_close(logits(network), logits(make_model()))


def test_modelscope_gives_the_same_model_and_goes_on_after_a_break(hub: Hub, tiny_folder: Path, capsys) -> None:
    hub.repositories["lab/toy"].breaks["model.safetensors"] = 2
    size = (tiny_folder / "model.safetensors").stat().st_size
    with pytest.raises(UserError, match=r"lab/toy: model.safetensors: the connection broke"):
        with_named_weights(options("lab/toy", hub="modelscope"), PromptOptions())
    incoming = model_home() / "modelscope" / ".lab--toy.incoming"
    assert incoming.is_dir() and not (model_home() / "modelscope" / "lab--toy").exists()
    model, _ = with_named_weights(options("lab/toy", hub="modelscope"), PromptOptions())
    assert Path(model.model_name_or_path) == model_home() / "modelscope" / "lab--toy" and not incoming.exists()
    ranges = [asked for _, path, asked in hub.asked if "model.safetensors" in path and asked]
    assert ranges and all(0 < int(asked.removeprefix("bytes=").rstrip("-")) < size for asked in ranges)
    torch.testing.assert_close(logits(load_model(model, dtype="float32", attention=None)), logits(make_model()))
    assert check_digests(Path(model.model_name_or_path)) == []
    with pytest.raises(UserError, match="no modelscope id of toy-lora is known; leave --hub out"):
        with_named_weights(options("toy-lora", hub="modelscope"), PromptOptions())
    with pytest.raises(UserError, match="ModelScope has no model lab/none"):
        with_named_weights(options("lab/none", hub="modelscope"), PromptOptions())


def test_another_revision_of_modelscope_is_another_folder(hub: Hub) -> None:
    """What was fetched of `master` is not given out as what was asked for."""
    latest, _ = with_named_weights(options("lab/toy", hub="modelscope"), PromptOptions())
    hub.asked.clear()
    older, _ = with_named_weights(options("lab/toy", hub="modelscope", model_revision="v1.0"), PromptOptions())
    assert older.model_name_or_path != latest.model_name_or_path
    fetched = [path for _, path, _ in hub.asked if "FilePath=model.safetensors" in path]
    assert fetched and all("Revision=v1.0" in path for path in fetched)


def test_what_is_not_there_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for argv, said in (
        (["lab/none"], "the hub has no model lab/none"),
        (["toy", "--model_revision", "nowhere"], "https://huggingface.co/lab/toy has no such --model_revision"),
        (["toy-page"], "toy-page is on no hub: fetch it by hand from https://example.org/weights"),
        (["smoll"], "no model is called smoll"),
    ):
        with pytest.raises(UserError, match=said):
            pull_command.run(argv)
    with pytest.raises(UserError, match=r"no huggingface id of toy-page is known; see https://example.org/weights"):
        with_named_weights(options("toy-page"), PromptOptions())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"lab/toy was not fetched before, and the hub is switched off"):
        pull_command.run(["toy"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pull_command.run(["toy"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pull_command.run(["toy"])  # it is here


@pytest.mark.parametrize(
    ("fault", "pulled", "loaded", "of_modelscope"),
    [
        (500, "500 Internal Server Error", "the hub answers 500", "ModelScope answers 500"),
        (401, "does your token hold", "the hub answers 401: look whether your token holds", "asks for an account"),
        ("page", "is a login page or a proxy between", "the hub", "is a login page or a proxy between"),
        ("nothing", "the hub broke off: try again, set HF_ENDPOINT", "broke off: try again", "try again, leave --hub"),
    ],
)  # fmt: skip
def test_a_hub_that_answers_wrongly_is_one_line(
    fault: int | str, pulled: str, loaded: str, of_modelscope: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login page in place of the hub, and a connection that is closed, ended in tracebacks."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.fault = fault
    for words, said in (([], pulled), (["--hub", "modelscope"], of_modelscope)):
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            pull_command.run(["lab/toy", *words])
        assert "\n" not in str(refused.value)
    _check_hub_access.cache_clear()
    with pytest.raises(UserError, match=re.escape(loaded)):
        load_tokenizer(options("lab/toy"))


@pytest.mark.parametrize("more", [[], ["--hub", "modelscope"]])
def test_a_repository_without_weights_or_with_a_path_out_of_it_is_refused(
    more: list[str], hub: Hub, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 0 files was `next: carellama chat`, and `../evil` a traceback that spoke of a dataset."""
    files = hub.repositories["lab/toy"].files
    small = {name: body for name, body in files.items() if name != "model.safetensors"}
    for given, said in (
        (small, rf"lab/toy has no weights \(\*\.safetensors\); number of its files: {len(small)}$"),
        ({}, "lab/toy has no weights .* number of its files: 0"),
        ({"a.gguf": b"x"}, "no weights .* fetch its a.gguf by hand"),
        (files | {"../evil": b"x"}, "lab/toy lists the file '../evil', which leads out of the model's folder"),
    ):
        monkeypatch.setattr(hub.repositories["lab/toy"], "files", given)
        with pytest.raises(UserError, match=said):
            pull_command.run(["lab/toy", *more])
    assert not any("evil" in path for _, path, _ in hub.asked)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HF_ENDPOINT", "not a url", "HF_ENDPOINT gives 'not a url', which is no address"),
        ("HF_ENDPOINT", "", "HF_ENDPOINT gives '', which is no address"),
        ("MODELSCOPE_ENDPOINT", "modelscope.cn", "MODELSCOPE_ENDPOINT gives 'modelscope.cn', which is no address"),
        ("MODELSCOPE_DOMAIN", "a b", "MODELSCOPE_DOMAIN gives 'https://a b', which is no address"),
        ("HF_TOKEN", "hf_密", "HF_TOKEN holds '密', which is in no token"),
        ("--hf_auth_token", "hf_a\nb", r"--hf_auth_token holds '\n', which is in no token"),
        ("--hf_auth_token", "密", "--hf_auth_token holds '密', which is in no token"),
    ],
)
def test_an_address_or_a_token_that_cannot_be_one_is_said(
    name: str, value: str, said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UnicodeEncodeError, and `the hub broke off: try again`."""
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    if not name.startswith("-"):
        monkeypatch.setenv(name, value)
    token = value if name.startswith("-") else None
    _check_hub_access.cache_clear()
    for ask in (lambda: pull_command.run(["lab/toy", *(["--hf_auth_token", token] if token else [])]),
                lambda: load_tokenizer(options("lab/toy", hf_auth_token=token))):  # fmt: skip
        with pytest.raises(UserError) as refused:
            ask()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not hub.asked


def test_without_a_connection_only_hubs_that_have_the_model_are_named(hub: Hub, monkeypatch) -> None:
    from huggingface_hub import constants

    nowhere = "http://127.0.0.1:9"  # nothing listens there
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    of_modelscope = ["--hub", "modelscope"]
    for argv, said in (
        (["toy"], "no connection to Hugging Face for lab/toy: set HF_ENDPOINT to a mirror, or give --hub modelscope"),
        (["toy-bin"], "no connection to Hugging Face for lab/toy-bin: set HF_ENDPOINT to a mirror"),
        (["toy-delta", *of_modelscope], "no connection to ModelScope for lab/toy-delta: leave --hub out to take"),
        (["lab/else", *of_modelscope], "no connection to ModelScope for lab/else: look at the network"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            pull_command.run(argv)
        assert ("--hub modelscope" in str(refused.value)) == (argv == ["toy"])


def test_a_file_that_comes_damaged_is_thrown_away(hub: Hub) -> None:
    """huggingface_hub looks at the size alone; the file stayed in its cache, and was not fetched again."""
    hub.repositories["lab/toy"].damaged.add("model.safetensors")
    with pytest.raises(UserError, match=r"lab/toy: model.safetensors came damaged .*fetch it again"):
        pull_command.run(["lab/toy"])
    hub.repositories["lab/toy"].damaged.clear()
    pull_command.run(["lab/toy"])
    verify.run(["lab/toy"])


def test_a_disk_without_room_is_said_before_anything_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FREE_SPACE_MARGIN", 1 << 60)
    for where in ("huggingface", "modelscope"):
        with pytest.raises(UserError, match="GB are needed"):
            pull_command.run(["lab/toy", "--hub", where])
    assert not any("resolve" in path or "FilePath" in path for _, path, _ in hub.asked)
    assert not list(model_home().rglob("*.safetensors"))


@pytest.mark.parametrize("where", ["huggingface", "modelscope"])
def test_a_disk_that_fills_up_is_one_line_and_nothing_half_written(hub: Hub, where: str) -> None:
    """The size that a file may have stands for the disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"File too large: .*make room there") as refused:
            pull_command.run(["lab/toy", "--hub", where])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(refused.value) and not (model_home() / "modelscope" / "lab--toy").exists()
    assert not list((model_home() / "pulled").glob("*")) and not list(model_home().rglob("model.safetensors"))
    pull_command.run(["lab/toy", "--hub", where])
    verify.run(["lab/toy"])


def test_an_adapter_without_a_base_says_what_to_give(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    hub.add("lab/toy-lora", trained(make_model(), tmp_path / "adapter"))
    entry = ModelEntry(name="bare", about="", kind="adapter", hub="lab/toy-lora", terms="Each user makes it.")
    monkeypatch.setattr(entries, "released_entries", lambda: (entry,))
    with pytest.raises(UserError, match=r"Each user makes it. Give that base as --model_name_or_path and bare as"):
        with_named_weights(options("bare"), PromptOptions())
