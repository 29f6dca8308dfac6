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
from conftest import CHATML, make_model, make_tokenizer
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


def copied(source: Path, folder: Path, *, gguf: bool = True) -> Path:
    """The files of a model in another folder, those of the tokenizer as copies that may be changed."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix == ".gguf" and not gguf:
            continue
        target = folder / file.name
        if file.suffix in (".gguf", ".safetensors"):
            target.symlink_to(file)
        else:
            target.write_bytes(file.read_bytes())
    return folder


def with_template(source: Path, folder: Path, jinja: str) -> Path:
    """A model folder and a .gguf in it, both with this chat template."""
    copied(source, folder, gguf=False)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = jinja
    tokenizer.save_pretrained(folder)
    write_gguf(folder / "m.gguf", tokenizer)
    return folder


def test_what_renders_nothing_is_not_alike(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files that refuse every conversation were said to render alike, or to differ by the words of the refusal."""
    folder = with_template(exported, tmp_path / "m", "{{ 1/0 }}")
    with pytest.raises(SystemExit) as end:
        audit([str(folder)])
    said = capsys.readouterr().out
    assert end.value.code == 1 and "alike" not in said.splitlines()[-1].replace("that they are alike is not known", "")
    assert "both give no text of conversations 1, 2, 3, 4, so nothing was compared" in said
    reasons = [line for line in said.splitlines() if line.startswith("  ") and "ZeroDivisionError" in line]
    assert [line.split(":")[0].strip() for line in reasons] == ["the tokenizer's chat template", "m.gguf"]
    report = audit_model(str(folder), None)
    assert not report.alike and not report.differences and not report.rendered
    assert report.as_json()["refusals"][0]["conversations"] == [1, 2, 3, 4]


def test_a_template_that_renders_nothing_is_named(exported: Path, tmp_path: Path) -> None:
    report = audit_model(str(with_template(exported, tmp_path / "m", "{# nothing #}")), None)
    assert report.refusals[0].reasons == ("it renders no text",) * 2 and not report.alike


def test_a_conversation_that_both_refuse_is_counted_apart(exported: Path, tmp_path: Path) -> None:
    """As Gemma refuses system messages: the others are compared."""
    reason = "no system messages " + "x" * 200
    jinja = "{% if messages[0].role == 'system' %}{{ raise_exception('" + reason + "') }}{% endif %}" + CHATML
    folder = with_template(exported, tmp_path / "m", jinja)
    report = audit_model(str(folder), None)
    (refusal,) = report.refusals
    assert refusal.conversations == (2, 3) and refusal.of_both and all(one.endswith(reason) for one in refusal.reasons)
    assert report.alike and report.lines()[-1] == "all render 2 of 4 conversations alike"
    (folder / "chat_template.jinja").write_text(CHATML)
    report = audit_model(str(folder), None)
    assert not report.alike and not report.differences and report.refusals[0].reasons[0] == ""
    assert "only m.gguf gives no text of conversations 2, 3" in report.lines()[1]


def test_files_beside_one_that_renders_nothing_are_compared(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "m")
    (folder / "chat_template.jinja").write_text("")
    recipe = modelfile(tmp_path, MESSAGES.replace("assistant\n{{ end }}", "assistant {{ end }}"), "<|im_end|>")
    report = audit_model(str(folder), None, modelfile=str(recipe))
    assert [(one.first, one.second) for one in report.differences] == [("m.q8_0.gguf", "Modelfile.own")]
    (refusal,) = report.refusals
    assert refusal.reasons[1].startswith("it is empty: transformers renders no text by it")


