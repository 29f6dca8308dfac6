"""Entries of one's own in the list of models: what their file and their folders say, and what is refused of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.model.card_head import card_head, stated_licence
from carellama.model.zoo import own
from carellama.model.zoo.entries import find_entry, is_on, licence_of_base, load_entries, released_entries
from carellama.model.zoo.pull import with_named_weights
from carellama.model.zoo.show import list_models, show
from conftest import make_model
from test_adapter import trained

LISTED = "FreedomIntelligence/HuatuoGPT-o1-8B"  # Apache 2.0 on Llama 3.1


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of own entries."""
    monkeypatch.setenv("CARELLAMA_MODELS", str(tmp_path / "models.yaml"))
    return tmp_path / "models.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a whole model, as far as `models add` looks."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    return tmp_path / "model"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The folder of an adapter on Llama 3.1."""
    (tmp_path / "adapter").mkdir()
    about = {"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(about))
    return tmp_path / "adapter"


def names(file: Path) -> list[str]:
    return [row["name"] for row in yaml.safe_load(file.read_text(encoding="utf-8"))]


def test_a_name_in_other_letters_is_the_same_name(file: Path, folder: Path, capsys) -> None:
    """`add FOO` beside `foo` said "added", and FOO went on to mean the model of foo."""
    own.run(["foo", "--model", str(folder)])
    with pytest.raises(UserError, match=f"^FOO is in {file} already, as foo: --overwrite true replaces it"):
        own.run(["FOO", "--model", str(folder)])
    own.run(["FOO", "--model", str(folder), "--overwrite", "true"])
    assert names(file) == ["FOO"] and f"FOO: added to {file} in place of foo" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a name of the list"):
        own.run(["huatuogpt-O1-7b", "--model", str(folder)])


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({}, r"one leads to one \(model 1 of the file\) and to one \(model 2 of the file\)"),
        ({"name": "ONE"}, r"ONE leads to one \(model 1 of the file\) and to ONE \(model 2"),
        ({"name": "x", "aliases": ["One"]}, r"One leads to one \(model 1 of the file\) and to x"),
        ({"name": "LAB/one"}, r"LAB/one leads to one \(model 1 of the file\) and to LAB/one"),
        ({"name": "x", "hub": LISTED}, r"leads to HuatuoGPT-o1-8B of CareLlama's list and to x"),
        ({"name": "Huatuogpt-o1-8b"}, r"leads to HuatuoGPT-o1-8B of CareLlama's list and to Huatuogpt-o1-8b"),
    ],
)
def test_a_name_that_leads_to_two_models_is_refused_with_both(file: Path, second: dict[str, object], said: str) -> None:
    """Both were listed, and the name meant the first."""
    one = {"name": "one", "about": "a", "kind": "model", "hub": "lab/one"}
    rows = [one, one | {"hub": "lab/two"} | second]
    file.write_text(yaml.safe_dump(rows), encoding="utf-8")
    with pytest.raises(UserError, match=f"^{file}: .*{said}"):
        find_entry("one")
    with pytest.raises(UserError, match=said):
        list_models([])


def test_an_add_that_would_make_a_name_lead_to_two_changes_nothing(file: Path, folder: Path) -> None:
    file.write_text("- {name: one, about: a, kind: model, hub: lab/one, aliases: [two]}\n")
    for argv in (["TWO", "--model", str(folder)], ["three", "--model", "Lab/One"], ["three", "--model", LISTED]):
        with pytest.raises(UserError, match=" leads to "):
            own.run(argv)
    assert names(file) == ["one"]


def test_the_names_of_a_damaged_file_can_be_set_right(file: Path, folder: Path, capsys) -> None:
    """An earlier version wrote names that differ only in upper and lower case."""
    row = {"about": "a", "kind": "model", "place": str(folder)}
    file.write_text(yaml.safe_dump([{"name": name} | row for name in ("foo", "Foo", "bar")]), encoding="utf-8")
    own.run(["FOO", "--model", str(folder), "--overwrite", "true"])
    assert names(file) == ["bar", "FOO"] and "in place of foo and Foo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("licence: [a]", r"licence \['a'\], not a text"),
        ("licence: 2024-01-31", "licence .*, not a text .numbers and dates in quotes"),
        ("place: 5", "place 5, not a text"),
        ("languages: zh", r"languages 'zh', not a list of texts, as \[en, zh\]"),
        ("languages: [no]", r"languages \[False\], not a list of texts"),
        ("fingerprint: 5", "fingerprint 5, not names with texts"),
        ("fingerprint: {a: 5}", "not names with texts"),
        ("sampling: {temperature: hot}", "not names with numbers"),
        ("sampling: {temperature: true}", "not names with numbers"),
        ("gated: maybe", "gated 'maybe', not true or false"),
        ("weights: zip", "weights 'zip', not one of safetensors, bin$"),
        ("sources: {a: hub}", "sources {'a': 'hub'}, not addresses with lists of fields"),
        ("template: vicunna", r"template 'vicunna', which is no chat format\. Did you mean 'vicuna'\?"),
        ("kind: [model]", "not one of embedded, adapter"),
        ("kind: embedded", "kind embedded, which only models of CareLlama's list are"),
        ("kind: adapter", "is an adapter and has no base"),
        ("place: ", "does not say where its weights lie"),
        ("own: true", "the field own; fields are name, "),
        ("name: 5", "has a name"),
        ("about: ", "x has no about"),
    ],
)
def test_a_field_of_another_type_is_one_line(file: Path, field: str, said: str) -> None:
    """Each was a traceback of some command, or a model that was used otherwise than the file says."""
    row = {"name": "x", "about": "a", "kind": "model", "place": "/models/x"} | yaml.safe_load(field)
    file.write_text(yaml.safe_dump([row]), encoding="utf-8")
    with pytest.raises(UserError, match=rf"(?s)^{file}: [^\n]*{said}[^\n]*$"):
        load_entries()


def test_an_empty_field_is_not_stated_and_a_damaged_date_is_said(file: Path) -> None:
    file.write_text("- {name: x, about: a, kind: model, place: /models/x, licence: , languages: , sources: }\n")
    entry = find_entry("x")
    assert entry and (entry.licence, entry.languages, entry.sources) == ("", (), {})
    file.write_text("- {name: x, about: 2024-13-01}\n")
    with pytest.raises(UserError, match=f"^{file} cannot be read: month"):
        load_entries()


def test_the_licence_is_what_the_head_of_the_card_states(file: Path, folder: Path, capsys) -> None:
    """One in the text below it, as in an example of a card, was taken for the model's."""
    card = folder / "README.md"
    card.write_text("# A model\n\n```\nlicense: gpl-3.0\n```\n---\nlicense: mit\n---\n")
    own.run(["x", "--model", str(folder)])
    assert "licence" not in yaml.safe_load(file.read_text())[0]
    for text, licence in (
        ("---\n---\n# A model\nlicense: gpl-3.0\n---\n", None),
        ("---\nlanguage: no\nlicense: 'mit'  # of 2024\n---\nlicense: gpl-3.0\n", "mit"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: house\n---\n", "house"),
        ("---\nlicense: [mit, llama3]\n---\n", "mit, llama3"),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nmodel:\n  license: mit\n---\n", None),
        ("---\nlicense: mit\n", None),
    ):
        card.write_bytes(text.encode())
        assert stated_licence(card_head(folder)) == licence, text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", b"{", "cannot read {}: Expecting"),
        ("adapter_config.json", b"[]", "cannot read {}: it holds no object of settings"),
        ("adapter_config.json", b"\xff", "cannot read {}: it is not UTF-8 text"),
        (
            "adapter_config.json",
            b'{"base_model_name_or_path": 5}',
            "{} has base_model_name_or_path 5; it has to be a name",
        ),
        ("README.md", b"\xff\xfe", "cannot read {}: it is not UTF-8 text"),
        ("README.md", b"---\nlicense: [\n---\n", "the head of {} is not YAML"),
        ("run.json", b'{"settings": []}', r"{} is not what a training writes: settings is \[\]"),
        ("run.json", b'{"settings": {"data": {"template": "gone"}}}', "names the template 'gone', which is not known"),
    ],
)
def test_a_damaged_file_of_the_folder_is_one_line(
    file: Path, adapter: Path, name: str, content: bytes, said: str
) -> None:
    """Each was a traceback."""
    (adapter / name).write_bytes(content)
    with pytest.raises(UserError, match=said.replace("{}", re.escape(str(adapter / name)))) as raised:
        own.run(["x", "--model", str(adapter)])
    assert "\n" not in str(raised.value) and not file.exists()


