"""A chat template is a stranger's program: what it does wrong is one line that names it, whoever renders it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from carellama.config.model import ModelOptions
from carellama.engine.chat import chat_of
from carellama.engine.tokenizer import of_folder
from carellama.errors import UserError
from carellama.evaluate.chat_formats.command import show
from carellama.model.gguf.read import Header
from carellama.model.tokenizer import load_tokenizer
from carellama.records import Message
from carellama.templates.format import OWN
from carellama.templates.go_template import render_ollama
from carellama.templates.template import Template, get_template
from conftest import CHATML, make_tokenizer

CALLS_ITSELF = "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"
BROKEN = [
    ("{{ 1/0 }}", "ZeroDivisionError: division by zero"),
    ("{% for i in range(10**12) %}x{% endfor %}", "Range too big"),
    ("{% for", "end of template"),
    ("{{ nobody.name }}", "'nobody' is undefined"),
    (CALLS_ITSELF, "RecursionError"),
    ("{{ messages[9].content[0] }}", "has no element 9"),
    ("{{ messages|map('nothing')|list }}", "No filter named 'nothing'"),
    ("{{ {}['a'].b }}", "has no attribute 'a'"),
    ("{% include 'x' %}", "no loader for this environment"),
    ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
    ("{{ namespace(_a=1) }}", "underscore"),
    ("{{ '\\ud800' }}", "surrogates not allowed"),
    ("{{ 2.0 ** 5000 }}", "OverflowError"),
    ("{{ raise_exception('only\nusers') }}", "only users"),
]


@pytest.mark.parametrize(("jinja", "reason"), BROKEN)
def test_what_a_template_does_wrong_is_one_line_for_every_renderer(jinja: str, reason: str) -> None:
    """A division by zero, a call of itself and a range without an end were tracebacks."""
    facts: dict[str, Any] = {"tokenizer.ggml.tokens": ["a"], "tokenizer.chat_template": jinja}
    own = Template(OWN, jinja, make_tokenizer(), [])
    asked = [Message("user", "x")]
    for render, name in (
        (lambda: chat_of(Header(facts, 0), None).render(asked), "the model's chat template"),
        (lambda: own.render(asked, add_generation_prompt=True), f"the chat template {OWN!r}"),
        (lambda: own.groups([*asked, Message("assistant", "y")]), f"the chat template {OWN!r}"),
    ):
        with pytest.raises(UserError) as refused:
            render()
        said = str(refused.value)
        assert said.startswith(f"{name} refuses this conversation: ") and reason in said and "\n" not in said


def folder_with(folder: Path, source: Path, template: object) -> Path:
    """A model folder whose tokenizer_config.json has this chat template."""
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return folder


NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": CHATML}]


def test_of_templates_by_name_the_default_counts(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    """The folder's tokenizer took the format `default` in silence, that of transformers ended in a traceback."""
    folder = folder_with(tmp_path / "m", tiny_folder, NAMED)
    show(["--model_name_or_path", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["jinja"] == CHATML
    assert of_folder(folder, None).chat.jinja == CHATML


def test_templates_by_name_without_a_default_ask_for_one(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", tiny_folder, NAMED[:1])
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"tool_use": "tools"}
    for read in (lambda: get_template(None, tokenizer), lambda: of_folder(folder, None)):
        with pytest.raises(UserError, match=r"other names \(tool_use\) and no default: give --template"):
            read()
    assert of_folder(folder, "vicuna").chat.jinja == get_template("vicuna", tokenizer).jinja


@pytest.mark.parametrize("config", ["[]", '{"chat_template": ["a"]}'])
def test_a_tokenizer_config_of_another_shape_is_one_line(config: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", tiny_folder, None)
    (folder / "tokenizer_config.json").write_text(config)
    with pytest.raises(UserError, match=f"cannot load the tokenizer of {folder}"):
        load_tokenizer(ModelOptions(str(folder)))


def test_a_checkpoints_template_that_is_no_utf8_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=f"cannot load the chat template of {tmp_path}"):
        load_tokenizer(ModelOptions(str(tiny_folder), str(tmp_path)))


def test_a_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="is no text but 7"):
        chat_of(Header({"tokenizer.chat_template": 7}, 0), None)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ index .Messages 9 }}", "index out of range"),
        ("{{ len (slice .System 1 2 3) }}", "cannot be rendered"),
        ("{{ lt .Messages 3 }}", "not supported"),
        ("{{ if .Messages }}" * 2000, "without an end|recursion"),
        ("{{ .Messages", "{{ without an end"),
        ('{{ "\\q" }}{{ .Messages }}', r"\\q, which Go does not know"),
        ("{{ break }}{{ .Messages }}", "outside of a range"),
    ],
)
def test_what_an_ollama_template_does_wrong_is_one_line(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"the Ollama template .*{reason}"):
        render_ollama(template, [{"role": "user", "content": "x"}])


def test_a_template_of_turns_ends_where_the_response_begins() -> None:
    """Ollama cuts the template there, in whatever it stands, and adds a response where there is none."""
    asked = [{"role": "user", "content": "Q"}]
    for template, text in (
        ("{{ .Prompt }} A: {{ .Response }} end", "Q A: "),
        ("{{ if .Prompt }}{{ .Prompt }} A: {{ .Response }} end{{ end }} tail", "Q A: "),
        ("{{ if .Response }}x{{ end }}{{ .Prompt }} A: {{ .Response }} end", "Q A: "),
        ("{{ .Prompt }} A: ", "Q A: "),
        ('{{/* a " in it */}}{{ .Prompt }}{{ "\\u003c\\x3e\\n" }}', "Q<>\n"),
    ):
        assert render_ollama(template, asked) == text
    said = [*asked, {"role": "assistant", "content": "R"}, {"role": "user", "content": "P"}]
    assert render_ollama("{{ .Prompt }} A: ", said) == "Q A: RP A: "
