"""What each part of a model says of how a conversation is rendered: training, tokenizer, .gguf, Modelfile.

    of_gguf(Path("model.gguf")).render([{"role": "user", "content": "Hi"}])

A part that gives no text raises `UserError` with the reason when it is asked to render. It compares nothing:
`carellama.evaluate.chat_formats.audit` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.engine.chat import VOCABULARY, chat_of
from carellama.errors import UserError
from carellama.model.gguf.read import read_header
from carellama.model.paths import check_checkpoints
from carellama.model.zoo.pull import with_named_weights
from carellama.records import JSONObject, Message
from carellama.run_record import read_run, trained_with
from carellama.templates.format import DEFAULT
from carellama.templates.go_template import render_ollama
from carellama.templates.jinja import one_template, turn_ends
from carellama.templates.modelfile import Modelfile, read_modelfile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from carellama.templates.template import Template

TOKENIZER = "the tokenizer's chat template"
SHOWN = 60  # characters of a text in a note
Render = Callable[[list[JSONObject]], str]


@dataclass(frozen=True)
class Source:
    """One place that says how a conversation is rendered; `ends`: what it stops at, None where it does not say."""

    name: str
    render: Render
    bos: str = ""
    ends: frozenset[str] | None = None
    system: str = ""  # a text that it gives conversations without one: a Modelfile's SYSTEM
    notes: tuple[str, ...] = ()  # what a person has to know of it


def of_model(model: ModelOptions) -> list[Source]:
    """The training's format by run.json, where there is one, and the tokenizer's own."""
    from carellama.model.tokenizer import load_tokenizer
    from carellama.templates.template import get_template

    folder, given = Path(model.model_name_or_path).expanduser(), model.checkpoints
    check_checkpoints(given)
    if not given and folder.is_dir() and (record := read_run(folder)) is not None:
        base = str(folder) if (folder / "config.json").is_file() else str(record.get("base_model"))
        model = replace(model, model_name_or_path=base, checkpoint_dir=str(folder))
    alone, _ = with_named_weights(replace(model, checkpoint_dir=None), PromptOptions())
    whole, _ = with_named_weights(model, PromptOptions())
    last = next((found for found in map(trained_with, reversed(whole.checkpoints)) if found), None)
    if last is not None and last[1] is None:
        return _trained_with_own(alone, Path(last[0]).expanduser())
    tokenizer = load_tokenizer(whole)
    asked = tokenizer if not given or _same(model.model_name_or_path, base_of(given[-1])) else load_tokenizer(alone)
    own = _own(asked, whole.checkpoints if asked is tokenizer else [])
    if last is None:
        unknown = [f"{name} has no run.json that names a chat format: its training is not compared" for name in given]
        return [replace(own, notes=(*unknown, *own.notes))]
    template = get_template(last[1], tokenizer)
    direct = template.answering_directly()
    if asked.chat_template == direct.jinja:
        template = direct
    trained = _source(f"the training (--template {last[1]})", template)
    if asked is tokenizer and asked.chat_template is None:  # that of the base, which need not have one
        return [replace(trained, notes=(_without(model.model_name_or_path),))]
    return [trained, own]


def of_training(checkpoints: Sequence[str]) -> Source:
    """The training alone, for files that bring no tokenizer; that of its base where its record names no format."""
    base = base_of(checkpoints[-1])
    if not base:
        raise UserError(f"{checkpoints[-1]} has no run.json that names its base: the training's text is not known")
    return of_model(ModelOptions(base, ",".join(checkpoints)))[0]


def base_of(checkpoint: str) -> str:
    """The model that a checkpoint says it was trained on, "" where it says nothing."""
    record = read_run(Path(checkpoint).expanduser()) or {}
    return str(record.get("base_model") or "")


def _same(name: str, other: str) -> bool:
    """Whether two names are those of one model, or of one folder."""
    return name == other or bool(other and Path(name).expanduser().resolve() == Path(other).expanduser().resolve())


def _trained_with_own(model: ModelOptions, checkpoint: Path) -> list[Source]:
    """A training with its tokenizer's own template, which stands in the checkpoint, and the model's tokenizer."""
    from carellama.model.tokenizer import load_tokenizer
    from carellama.templates.template import get_template

    tokenizer = load_tokenizer(model)
    own, place = _own(tokenizer, []), str(checkpoint)
    trained, notes = _tokenizer_in(checkpoint), list[str]()
    if trained is None:
        place = base_of(place) or model.model_name_or_path
        notes.append(f"{checkpoint} has no tokenizer: its training's text is by the tokenizer of its base, {place}")
        try:
            base, _ = with_named_weights(ModelOptions(place), PromptOptions())
            trained = load_tokenizer(replace(base, checkpoint_dir=str(checkpoint)))
        except UserError as error:
            raise UserError(f"{checkpoint} has no tokenizer, and that of its base cannot be read: {error}") from error
        own_file = checkpoint / "chat_template.jinja"
        place = str(checkpoint) if own_file.is_file() else place
    template = get_template(None, trained)
    how = "the tokenizer's own template" if trained.chat_template else f"--template {template.name}"
    equal = _same(place, model.model_name_or_path)
    if equal and tokenizer.chat_template is None:
        return [replace(_source(f"the training ({how})", template), notes=(*notes, _without(place)))]
    if equal:
        own = replace(own, notes=(*own.notes, f"training and tokenizer are both read from {place}, so they are equal"))
    return [replace(_source(f"the training ({how})", template), notes=tuple(notes)), own]


def _without(name: str) -> str:
    return f"the tokenizer of {name} has no chat template, so it is not compared"


def _tokenizer_in(checkpoint: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a training saved with its adapter or model; None: there is none."""
    from transformers import AutoTokenizer

    from carellama.model.load_errors import as_user_error
    from carellama.model.sentencepiece_tokenizer import find_tokenizer

    if not (checkpoint / "tokenizer_config.json").is_file():
        return None
    with as_user_error(checkpoint, "tokenizer"):
        found: PreTrainedTokenizerBase = find_tokenizer(
            lambda name: path if (path := checkpoint / name).is_file() else None
        ) or AutoTokenizer.from_pretrained(checkpoint)
    return found