def test_a_clash_with_the_licence_of_the_base_is_named(file: Path, adapter: Path, folder: Path, capsys) -> None:
    """The licence of the base was never known of an own entry, so that none had a clash."""
    own.run(["lora", "--model", str(adapter), "--licence", "apache-2.0"])
    show(["lora"])
    shown = capsys.readouterr().out
    assert re.search("licence of the base +llama3.1 ", shown)
    assert re.search("CLASH +it says Apache 2.0, and its base is under Llama 3.1 Community License", shown)
    list_models(["--licence", "apache-2.0", "lora"])
    listed = capsys.readouterr().out
    assert "apache-2.0*" in listed and "adapter (own)" in listed
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")  # a base that the list does not know
    own.run(["lora", "--model", str(adapter), "--base", str(folder), "--licence", "mit", "--overwrite", "true"])
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: meta-llama/Llama-3.1-8B\n---\n")
    own.run(["whole", "--model", str(folder)])
    for name, base_licence in (("lora", "cc-by-nc-4.0"), ("whole", "llama3.1")):
        entry = find_entry(name)
        assert entry and entry.base_licence == base_licence
        show([name])
        assert "CLASH" in capsys.readouterr().out
    (folder / "README.md").write_bytes(b"\xff")
    own.run(["lora", "--model", str(adapter), "--base", str(folder), "--licence", "mit", "--overwrite", "true"])
    assert f"the licence of the base is not known: cannot read {folder / 'README.md'}" in capsys.readouterr().err


