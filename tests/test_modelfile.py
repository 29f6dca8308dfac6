"""Ollama's Modelfile: its Go template gives the text of our template, and all that ends an answer is a stop."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from carellama.config.commands import ExportOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.merge import load
from carellama.export.modelfile import go_chat, write_modelfile
from carellama.export.targets import ExportContext, _modelfile
from carellama.records import Message
from carellama.templates.format import formats
from carellama.templates.template import Template, get_template
from conftest import CHATML, make_tokenizer

QUESTIONS = ("发烧三天了怎么办？", 'Say "hi" {{ .System }}\nand more.', "What helps?")
ANSWERS = ("多喝水。", "Hello {i} 2.")
SYSTEM = "You are a careful doctor."


def conversation(turns: int, *, system: bool) -> list[Message]:
    said = [Message("system", SYSTEM)] if system else []
    for turn in range(turns):
        said.append(Message("user", QUESTIONS[turn]))
        said += [Message("assistant", ANSWERS[turn])] if turn + 1 < turns else []
    return said


CONVERSATIONS = [conversation(turns, system=system) for turns in (1, 2, 3) for system in (False, True)]


def tokenizer_for(name: str) -> Any:
    """The small tokenizer with the tokens that a format needs."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*formats()[name].tokens, "<s>", "</s>"]})
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return tokenizer


def expected(template: Template, messages: list[Message]) -> str | None:
    """Our text; None: the format has no place for a system message."""
    try:
        return template.render(messages, add_generation_prompt=True)
    except UserError:
        return None


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Executes Go templates as Ollama does: pairs of template and conversations to texts."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: Ollama's templates are not executed (apt-get install golang-go)")
    folder = tmp_path_factory.mktemp("go")
    program = Path(__file__).with_name("ollama_template.go")
    environment = os.environ | {
        "GOCACHE": str(folder / "cache"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    subprocess.run(["go", "build", "-o", "execute", str(program)], cwd=folder, env=environment, check=True)

    def execute(jobs: list[tuple[str, list[list[Message]]]]) -> list[list[str]]:
        asked = [
            {
                "Template": template,
                "Conversations": [[{"Role": one.role, "Content": one.content} for one in row] for row in rows],
            }
            for template, rows in jobs
        ]
        done = subprocess.run([folder / "execute"], input=json.dumps(asked), capture_output=True, text=True, check=True)
        texts: list[list[str]] = json.loads(done.stdout)
        return texts

    return execute


OWN = {
    "chatml": CHATML,
    "llama 3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim "
        "+ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
        "{{ m['content'] }}</turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
    ),
}


@pytest.mark.slow
def test_go_writes_the_text_of_every_format(go: Any) -> None:
    """Of the named formats and of three that tokenizers bring; what cannot be equal was refused before."""
    templates, refused = {}, {}
    for name in formats():
        template = get_template(name, tokenizer_for(name))
        try:
            go_chat(template)
            templates[name] = template
        except UserError as error:
            refused[name] = str(error)
    for name, jinja in OWN.items():
        tokenizer = make_tokenizer()
        tokenizer.chat_template = jinja
        templates[f"own {name}"] = get_template(None, tokenizer)
    jobs, texts = [], []
    for template in templates.values():
        rows = [(row, expected(template, row)) for row in CONVERSATIONS]
        jobs.append((go_chat(template).go(), [row for row, text in rows if text is not None]))
        texts.append([text for _, text in rows if text is not None])
    assert len(templates) > 0.9 * len(formats()), refused
    assert dict(zip(templates, go(jobs), strict=True)) == dict(zip(templates, texts, strict=True))


def commands(path: Path) -> list[tuple[str, str]]:
    """A Modelfile as Ollama's parser reads it (parser/parser.go): values end at a line's end, quotes may go on."""
    found, rest = [], path.read_text(encoding="utf-8")
    while rest:
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, _, rest = rest.partition(" ")
        if name == "PARAMETER":
            more, _, rest = rest.partition(" ")
            name = f"{name} {more}"
        quote = '"""' if rest.startswith('"""') else '"' if rest.startswith('"') else ""
        value, rest = rest[len(quote) :].split(f"{quote}\n", 1)
        found.append((name, value))
    return found


def test_all_that_ends_an_answer_is_a_stop(tmp_path: Path) -> None:
    template = get_template("qwen", tokenizer_for("qwen"))
    write_modelfile(
        tmp_path / "Modelfile", "model.q4_K_M.gguf", template, system='你是医生。\nSay "please".', num_ctx=4096,
        adapter="model-lora.gguf", licence="apache-2.0", sampling={"temperature": 0.7, "top_k": 20},
    )  # fmt: skip
    read = commands(tmp_path / "Modelfile")
    assert read[:2] == [("FROM", "./model.q4_K_M.gguf"), ("ADAPTER", "./model-lora.gguf")]
    assert ("TEMPLATE", go_chat(template).go()) in read
    assert ("SYSTEM", '你是医生。\nSay "please".') in read
    assert ("PARAMETER num_ctx", "4096") in read and ("LICENSE", "apache-2.0") in read
    assert ("PARAMETER temperature", "0.7") in read and ("PARAMETER top_k", "20") in read
    stops = [value for name, value in read if name == "PARAMETER stop"]
    tokens = template.tokenizer.convert_ids_to_tokens(template.stop_ids)
    assert len(tokens) > 1 and set(stops) == {*tokens, *template.stops, "</s>"} and len(set(stops)) == len(stops)


def test_a_stop_of_several_lines_is_kept(tmp_path: Path) -> None:
    template = Template("lines", CHATML, make_tokenizer(), ["<|im_end|>", "\nUser:"])
    write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    assert ("PARAMETER stop", "\nUser:") in commands(tmp_path / "Modelfile")


def test_text_that_go_would_take_for_an_action_is_quoted(tmp_path: Path) -> None:
    """Three quotes would end the value, and characters that are not printed are dropped by Ollama."""
    jinja = (
        "{% for m in messages %}{{ '{{' + m['role'] + '}}\u3000\"\"\"\n{' + m['content'] + '\"' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '{{a}}{' }}{% endif %}"
    )
    template = Template("odd", jinja, make_tokenizer(), ["<|im_end|>"])
    write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    (text,) = [value for name, value in commands(tmp_path / "Modelfile") if name == "TEMPLATE"]
    assert "\u3000" not in text and '"""' not in text and "{{{{" not in text
    assert all(re.match(r'\{\{ (".*"|[.$a-z].*) \}\}', action) for action in re.findall(r"\{\{ .*? \}\}", text))


@pytest.mark.parametrize(
    ("jinja", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}{{ messages | length }}", "follows no rule"),
        ("{{ messages[-1]['content'] }}", "each message once"),
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}[INST]"
            "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}"
            "{{ m['content'] }}[/INST]{% elif m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "each message once",
        ),
    ],
    ids=["a count", "the last alone", "system last"],
)
def test_what_go_cannot_say_is_refused(jinja: str, reason: str, tmp_path: Path) -> None:
    template = Template("own", jinja, make_tokenizer(), ["<|im_end|>"])
    with pytest.raises(UserError, match=reason) as error:
        write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    assert "carellama api" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "Modelfile").exists()


