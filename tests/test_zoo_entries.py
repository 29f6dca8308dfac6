"""Entries of the list of models: each of good form; listed, shown and searched; licences; entries of one's own."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.model.digests import write_digests
from carellama.model.zoo import entries, own, verify
from carellama.model.zoo.entries import (
    UNSOURCED,
    ModelEntry,
    entry_of,
    find_entry,
    hub_of,
    load_entries,
    released_entries,
)
from carellama.model.zoo.licences import clash, licences, spdx_of
from carellama.model.zoo.pull import with_named_weights
from carellama.model.zoo.resolve import EMBEDDED
from carellama.model.zoo.show import command, is_free, lines, list_models, show
from carellama.run_record import weights_folder
from carellama.templates.format import formats
from carellama.weights import base_fingerprint
from conftest import make_model
from test_adapter import trained

ENTRIES = released_entries()
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LANGUAGE = re.compile(r"[a-z]{2}")
SPDX_SHAPE = re.compile(r"[A-Za-z0-9.-]+(-only)?|LicenseRef-[A-Za-z0-9.-]+")
SAMPLING = {"temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens"}


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARELLAMA_MODELS", str(tmp_path / "models.yaml"))


def test_there_are_sixty_and_no_two_share_a_name() -> None:
    ids = [one.lower() for entry in ENTRIES for one in dict.fromkeys(entry.ids)]
    assert len(ENTRIES) >= 60 and len(ids) == len(set(ids))
    assert {entry.name for entry in ENTRIES if entry.kind == "embedded"} == set(EMBEDDED)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_is_of_good_form(entry: ModelEntry) -> None:
    assert entry.about.endswith(".") and entry.kind and (entry.hub or entry.page)
    for one in (entry.hub, entry.modelscope, entry.base, entry.base_modelscope, *entry.aliases):
        assert not one or HUB_ID.fullmatch(one), one
    assert not entry.revision or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert not entry.template or entry.template in formats()
    assert all(LANGUAGE.fullmatch(language) for language in entry.languages)
    assert entry.parameters or not entry.sizes
    assert set(entry.sampling) <= SAMPLING and all(value >= 0 for value in entry.sampling.values())
    for licence in filter(None, (entry.licence, entry.base_licence)):
        assert licence in licences(), f"{licence} is not in licences.yaml"
    if entry.kind in ("adapter", "delta"):
        assert entry.method and (entry.base or entry.terms or entry.page)
    assert entry.kind == "delta" or not entry.delta_whole


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_each_fact_has_its_source(entry: ModelEntry) -> None:
    """A field that is stated has an address; a field without one is left out."""
    plain = {one.name: one.default for one in dataclasses.fields(ModelEntry)} | {"sampling": {}}
    stated = {
        one.name
        for one in dataclasses.fields(ModelEntry)
        if one.name not in UNSOURCED and getattr(entry, one.name) not in ("", (), {}, plain[one.name])
    }
    assert stated == set(entry.sources)
    for address in entry.sources.values():
        parts = urlsplit(address)
        assert parts.scheme == "https" and "." in parts.netloc and len(parts.path) > 1, address


def test_licences_have_ids_of_spdx_and_clashes_are_named_in_words() -> None:
    assert licences() and all(SPDX_SHAPE.fullmatch(licence.spdx) for licence in licences().values())
    assert (spdx_of("apache-2.0"), spdx_of("gpl-3.0")) == ("Apache-2.0", "GPL-3.0-only")
    assert spdx_of("llama3") == "LicenseRef-llama3" and spdx_of("unheard of") == "LicenseRef-unheard-of"
    for own_licence, base, said in (
        ("apache-2.0", "llama3", "the terms of the base go with the model"),
        ("mit", "llama1", "for research only"),
        ("apache-2.0", "cc-by-nc-4.0", "may not be used commercially"),
        ("gpl-3.0", "llama1", "for research only"),
        ("apache-2.0", "agpl-3.0", "has to have the licence of the base"),
        ("apache-2.0", "gemma", "it says Apache 2.0, and its base is under Gemma Terms of Use"),
    ):
        assert said in clash(own_licence, base)
    for own_licence, base in (
        *(("llama3", "llama3"), ("apache-2.0", "mit"), ("apache-2.0", ""), ("", "llama3"), ("agpl-3.0", "apache-2.0")),
        *(("unheard of", "llama3"), ("llama3", "apache-2.0")),
    ):
        assert clash(own_licence, base) == ""


def test_models_are_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    def names(*argv: str) -> set[str]:
        list_models([*argv, "--json", "true"])
        return {row["name"] for row in json.loads(capsys.readouterr().out)}

    small = names("--language", "zh", "--size", "2B")
    assert "ZhongJing-2-1_8b" in small and "smollm2-135m" not in small and "HuatuoGPT-o1-7B" not in small
    assert names("--kind", "delta") == {"HuatuoGPT-13b-delta"}
    free = names("--licence", "free")
    assert "HuatuoGPT-o1-7B" in free and not free & {"HuatuoGPT-o1-8B", "CareLlama1-7b-merge", "Taiyi-LLM"}
    unknown_base = {"WiNGPT2-Gemma-2-9B-Chat", "MedReason-8B", "HuatuoGPT2-7B"}  # of the last only its licence
    assert "smollm2-135m" in free and not free & {*unknown_base, "QiZhenGPT", "PULSE-7bv5", "PULSE-20bv5"}
    assert names("--licence", "AGPL-3.0-only") == names("--licence", "agpl-3.0") == {"PULSE-7bv5", "PULSE-20bv5"}
    assert names("huatuo") >= {"HuatuoGPT-7B", "HuatuoGPT-o1-72B", "BenTsao"} and len(names("huatuo")) < 20
    list_models(["--search", "o1-8B"])
    printed = capsys.readouterr()
    assert "apache-2.0*" in printed.out and "carellama models show" in printed.err
    for argv, said in (
        (["--size", "big"], "as 8B"),
        (["--size", "1M"], "--size '1M': no model of the list is that small"),
        (["foo-like"], "no model of the list has 'foo-like' in its name or description"),
        (["--licence", "fre"], r"--licence 'fre': no model of the list has it; known: free, .*apache-2\.0, "),
        (["--language", "chinese"], "--language 'chinese': no model of the list has it; known: .*en, .*zh"),
        (["huatuo", "--kind", "embedded"], "no model of the list has all of --kind embedded and 'huatuo'; leave one"),
        (["--field", "true", "--language", "fr"], "en and zh"),
    ):
        with pytest.raises(UserError, match=said):
            list_models(argv)


def test_a_kind_that_no_model_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "released_entries", lambda: (ModelEntry(name="x", about="y", kind="model"),))
    with pytest.raises(UserError, match=r"--kind 'delta': no model of the list has it; known: model$"):
        list_models(["--kind", "delta"])


def test_only_what_is_fetched_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    show(["gemma3-270m"])
    shown = capsys.readouterr().out
    assert "gated" not in shown and "hf_auth_token" not in shown and "--accept_licence true" in shown
    show(["QiZhenGPT"])
    assert "fetched with its base" not in capsys.readouterr().out
    entry = ModelEntry(name="x", about="y", kind="adapter", hub="lab/x", base="lab/base")
    cases: list[tuple[dict[str, Any], bool]] = [
        *(({}, True), ({"hub": ""}, False), ({"base": ""}, False), ({"hub": "", "place": "/x"}, False)),
        *(({"hub": "", "modelscope": "lab/x"}, False), ({"modelscope": "lab/x", "base_modelscope": "b/b"}, True)),
    ]
    for change, fetched in cases:
        shown = "\n".join(lines(dataclasses.replace(entry, **change)))
        assert ("adapter (fetched with its base)" in shown) == fetched, change


def test_free_is_what_carries_no_terms_of_its_own_or_of_its_base() -> None:
    entry = ModelEntry(name="x", about="y", kind="model", licence="mit", base="a/b", base_licence="apache-2.0")
    cases: list[tuple[dict[str, Any], bool]] = [
        *(({}, True), ({"base": "", "method": "pretraining from scratch"}, True), ({"base": ""}, False)),
        *(({"base": "", "kind": "embedded"}, True), ({"base_licence": ""}, False), ({"licence": "gpl-3.0"}, False)),
        *(({"licence": "cc-by-sa-4.0"}, False), ({"terms": "Ask first."}, False), ({"licence": ""}, False)),
    ]
    for change, free in cases:
        assert is_free(dataclasses.replace(entry, **change)) == free, change


def test_an_entry_is_shown_with_sources_clashes_and_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    show(["FreedomIntelligence/HuatuoGPT-o1-8B"])
    text = capsys.readouterr().out
    assert re.search(r"base +meta-llama/Llama-3.1-8B  \[2\]", text) and "not pinned" in text
    assert "## Thinking ... ## Final Response" in text and "LicenseRef-llama3.1" in text
    assert "CLASH" in text and "[2] https://github.com/FreedomIntelligence/HuatuoGPT-o1" in text
    show(["ubiquantai/fleming-r1-7b", "--json", "true"])  # an id that it had before, in other letters
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["spdx"], shown["clash"]) == ("Fleming-R1-7B", "Apache-2.0", "")
    for entry in ENTRIES:
        assert lines(entry)[-1].endswith(command(entry))
    with pytest.raises(UserError, match="Did you mean 'HuatuoGPT-o1-7B'"):
        show(["HuatuoGPT-o1-7"])
    with pytest.raises(UserError, match=r"no model is called huatuo\..* carellama models list huatuo shows those"):
        show(["huatuo"])


def test_a_model_that_only_modelscope_has_names_that_hub() -> None:
    entry = find_entry("Sunsimiao-01M-Chat")
    assert entry and not entry.hub and command(entry).endswith("Sunsimiao-01M-Chat --hub modelscope")
    assert hub_of(entry, "modelscope") == "thomas/Sunsimiao-01M-Chat"
    with pytest.raises(UserError, match="give --hub modelscope"):
        hub_of(entry, "huggingface")


def test_the_fingerprint_of_the_embedded_model_is_its_own() -> None:
    entry = find_entry("smollm2-135m")
    folder = weights_folder("smollm2-135m", ModelOptions("smollm2-135m"))
    if folder is None:
        pytest.skip("smollm2-135m was not unpacked on this machine yet")
    found = base_fingerprint(folder)
    assert entry and found and dict(found.tensors) == dict(entry.fingerprint)


def test_an_entry_of_ones_own_is_used_like_any_other(tmp_path: Path, tiny_folder: Path, capsys, monkeypatch) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(tiny_folder, whole)
    (whole / "README.md").write_text("---\nlicense: mit\n---\n")
    adapter = trained(make_model(), tmp_path / "adapter")
    own.run(["ward3", "--model", str(whole), "--about", "病房三。", "--languages", "zh,en", "--template", "qwen"])
    (adapter / "README.md").write_text("---\nlicense: unknown\n---\n")  # as that of a training says
    monkeypatch.chdir(tmp_path)
    own.run(["ward3-lora", "--model", "adapter", "--base", "whole"])
    monkeypatch.chdir(Path.home())
    own.run(["remote", "--model", "someone/model", "--licence", "apache-2.0"])
    capsys.readouterr()
    show(["ward3-lora"])
    assert re.search("licence +not stated", capsys.readouterr().out)
    one, other = find_entry("ward3"), find_entry("WARD3-lora")
    assert one and other and (one.licence, one.languages, one.own, one.about) == ("mit", ("zh", "en"), True, "病房三。")
    fingerprint = base_fingerprint(whole)
    assert fingerprint and dict(one.fingerprint) == dict(other.fingerprint) == dict(fingerprint.tensors)
    model, data = with_named_weights(ModelOptions("ward3"), PromptOptions())
    assert (model.model_name_or_path, data.template) == (str(whole), "qwen")
    model, _ = with_named_weights(ModelOptions("ward3-lora"), PromptOptions())
    assert (model.model_name_or_path, model.checkpoints) == (str(whole), [str(adapter)])
    other_base = tmp_path / "other"
    make_model(seed=5).save_pretrained(other_base)
    for base in (whole, other_base):
        asked = ModelOptions(str(base), checkpoint_dir="ward3-lora")
        if base == whole:
            assert with_named_weights(asked, PromptOptions())[0].checkpoints == [str(adapter)]
        else:
            with pytest.raises(UserError, match=f"ward3-lora belongs to {whole}, and {other_base} has other weights"):
                with_named_weights(asked, PromptOptions())
            allowed = dataclasses.replace(asked, allow_other_base=True)
            assert with_named_weights(allowed, PromptOptions())[0].checkpoints == [str(adapter)]
    assert {entry.name for entry in load_entries() if entry.own} == {"ward3", "ward3-lora", "remote"}
    for argv, said in (
        (["HuatuoGPT-7B", "--model", str(whole)], "is a name of the list"),
        (["ubiquantai/fleming-r1-7b", "--model", str(whole)], "is a name of the list"),
        (["smollm2-135m", "--model", str(whole)], "is a name of the list"),
        (["a/b", "--model", str(whole)], "is no name"),
        (["ward3", "--model", str(whole)], "--overwrite true replaces it"),
        (["new", "--model", str(tmp_path)], "neither a model .* nor an adapter"),
        (["new", "--model", str(tmp_path / "nowhere")], "no such folder, and it is no id of a hub"),
    ):
        with pytest.raises(UserError, match=said):
            own.run(argv)
    own.run(["ward3", "--model", str(whole), "--overwrite", "true", "--about", "New."])
    rows = yaml.safe_load((tmp_path / "models.yaml").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ["ward3-lora", "remote", "ward3"] and rows[2]["about"] == "New."


def test_what_is_not_known_of_an_own_entry_is_refused_or_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"unknown template 'vicunna'\. Did you mean 'vicuna'\?"):
        own.run(["remote", "--model", "someone/model", "--template", "vicunna"])
    assert find_entry("remote") is None
    for licence, said in (
        ("MIIT", "licence 'MIIT' is not known here or in SPDX; it is kept as LicenseRef-MIIT. Did you mean 'mit'?\n"),
        ("house", "licence 'house' is not known here or in SPDX; it is kept as LicenseRef-house.\n"),
        *((known, "") for known in ("MIT", "llama3.1", "LicenseRef-gemma", "0BSD", "mpl-2.0")),
    ):
        own.run(["remote", "--model", "someone/model", "--licence", licence, "--overwrite", "true"])
        out = capsys.readouterr().out
        assert said in out and ("is not known" in out) == bool(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- [", "cannot be read"),
        ("name: x", "is no list of models"),
        ("- name: x\n  kind: model\n", "x has no about"),
        ("- name: x\n  about: y\n  kind: z\n", "x has kind 'z', not one of embedded, adapter, "),
        ("- name: x\n  about: y\n  kind: model\n  colour: red\n", "the field colour"),
        ("- 1", "each model is a mapping"),
    ],
)
def test_a_damaged_file_of_ones_own_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "models.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        load_entries()


def test_sources_are_addresses_with_fields() -> None:
    with pytest.raises(UserError, match="addresses with lists of fields"):
        entry_of({"name": "x", "about": "y", "kind": "model", "sources": {"https://a": "hub"}}, "file")


def test_a_folder_is_verified_with_a_line_for_each_fault(tmp_path: Path, capsys) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    write_digests(tmp_path)
    verify.run([str(tmp_path)])
    assert "2 files are as SHA256SUMS says" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no SHA256SUMS.*; carellama export writes one"):
        verify.run([str(tmp_path.parent)])
    with pytest.raises(UserError, match="there is no folder nowhere, and no model is called nowhere"):
        verify.run(["nowhere"])
    (tmp_path / "config.json").write_text("changed")
    (tmp_path / "more.txt").write_text("more")
    with pytest.raises(SystemExit) as ended:
        verify.run([str(tmp_path)])
    faults = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and [line.split(":")[0] for line in faults] == ["config.json", "more.txt"]
    with pytest.raises(UserError, match="was not fetched by name: carellama models pull HuatuoGPT-o1-7B"):
        verify.run(["HuatuoGPT-o1-7B"])


def test_a_signature_is_checked_where_model_signing_is_installed(tmp_path: Path, monkeypatch, capsys) -> None:
    """A double with the two modules that verify."""
    folder = tmp_path / "signed"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_digests(folder)
    (tmp_path / "key.pub").write_text("key")
    with pytest.raises(SystemExit):
        verify.run([str(folder), "--public_key", str(tmp_path / "key.pub")])
    assert "model.sig: missing" in capsys.readouterr().out
    (folder / "model.sig").write_text("signed")
    verify.run([str(folder)])
    assert "was not checked: give --public_key" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "model_signing.hashing", None)
    with pytest.raises(UserError, match="pip install model-signing"):
        verify.run([str(folder), "--public_key", str(tmp_path / "key.pub")])

    class Config:
        fails = False

        def __getattr__(self, name: str) -> object:
            return lambda *arguments, **named: self

        def verify(self, model: Path, signature: Path) -> None:
            assert (model, signature) == (folder, folder / "model.sig")
            if Config.fails:
                raise ValueError("Signature mismatch:\n config.json")

    for name in ("hashing", "verifying"):
        monkeypatch.setitem(sys.modules, f"model_signing.{name}", types.SimpleNamespace(Config=Config))
    verify.run([str(folder), "--public_key", str(tmp_path / "key.pub")])
    assert "and model.sig is valid" in capsys.readouterr().out
    Config.fails = True
    with pytest.raises(SystemExit):
        verify.run([str(folder), "--identity", "a@b.org", "--identity_provider", "https://accounts.example.org"])
    assert "model.sig: not valid: Signature mismatch: config.json" in capsys.readouterr().out
    with pytest.raises(UserError, match="--identity needs --identity_provider"):
        verify.run([str(folder), "--identity", "a@b.org"])


@pytest.mark.slow
def test_sha256sum_finds_what_verify_finds(tmp_path: Path) -> None:
    """The command as a person types it, beside coreutils."""
    if shutil.which("sha256sum") is None:
        pytest.skip("coreutils are not installed")
    (tmp_path / "config.json").write_text("{}")
    write_digests(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    ours = subprocess.run(
        [sys.executable, "-m", "carellama", "models", "verify", str(tmp_path)], capture_output=True, text=True
    )
    theirs = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True)
    assert ours.returncode == theirs.returncode == 1
    assert ours.stdout.startswith("config.json: changed") and theirs.stdout.startswith("config.json: FAILED")