def _own(tokenizer: PreTrainedTokenizerBase, checkpoints: Sequence[str]) -> Source:
    """The tokenizer's chat template; `checkpoints`: the folders whose own came before the model's."""
    from carellama.templates.template import get_template

    files = [Path(name).expanduser() / "chat_template.jinja" for name in checkpoints]
    notes = tuple(
        f"{file} is empty: CareLlama takes that of the base, and transformers renders no text by it"
        for file in files
        if file.is_file() and not file.stat().st_size
    )
    if isinstance(tokenizer.chat_template, dict) and len(tokenizer.chat_template) > 1:
        names = ", ".join(sorted(tokenizer.chat_template))
        notes += (f"the tokenizer has several chat templates ({names}): CareLlama takes default",)
    try:
        template = one_template(tokenizer.chat_template)
        if template:
            return replace(_source(TOKENIZER, get_template(None, tokenizer)), notes=notes)
        reason = "there is none, so that programs which read it cannot be asked"
        if template is not None:
            reason = "it is empty: transformers renders no text by it"
        raise UserError(f"{reason}; CareLlama takes the format {DEFAULT}")
    except UserError as error:
        return replace(_silent(TOKENIZER, str(error)), notes=notes)


def _silent(name: str, reason: str, **more: Any) -> Source:
    """A source that gives no text of any conversation."""

    def render(_: list[JSONObject]) -> str:
        raise UserError(reason)

    return Source(name, render, **more)


def _source(title: str, template: Template) -> Source:
    tokenizer = template.tokenizer
    stops = [*tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops]
    return Source(title, lambda rows: template.render(_messages(rows), add_generation_prompt=True),
                  tokenizer.bos_token or "", frozenset(stops or filter(None, [tokenizer.eos_token])))  # fmt: skip


def _messages(rows: Sequence[JSONObject]) -> list[Message]:
    return [Message(row["role"], row["content"]) for row in rows]


def of_gguf(path: Path) -> Source:
    """The chat template and the end tokens in a .gguf. Raises `UserError` for a file that is no model."""
    header = read_header(path, VOCABULARY)
    if header.kind != "model":
        raise UserError(f"{path} is no model but of the type {header.kind}")
    chat = chat_of(header, None)
    ends = frozenset(
        filter(None, [chat.eos, *chat.stops, *(end for end in turn_ends(chat.jinja) if end in chat.marks)])
    )
    if not header.facts.get("tokenizer.chat_template"):
        reason = f"it has no chat template: CareLlama takes the format {DEFAULT}, other programs what they guess"
        return _silent(path.name, reason, bos=chat.bos, ends=frozenset(filter(None, [chat.eos])))
    return Source(path.name, lambda rows: chat.render(_messages(rows)), chat.bos, ends)


def of_modelfile(path: Path, bos: str) -> Source:
    """Ollama's template, system text and stops; `bos`: what it puts before a text itself."""
    recipe = read_modelfile(path)
    template, system, renderer = (recipe.last(word) or "" for word in ("template", "system", "renderer"))
    known: dict[str, Any] = {
        "bos": bos,
        "ends": frozenset(recipe.stops),
        "system": system,
        "notes": _notes_of(path, recipe),
    }
    if renderer:
        return _silent(path.name, f"its RENDERER {renderer} is a program in Ollama, which is not known here", **known)
    if not template:
        reason = (
            "it has no TEMPLATE: Ollama takes the one that it knows nearest to that of the .gguf, or the words alone"
        )
        return _silent(path.name, reason, **known)
    return Source(path.name, lambda rows: render_ollama(template, rows), **known)


def _notes_of(path: Path, recipe: Modelfile) -> tuple[str, ...]:
    """What a Modelfile adds to a conversation besides its template."""
    found, origin = list[str](), recipe.last("from") or ""
    if system := recipe.last("system"):
        found.append(f"{path.name} adds a system text of its own: {_short(system)}")
    if messages := recipe.messages:
        role, content = messages[0]
        found.append(
            f"{path.name} puts {len(messages)} message{'s' * (len(messages) > 1)} before each conversation "
            f"({role}: {_short(content)}{', ...' * (len(messages) > 1)}): they are left out of the comparison"
        )
    if not (origin.startswith((".", "/", "~")) or origin.endswith(".gguf") or (path.parent / origin).exists()):
        found.append(
            f"{path.name} is FROM {origin}, a model of Ollama: its SYSTEM, MESSAGE and stops, which count where this "
            "file has none, are not known here"
        )
    return tuple(found)


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