def test_the_licence_of_a_base_is_known_by_name_id_and_as_a_base() -> None:
    assert licence_of_base("qwen/qwen2.5-7b") == "apache-2.0" and licence_of_base("lab/unheard-of") == ""
    assert licence_of_base("") == ""
    # of a model that says more than its base allows, that of its base
    assert licence_of_base("huatuogpt-O1-8b") == licence_of_base(LISTED) == "llama3.1"
    for entry in released_entries():
        if entry.base:
            assert entry.base_licence in ("", licence_of_base(entry.base)), entry.name


def test_a_base_by_a_name_of_the_list_is_kept_as_what_is_loaded(file: Path, adapter: Path) -> None:
    """An adapter on `HuatuoGPT-o1-8B` was kept with that name, which is on no hub."""
    own.run(["lora", "--model", str(adapter), "--base", "huatuogpt-o1-8b"])
    model, _ = with_named_weights(ModelOptions("lora"), PromptOptions())
    assert model.model_name_or_path == LISTED


def test_an_entry_whose_base_was_changed_is_refused(file: Path, tmp_path: Path, tiny_folder: Path) -> None:
    """It was compared where the base was given, and not where the entry brings it."""
    base, lora = tmp_path / "base", trained(make_model(), tmp_path / "lora")
    shutil.copytree(tiny_folder, base)
    own.run(["lora", "--model", str(lora), "--base", str(base)])
    assert with_named_weights(ModelOptions("lora"), PromptOptions())[0].checkpoints == [str(lora)]
    make_model(seed=5).save_pretrained(base)
    with pytest.raises(UserError, match=f"lora belongs to {base}, whose weights were others when the entry was made"):
        with_named_weights(ModelOptions("lora"), PromptOptions())
    allowed = ModelOptions("lora", allow_other_base=True)
    assert with_named_weights(allowed, PromptOptions())[0].checkpoints == [str(lora)]


def test_a_hub_is_known_by_any_id_in_any_letters(file: Path) -> None:
    assert is_on(LISTED.upper(), "huggingface") and not is_on(LISTED, "modelscope")
    assert is_on("META-LLAMA/llama-3.1-8b", "huggingface") and not is_on("lab/unheard-of", "huggingface")
    assert is_on("thomas/Sunsimiao-01M-Chat", "modelscope") and not is_on("thomas/sunsimiao-01M-Chat", "huggingface")
