"""Whether training, tokenizer, .gguf and Modelfile render alike: what is compared, and where it differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carellama.errors import UserError
from carellama.evaluate.chat_formats.audit import audit_model
from carellama.evaluate.chat_formats.command import audit, list_formats, show
from carellama.templates.format import formats
from carellama.templates.go_template import render_go, render_ollama
from carellama.templates.template import get_template
from conftest import make_model, make_tokenizer
from test_bare_tokenizer import write_gguf

MESSAGES = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""
TURNS = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""


def rows(*contents: str, system: str = "") -> list[dict[str, Any]]:
    said = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + said


@pytest.mark.parametrize("template", [MESSAGES, TURNS])
def test_ollama_renders_as_its_program_does(template: str) -> None:
    talk = rows("Q1", "A1", "Q2", system="S")
    wanted = "".join(f"<|im_start|>{row['role']}\n{row['content']}<|im_end|>\n" for row in talk)
    assert render_ollama(template, talk) == wanted + "<|im_start|>assistant\n"
    assert render_ollama(template, rows("Q"), system="S") == render_ollama(template, rows("Q", system="S"))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a {{- 1 -}} b {{/* no */}}c", "a1b c"),
        ("{{ if .X }}x{{ else if eq .N 2 3 }}n{{ else }}z{{ end }}", "n"),
        ("{{ with .D }}{{ .K }}{{ $.N }}{{ end }}", "v3"),
        ("{{ $a := `x` }}{{ if true }}{{ $a = \"y\" }}{{ end }}{{ $a }}", "y"),
        ("{{ range $i, $v := .L }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ $v }}{{ end }}", "acde"),
        ("{{ range $i, $v := .L }}{{ $v }}{{ if gt $i 2 }}{{ break }}{{ end }}{{ end }}", "abcd"),
        ("{{ range .E }}x{{ else }}none{{ end }}", "none"),
        ("{{ len (slice .L 1 3) }}{{ index .L 0 | print \"<\" }}{{ not .X }}", "2<atrue"),
        ("{{ (index .M 0).K }}{{ or .X \"or\" }}{{ and 1 .X }}", "mor"),
        ("{{ json .D }}", '{"K": "v"}'),
    ],
)  # fmt: skip
def test_the_part_of_gos_language_that_is_read(template: str, text: str) -> None:
    data = {"X": "", "N": 3, "D": {"K": "v"}, "L": ["a", "b", "c", "d", "e"], "E": [], "M": [{"K": "m"}]}
    assert render_go(template, data) == text


@pytest.mark.parametrize(
    "template", ["{{ if .X }}a", "{{ end }}", "{{ unknown 1 }}", "{{ template \"x\" }}", "{{ $nobody }}", "{{ len 3 }}"]
)  # fmt: skip
def test_what_is_not_read_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="Ollama template"):
        render_go(template, {"X": "x"})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in ChatML with a .gguf beside it."""
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = make_tokenizer()
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_gguf(folder / "m.q8_0.gguf", tokenizer)
    return folder