def test_a_base_without_a_chat_template_is_no_difference(exported: Path, tmp_path: Path) -> None:
    base = copied(exported, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    settings = {"data": {"template": "vicuna"}, "model": {}, "finetuning": {}}
    (tmp_path / "run.json").write_text(json.dumps({"stage": "sft", "settings": settings, "base_model": str(base)}))
    (tmp_path / "adapter_config.json").write_text("{}")
    report = audit_model(str(base), str(tmp_path))
    assert report.sources == ("the training (--template vicuna)", "m.q8_0.gguf")
    assert report.notes == (f"the tokenizer of {base} has no chat template, so it is not compared",)
    (tmp_path / "run.json").write_text((tmp_path / "run.json").read_text().replace(str(base), "lab/base"))
    report = audit_model(str(base), str(tmp_path))  # an export that forgot its chat template
    assert report.refusals[0].second == "the tokenizer's chat template" and not report.alike


@pytest.mark.parametrize(
    ("added", "note"),
    [
        ("MESSAGE user Hi\nMESSAGE assistant Hello.\n", "puts 2 messages before each conversation (user: 'Hi', ...)"),
        ("FROM llama3\n", "is FROM llama3, a model of Ollama"),
    ],
)
def test_what_a_modelfile_adds_is_told(exported: Path, tmp_path: Path, added: str, note: str) -> None:
    recipe = modelfile(tmp_path, MESSAGES, "<|im_end|>", "</s>")
    recipe.write_text(recipe.read_text() + added)
    report = audit_model(str(exported), None, modelfile=str(recipe))
    assert report.alike and len(report.notes) == 1 and note in report.notes[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FROM ./m.gguf\nSYSTEM Be brief.\n", "it has no TEMPLATE"),
        ("FROM ./m.gguf\nRENDERER qwen3\nTEMPLATE {{ .Prompt }}\n", "its RENDERER qwen3"),
        ("FROM ./m.gguf\nTEMPLATE {{ .Prompt\n", "{{ without an end"),
    ],
)
def test_a_modelfile_that_cannot_be_rendered_is_not_alike(
    exported: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "Modelfile").write_text(text)
    report = audit_model(str(exported), None, modelfile=str(tmp_path / "Modelfile"))
    assert not report.alike and any(reason in one.reasons[1] for one in report.refusals)


def test_a_modelfile_that_leads_nowhere_is_named(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "m")
    (folder / "Modelfile").symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"cannot read .*Modelfile: no such file"):
        audit_model(str(folder), None)


def test_of_several_chat_templates_the_one_compared_is_named(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "m")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    report = audit_model(str(folder), None)
    assert report.alike
    assert report.notes == ("the tokenizer has several chat templates (default, tool_use): CareLlama takes default",)


def test_a_modelfile_that_is_no_text_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_bytes(b"FROM x\nTEMPLATE caf\xe9\n")
    with pytest.raises(UserError, match=r"cannot read .*Modelfile: it is not UTF-8 text"):
        audit_model(str(exported), None, modelfile=str(tmp_path / "Modelfile"))


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
    with pytest.raises(
        UserError, match=r"as --checkpoint_dir, and the model that it was trained on as --model_name_or_path$"
    ):
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


def test_a_checkpoint_without_a_tokenizer_is_of_its_base(exported: Path, tmp_path: Path) -> None:
    """An export's tokenizer stood for that of the training, and the two were said to be equal by definition."""
    trained = own_training(tmp_path / "output", exported)
    report = audit_model(str(exported), str(trained))
    assert report.alike and f"training and tokenizer are both read from {exported}, so they are equal" in report.notes
    gguf = audit_model(str(exported / "m.q8_0.gguf"), str(trained))
    assert gguf.notes == report.notes[:1] and str(exported) in gguf.notes[0]
    other = copied(exported, tmp_path / "export")
    (other / "chat_template.jinja").write_text(CHATML.replace("assistant", "helper"))
    report = audit_model(str(other), str(trained))
    assert not any("equal" in note for note in report.notes)
    assert {one.second for one in report.differences} == {"the tokenizer's chat template"}
    (trained / "run.json").write_text((trained / "run.json").read_text().replace(str(exported), "/nowhere"))
    with pytest.raises(UserError, match=r"has no tokenizer, and that of its base cannot be read"):
        audit_model(str(other), str(trained))


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
    with pytest.raises(UserError, match=r"cannot read .*nowhere: no such file"):
        audit_model(str(exported), None, modelfile=str(tmp_path / "nowhere"))


def test_formats_are_listed_and_shown(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_formats([])
    assert len(capsys.readouterr().out.splitlines()) == len(formats())
    list_formats(["--json"])
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} == set(formats())
    show(["chatdoctor_chat"])
    said = capsys.readouterr().out
    assert "first_turn" not in said and "system_in_user" not in said  # which say nothing of this format
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