def test_the_beginning_of_a_text_is_written_once(tmp_path: Path) -> None:
    """Ollama puts it there where the tokenizer does; a format without it would answer otherwise there."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    begin = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    tokenizer.backend_tokenizer.post_processor = begin
    with_it = Template(
        "own", "{{ bos_token }}" + "{% for m in messages %}[{{ m['content'] }}]{% endfor %}", tokenizer, []
    )
    assert "<|im_start|>" not in go_chat(with_it).go()
    without = Template("own", "{% for m in messages %}[{{ m['content'] }}]{% endfor %}", tokenizer, [])
    with pytest.raises(UserError, match="begins each text"):
        go_chat(without)


def test_a_system_message_needs_a_place(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    template = Template("gemma", OWN["gemma"], tokenizer, ["<|im_end|>"])
    with pytest.raises(UserError, match="no place for a system message"):
        write_modelfile(tmp_path / "Modelfile", "model.gguf", template, system="Be kind.")
    write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    assert ".System" not in (tmp_path / "Modelfile").read_text()
    assert "no system message" in (tmp_path / "Modelfile").read_text()


def test_no_more_context_than_the_model_has_positions(tiny_folder: Path, tmp_path: Path) -> None:
    """A model of 512 positions got num_ctx 2048."""
    source = load(ModelOptions(str(tiny_folder)), None)
    for asked, said in ((2048, 512), (300, 300)):
        options = ExportOptions("out", to="ollama", context_tokens=asked)
        _modelfile(ExportContext(options, source, tmp_path, tmp_path, "x"), tmp_path / "Modelfile", "x.gguf")
        assert f"PARAMETER num_ctx {said}\n" in (tmp_path / "Modelfile").read_text(encoding="utf-8")
