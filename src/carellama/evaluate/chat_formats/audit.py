"""`carellama template audit`: whether training, tokenizer, .gguf and Modelfile render the same conversations alike.

    report = audit_model("output_export", checkpoint_dir="output")
    report.lines()      # who was compared, and the first character that differs

The training's text is that of run.json's format under the tokenizer, or that of the checkpoint's own tokenizer; it is
what the others are compared with. Without a run.json it is the tokenizer's. A bos token at the beginning is left out of
the comparison: llama.cpp and Ollama put it there themselves. Both sides get the system text of a Modelfile. The end
tokens are compared as well: one that a file does not stop at lets a model babble on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.config.options import split_commas
from carellama.engine.chat import VOCABULARY, chat_of
from carellama.errors import UserError
from carellama.model.gguf.read import is_model, read_header
from carellama.model.zoo.pull import with_named_weights
from carellama.records import JSONObject, Message
from carellama.run_record import read_run, trained_with
from carellama.templates.go_template import render_ollama

if TYPE_CHECKING:
    from carellama.templates.template import Template

ROWS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "I cough."),),
    (("system", "Be brief."), ("user", "咳嗽三天了。")),
    (("system", "Be brief."), ("user", "I cough."), ("assistant", "Rest."), ("user", "How long?")),
    (("user", "One."), ("assistant", "Two."), ("user", "三。"), ("assistant", "四。"), ("user", "5 < 6 & 7")),
)
TOKENIZER = "the tokenizer's chat template"
CONTEXT = 24  # characters shown before a difference
SHOWN = 60  # characters of a system text
Render = Callable[[list[JSONObject]], str]


@dataclass(frozen=True)
class Source:
    """One place that says how a conversation is rendered; `ends`: what it stops at, None where it does not say."""

    name: str
    render: Render
    bos: str
    ends: frozenset[str] | None = None
    system: str = ""  # a text that it gives conversations without one: a Modelfile's SYSTEM


@dataclass(frozen=True)
class Difference:
    """Where two sources part."""

    first: str
    second: str
    conversation: int  # which of `ROWS`, from 1
    at: int  # character, from 0; -1: the end tokens
    shown: tuple[str, str]


@dataclass(frozen=True)
class Report:
    """What was compared, and where it differs."""

    sources: tuple[str, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()  # what is no difference, and has to be known

    def lines(self) -> list[str]:
        """The report for a person."""
        found = [f"compared: {', '.join(self.sources)}", *self.notes]
        for one in self.differences:
            if one.at < 0:
                found.append(f"{one.second} does not stop at {one.shown[0]}, where answers end by {one.first}")
                continue
            found.append(
                f"{one.first} and {one.second} differ in conversation {one.conversation} at character {one.at}:"
            )
            found += [f"  {name}: {text}" for name, text in zip((one.first, one.second), one.shown, strict=True)]
        return found if self.differences else [*found, f"all render {len(ROWS)} conversations alike"]

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "compared": list(self.sources),
            "differences": [
                {"first": one.first, "second": one.second, "conversation": one.conversation, "character": one.at,
                 "texts": list(one.shown)}
                for one in self.differences
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def audit_model(name: str, checkpoint_dir: str | None, gguf: str | None = None, modelfile: str | None = None) -> Report:
    """Compare all that is known of a model. Raises `UserError` where fewer than two places say anything."""
    place = Path(name).expanduser()
    files = [place] if place.suffix == ".gguf" else sorted(filter(is_model, place.glob("*.gguf")))
    files += [Path(gguf).expanduser()] if gguf else []
    recipe = Path(modelfile).expanduser() if modelfile else (place if place.is_dir() else place.parent) / "Modelfile"
    try:
        if place.suffix != ".gguf":
            sources, notes = _of_model(name, checkpoint_dir)
        else:
            sources, notes = _training(checkpoint_dir) if checkpoint_dir else ([], [])
    except UserError as error:
        raise UserError(str(error).replace("--model_name_or_path", "--model")) from error
    sources += [_of_gguf(file) for file in files]
    if recipe.is_file():
        sources.append(_of_modelfile(recipe, sources[0].bos if sources else ""))
    elif modelfile:
        raise UserError(f"there is no {recipe}")
    if len(sources) < 2:
        raise UserError(
            f"only {sources[0].name if sources else 'nothing'} says how {name} is asked: there is nothing to compare "
            "it with; give the training as --checkpoint_dir, a --gguf or a --modelfile"
        )
    return compare(sources, notes)


def compare(sources: Sequence[Source], notes: Sequence[str] = ()) -> Report:
    """Compare each source with the first."""
    first, *others = sources
    differences: list[Difference] = []
    added = [f"{one.name} adds a system text of its own: {_short(one.system)}" for one in others if one.system]
    for other in others:
        for number, given in enumerate(_with_system(other.system), 1):
            one, two = _text(first, given), _text(other, given)
            if one != two:
                at = next((at for at, pair in enumerate(zip(one, two, strict=False)) if len({*pair}) > 1), None)
                at = min(len(one), len(two)) if at is None else at
                differences.append(Difference(first.name, other.name, number, at, (_around(one, at), _around(two, at))))
                break
        missing = sorted((first.ends or frozenset()) - other.ends) if other.ends is not None else []
        differences += [Difference(first.name, other.name, 0, -1, (end, "")) for end in missing]
    return Report(tuple(one.name for one in sources), tuple(differences), (*notes, *added))


def _with_system(system: str) -> list[tuple[tuple[str, str], ...]]:
    """The conversations, those without a system text given this one."""
    return [given if not system or given[0][0] == "system" else (("system", system), *given) for given in ROWS]


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _text(source: Source, given: Sequence[tuple[str, str]]) -> str:
    """The prompt without bos; a refusal is a text of its own."""
    try:
        text = source.render([{"role": role, "content": content} for role, content in given])
    except UserError as error:
        return f"(refused: {error})"
    return text.removeprefix(source.bos) if source.bos else text


def _around(text: str, at: int) -> str:
    before = text[max(0, at - CONTEXT) : at]
    return f"{before!r} then {text[at : at + CONTEXT]!r}" if at < len(text) else f"{before!r} then nothing"


def _of_model(name: str, checkpoint_dir: str | None) -> tuple[list[Source], list[str]]:
    """The training's format by run.json and the tokenizer's own; with what a person has to know of them."""
    from carellama.model.load import load_tokenizer
    from carellama.templates.template import get_template

    folder = Path(name).expanduser()
    model = ModelOptions(name, checkpoint_dir)
    if checkpoint_dir is None and folder.is_dir() and (record := read_run(folder)) is not None:
        whole = (folder / "config.json").is_file()
        model = ModelOptions(name if whole else str(record.get("base_model")), name)
    alone = ModelOptions(model.model_name_or_path)
    model, _ = with_named_weights(model, PromptOptions())
    last = next((found for found in map(trained_with, reversed(model.checkpoints)) if found), None)
    if last is not None and last[1] is None:
        return _trained_with_own(with_named_weights(alone, PromptOptions())[0], Path(last[0]).expanduser())
    tokenizer = load_tokenizer(model)
    asked = tokenizer if not checkpoint_dir or name == _base_of(checkpoint_dir) else load_tokenizer(alone)
    own = get_template(None, asked) if asked.chat_template else None
    found: list[Source] = []
    if last is not None:
        template = get_template(last[1], tokenizer)
        direct = template.answering_directly()
        if own is not None and own.jinja == direct.jinja:
            template = direct
        found.append(_source(f"the training (--template {last[1]})", template))
    return ([*found, _source(TOKENIZER, own)] if own is not None else found), []


def _training(checkpoint_dir: str) -> tuple[list[Source], list[str]]:
    """The training alone, for a .gguf, which brings no tokenizer that could be asked."""
    base = _base_of(checkpoint_dir)
    if not base:
        raise UserError(f"{checkpoint_dir} has no run.json that names its base: the training's text is not known")
    sources, notes = _of_model(base, checkpoint_dir)
    return sources[:1], notes


def _base_of(checkpoint_dir: str) -> str:
    """The model that the last checkpoint says it was trained on; with it alone its template goes together."""
    record = read_run(Path(split_commas(checkpoint_dir)[-1]).expanduser()) or {}
    return str(record.get("base_model") or "")


def _trained_with_own(model: ModelOptions, checkpoint: Path) -> tuple[list[Source], list[str]]:
    """A training with its tokenizer's own template, which stands in the checkpoint, and the model's tokenizer."""
    from carellama.model.load import load_tokenizer
    from carellama.templates.template import get_template

    tokenizer = load_tokenizer(model)
    sources = [_source(TOKENIZER, get_template(None, tokenizer))] if tokenizer.chat_template else []
    trained, notes = _tokenizer_in(checkpoint), list[str]()
    if trained is None and (checkpoint / "chat_template.jinja").is_file():
        trained = load_tokenizer(replace(model, checkpoint_dir=str(checkpoint)))
    if trained is None:
        trained = tokenizer
        notes.append(
            f"{checkpoint} has no tokenizer: the training used the own template of the model's tokenizer, "
            "so the two are equal by definition"
        )
    template = get_template(None, trained)
    how = "the tokenizer's own template" if trained.chat_template else f"--template {template.name}"
    return [_source(f"the training ({how})", template), *sources], notes


def _tokenizer_in(checkpoint: Path) -> Any:
    """The tokenizer that a training saved with its adapter or model; None: there is none."""
    from transformers import AutoTokenizer

    from carellama.model.load_errors import as_user_error
    from carellama.model.sentencepiece_tokenizer import find_tokenizer

    if not (checkpoint / "tokenizer_config.json").is_file():
        return None
    with as_user_error(checkpoint, "tokenizer"):
        return find_tokenizer(lambda name: path if (path := checkpoint / name).is_file() else None) or (
            AutoTokenizer.from_pretrained(checkpoint)
        )


def _source(title: str, template: Template) -> Source:
    tokenizer = template.tokenizer
    stops = [*tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops]
    return Source(title, lambda rows: template.render(_messages(rows), add_generation_prompt=True), _bos(tokenizer),
                  frozenset(stops or filter(None, [tokenizer.eos_token])))  # fmt: skip


def _bos(tokenizer: Any) -> str:
    return tokenizer.bos_token or ""


def _messages(rows: Sequence[JSONObject]) -> list[Message]:
    return [Message(row["role"], row["content"]) for row in rows]


def _of_gguf(path: Path) -> Source:
    header = read_header(path, VOCABULARY)
    if header.kind != "model":
        raise UserError(f"{path} is no model but of the type {header.kind}")
    chat = chat_of(header, None)
    ends = frozenset([chat.eos, *chat.stops, *_written_ends(chat.jinja, chat.marks)])
    return Source(path.name, lambda rows: chat.render(_messages(rows)), chat.bos, frozenset(filter(None, ends)))


def _written_ends(jinja: str, marks: Sequence[str]) -> list[str]:
    from carellama.templates.jinja import turn_ends

    return [end for end in turn_ends(jinja) if end in marks]


_BLOCK = r'(?:"""(.*?)"""|"((?:\\.|[^"\\])*)"|([^\n]*))'
_PARAMETER = re.compile(rf"^PARAMETER\s+stop\s+{_BLOCK}", re.MULTILINE | re.IGNORECASE | re.DOTALL)


def _of_modelfile(path: Path, bos: str) -> Source:
    """Ollama's template, system text and stops. Raises `UserError` for a Modelfile without a template."""
    text = path.read_text(encoding="utf-8")
    template, system = _instruction(text, "TEMPLATE"), _instruction(text, "SYSTEM")
    if template is None:
        raise UserError(f"{path} has no TEMPLATE: Ollama would take the .gguf's, or none")
    ends = frozenset(next(part for part in match.groups() if part is not None) for match in _PARAMETER.finditer(text))
    return Source(path.name, lambda rows: render_ollama(template, rows), bos, ends, system or "")


def _instruction(text: str, word: str) -> str | None:
    match = re.search(rf"^{word}\s+{_BLOCK}", text, re.MULTILINE | re.IGNORECASE | re.DOTALL)
    return next((part for part in match.groups() if part is not None), None) if match else None