def modelfile(folder: Path, template: str, *stops: str) -> Path:
    path = folder / "Modelfile.own"
    lines = ["FROM ./m.q8_0.gguf", f'TEMPLATE """{template}"""', *(f'PARAMETER stop "{stop}"' for stop in stops)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_files_that_agree_are_said_to(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = modelfile(tmp_path, MESSAGES, "<|im_end|>")
    audit([str(exported), "--modelfile", str(recipe)])
    said = capsys.readouterr().out
    assert "m.q8_0.gguf" in said and "Modelfile.own" in said and "conversations alike" in said


def test_the_first_character_that_differs_is_named(exported: Path, tmp_path: Path, capsys) -> None:
    recipe = modelfile(tmp_path, MESSAGES.replace("assistant\n{{ end }}", "assistant {{ end }}"))
    with pytest.raises(SystemExit) as end:
        audit([str(exported), "--modelfile", str(recipe), "--json"])
    assert end.value.code == 1
    first, stop = json.loads(capsys.readouterr().out)["differences"]
    whole = "<|im_start|>user\nI cough.<|im_end|>\n<|im_start|>assistant"
    assert first["character"] == len(whole) - len("<|im_start|>")  # which is this tokenizer's bos token
    assert first["second"] == "Modelfile.own" and "'\\n'" in first["texts"][0]
    assert stop["texts"][0] == "<|im_end|>" and stop["character"] == -1


def test_the_text_of_the_training_is_compared(exported: Path, tmp_path: Path) -> None:
    """run.json says --template vicuna; the tokenizer says ChatML: the export forgot it."""
    settings = {"data": {"template": "vicuna"}, "model": {}, "finetuning": {}}
    (tmp_path / "run.json").write_text(json.dumps({"stage": "sft", "settings": settings, "base_model": str(exported)}))
    (tmp_path / "adapter_config.json").write_text("{}")
    report = audit_model(str(exported), str(tmp_path))
    assert report.sources[0] == "the training (--template vicuna)"
    assert {one.second for one in report.differences} == {"the tokenizer's chat template", "m.q8_0.gguf"}
    assert "A chat between" in report.differences[0].shown[0]
    alone = audit_model(str(exported / "m.q8_0.gguf"), str(tmp_path))
    assert alone.sources == (report.sources[0], "m.q8_0.gguf") and len(alone.differences) > 0


def test_a_checkpoints_template_does_not_stand_for_that_of_an_export(exported: Path, tmp_path: Path) -> None:
    """The checkpoint has the training's template, the export forgot it: both were said to be alike."""
    settings = {"data": {"template": "vicuna"}, "model": {}, "finetuning": {}}
    (tmp_path / "run.json").write_text(json.dumps({"stage": "sft", "settings": settings, "base_model": "lab/base"}))
    (tmp_path / "adapter_config.json").write_text("{}")
    vicuna = get_template("vicuna", make_tokenizer())
    (tmp_path / "chat_template.jinja").write_text(vicuna.jinja)
    report = audit_model(str(exported), str(tmp_path))
    assert "the tokenizer's chat template" in {one.second for one in report.differences}


def test_the_system_text_of_a_modelfile_is_no_difference(exported: Path, tmp_path: Path) -> None:
    """A character of TEMPLATE is one, with SYSTEM and without; what SYSTEM says is told."""
    recipe = modelfile(tmp_path, MESSAGES, "<|im_end|>", "</s>")
    told = 'SYSTEM "You are a careful assistant."\n'
    recipe.write_text(recipe.read_text() + told)
    report = audit_model(str(exported), None, modelfile=str(recipe))
    assert not report.differences
    assert report.notes == ("Modelfile.own adds a system text of its own: 'You are a careful assistant.'",)
    recipe.write_text(recipe.read_text().replace("<|im_start|>assistant\n", "<|im_start|>assistant \n"))
    (difference,) = audit_model(str(exported), None, modelfile=str(recipe)).differences
    assert difference.conversation == 1 and difference.shown[1].endswith("' \\n'")


def test_an_adapter_without_a_record_is_told_the_commands_own_option(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"as --checkpoint_dir, and the model that it was trained on as --model$"):
        audit_model(str(tmp_path), None)


def own_training(folder: Path, base: Path) -> Path:
    """A checkpoint that was trained with its tokenizer's own template."""
    folder.mkdir()
    record = {"stage": "sft", "settings": {"data": {"template": None}}, "base_model": str(base)}
    (folder / "run.json").write_text(json.dumps(record | {"used": {"template": "the tokenizer's own"}}))
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_a_training_with_the_tokenizers_own_template_is_compared(exported: Path, tmp_path: Path) -> None:
    trained = own_training(tmp_path / "output", exported)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(trained)
    parts = ("the training (the tokenizer's own template)", "the tokenizer's chat template")
    for asked in ((str(exported), str(trained)), (str(trained), None)):
        report = audit_model(*asked)
        assert report.sources[:2] == parts and not report.differences and not report.notes
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "helper")
    tokenizer.save_pretrained(trained)
    report = audit_model(str(exported), str(trained))
    assert {one.first for one in report.differences} == {parts[0]}
    assert {one.second for one in report.differences} == {parts[1], "m.q8_0.gguf"}


def test_a_checkpoint_without_a_tokenizer_is_equal_by_definition(exported: Path, tmp_path: Path) -> None:
    report = audit_model(str(exported), str(own_training(tmp_path / "output", exported)))
    assert report.sources[0] == "the training (the tokenizer's own template)" and not report.differences
    assert "equal by definition" in report.lines()[1] and report.as_json()["notes"] == list(report.notes)


def test_adapters_and_matrices_beside_a_model_are_not_compared(exported: Path, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    for file in exported.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for kind in ("adapter", "imatrix"):
        writer = GGUFWriter(str(tmp_path / f"{kind}.gguf"), "llama")
        writer.add_type(kind)
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.close):
            write()
    assert audit_model(str(tmp_path), None).sources == audit_model(str(exported), None).sources
    with pytest.raises(UserError, match="no model but of the type adapter"):
        audit_model(str(tmp_path), None, gguf=str(tmp_path / "adapter.gguf"))


def test_with_nothing_to_compare_it_says_so(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to compare it with"):
        audit_model(str(exported / "m.q8_0.gguf"), None)
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        audit_model(str(exported), None, modelfile=str(tmp_path / "nowhere"))


def test_formats_are_listed_and_shown(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_formats([])
    assert len(capsys.readouterr().out.splitlines()) == len(formats())
    list_formats(["--json"])
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} == set(formats())
    show(["chatdoctor_chat"])
    said = capsys.readouterr().out
    assert "trained_as" in said and "Patient: I cough.\n\nChatDoctor: Rest." in said and 'ends with " "' in said
    for name, stands in (
        ("llama3", "(<s>: where the tokenizer's own bos stands)"),
        ("llama2", "(<s> and </s>: where the tokenizer's own bos and eos stand)"),
        ("qwen", ""),
    ):
        show([name])
        lines = capsys.readouterr().out.splitlines()
        assert stands in lines if stands else not any("<s>" in line for line in lines)
    show(["--model_name_or_path", str(exported), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "the tokenizer's own" and said["ends"] == ["<|im_end|>"]
    assert said["example"].endswith("<|im_start|>assistant\n")
    for words, reason in (([], "one of them"), (["nobody"], "unknown template")):
        with pytest.raises(UserError, match=reason):
            show(words)
