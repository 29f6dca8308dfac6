"""`carellama template list|show|check|audit`.

carellama template show vicuna
carellama template check output_export
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import parse_options
from carellama.config.template import (
    TEMPLATE_CHECK_OPTIONS,
    AuditTemplateOptions,
    ListTemplatesOptions,
    ShowTemplateOptions,
)
from carellama.errors import UserError
from carellama.evaluate.chat_formats.verdict import Verdict
from carellama.model.paths import check_model
from carellama.model.zoo.pull import with_named_weights
from carellama.records import Message
from carellama.run_record import as_trained
from carellama.templates.format import OWN, Format, formats, jinja_of, named_format
from carellama.templates.jinja import as_rows, render_chat

EXAMPLE = (Message("user", "I cough."), Message("assistant", "Rest."), Message("user", "咳嗽三天了。"))
JINJA = "chat_template.jinja"
BOS_IN_WORDS: dict[object, str] = {
    True: "at the beginning of the text", False: "none", "tokenizer": "where the tokenizer puts it itself"
}  # fmt: skip
BOS, EOS = "<s>", "</s>"  # of the example, where no tokenizer is read


def list_formats(argv: Sequence[str]) -> None:
    """Print all named formats as a table or as JSON."""
    (options,) = parse_options((ListTemplatesOptions,), argv, "carellama template list")
    if options.json:
        print(json.dumps([{"name": name, **_facts(form)} for name, form in formats().items()], ensure_ascii=False))
        return
    width = max(map(len, formats()))
    for name, form in sorted(formats().items()):
        print(f"{name.ljust(width)}  {form.about}")


def show(argv: Sequence[str]) -> None:
    """Print a named format, or the one that a model is trained and asked with, and a conversation rendered by it."""
    command = "carellama template show NAME"
    (options,) = parse_options((ShowTemplateOptions,), argv, command, positional="name")
    if (options.name is None) == (options.model_name_or_path is None):
        raise UserError("give the name of a format, or a model as --model_name_or_path: one of them")
    if options.name is not None:
        form = named_format(options.name)
        jinja = jinja_of(form)
        text = render_chat(jinja, as_rows(EXAMPLE), tools=None, bos=BOS, eos=EOS)
        facts: dict[str, Any] = {"name": options.name, **_facts(form), "jinja": jinja, "example": text}
    else:
        facts = _of_model(ModelOptions(options.model_name_or_path, options.checkpoint_dir))
    if options.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    texts = {name: text for name, value in facts.items() if (text := _in_words(name, value, facts))}
    width = max(map(len, texts))
    for name, text in texts.items():
        print(f"{name.ljust(width)}  {text}")
    print(f"\nA conversation up to where the second answer begins:\n{facts['example']}")
    stands_for = {BOS: "bos", EOS: "eos"} if options.name is not None else {}
    if found := [mark for mark in stands_for if mark in facts["example"]]:
        own = " and ".join(stands_for[mark] for mark in found)
        print(f"({' and '.join(found)}: where the tokenizer's own {own} stand{'s' * (len(found) == 1)})")
    if facts["example"] != facts["example"].rstrip():
        print(f"(it ends with {json.dumps(facts['example'][len(facts['example'].rstrip()) :])})")


def _in_words(name: str, value: object, facts: Mapping[str, object]) -> str:
    """What is printed of a field; empty: it says nothing of this format."""
    if name in ("jinja", "example") or value in ("", [], None) or (name == "system_in_user" and value is False):
        return ""
    if name == "first_turn":
        return f"{{i}} is the number of the turn, from {value}" if "{i}" in str(facts) else ""
    if name == "system_in_user":
        return "the system text stands inside the first question"
    if name == "bos" and value in BOS_IN_WORDS:
        return BOS_IN_WORDS[value]
    if name == "tools":
        return "the template knows tools" if value else "the template knows no tools"
    return str(value) if name in ("name", "about", "source", "same_as", "trained_as") else _visible(value)


def _visible(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _facts(form: Format) -> dict[str, Any]:
    return asdict(form)


def _of_model(model: ModelOptions) -> dict[str, Any]:
    """What a model is asked with: by the run.json of its checkpoint, its tokenizer, or the list of models."""
    from carellama.model.tokenizer import load_tokenizer
    from carellama.templates.template import get_template

    model, data = with_named_weights(model, PromptOptions())
    check_model(model)
    data = as_trained(model, data)
    tokenizer = load_tokenizer(model)
    template = get_template(data.template, tokenizer)
    text = template.render(EXAMPLE, add_generation_prompt=True)
    return {
        "name": template.name,
        "about": formats()[data.template].about if data.template else "",
        "bos": tokenizer.bos_token,
        "eos": tokenizer.eos_token,
        "ends": [*tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops],
        "tools": template.knows_tools,
        "before_answers": template.lead,
        "jinja": template.jinja,
        "example": text,
    }


def check(argv: Sequence[str]) -> None:
    """Score answers under each format and name the one that a model was trained with, or say that it cannot tell."""
    command = "carellama template check MODEL"
    options, given = parse_options(TEMPLATE_CHECK_OPTIONS, argv, command, positional="model_name_or_path")
    from carellama.evaluate.chat_formats.check import check_formats
    from carellama.model.adapter_plan import plan_adapters
    from carellama.model.adapters import apply_adapters
    from carellama.model.load import load_model
    from carellama.model.tokenizer import load_tokenizer, match_tokenizer, tokenizer_checkpoint

    model, _ = with_named_weights(given, PromptOptions())
    check_model(model)
    tokenizer = load_tokenizer(model)
    network = load_model(model, dtype=model.dtype, attention=None)
    match_tokenizer(network, tokenizer, extended=tokenizer_checkpoint(model) is not None)
    verdict = check_formats(apply_adapters(network, plan_adapters(model)), tokenizer)
    if options.json:
        print(json.dumps(verdict.as_json(), ensure_ascii=False, indent=2))
        return
    place = next((name for name in reversed(model.checkpoints) if (Path(name).expanduser() / JINJA).is_file()), None)
    _print(verdict, options.rows, str(place or given.model_name_or_path))


def _print(verdict: Verdict, rows: int, place: str) -> None:
    """Print the first rows of the table, and what is named; `place` is where the tokenizer's own template is."""
    shown = verdict.scores[:rows]
    of_lora = [name for name in ("fit", "near_match", "match") if getattr(verdict.scores[0], name) is not None]
    columns = "".join(f"{name:>10}  " for name in of_lora)
    print(f"{columns}{'score':>8}  {'start':>8}  {'words':>8}  {'end':>6}  formats")
    for one in shown:
        numbers = [getattr(one, name) for name in of_lora]
        match = "".join(" " * 12 if value is None else f"{value:10.2f}  " for value in numbers)
        said = " " * 36
        if one.answers:
            start, words, end = one.mean
            said = f"{one.score:8.3f}  {start:8.3f}  {words:8.3f}  {math.exp(end):6.1%}"
        print(f"{match}{said}  {_some(one.names)}")
    if any(one.fit is not None and one.is_twin(other) for one in shown for other in verdict.scores):
        print("(formats that differ by white space, bos or eos alone have their fit from the highest matches of them)")
    print(
        f"({len(verdict.scores)} texts compared; {len(verdict.left_out)} formats need tokens that the tokenizer lacks;"
        " of a format that is not among them, the check may name a similar one)"
    )
    if any(OWN in one.names for one in shown):
        print(f"({OWN}: the chat template of {place})")
    named = [_option(one.names) for one in verdict.scores if {*one.names} <= {*verdict.names}]
    print(f"use {' or '.join(named)}: {verdict.reason}" if named else f"cannot tell: {verdict.reason}")


def _option(names: Sequence[str]) -> str:
    """The option that asks with a text of these names."""
    first, *more = [name for name in names if name != OWN] or [""]
    if not first:
        return f"no --template ({OWN} is the text that fits)"
    alike = [*([f"the default, {OWN}"] if OWN in names else []), *more]
    return f"--template {first}" + (f" ({_some(alike)}: the same text)" if alike else "")


def _some(names: Sequence[str]) -> str:
    names = sorted(names, key=lambda name: name == OWN)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more that render alike" if len(names) > 6 else "")


def audit(argv: Sequence[str]) -> None:
    """Compare the texts of a model's training, tokenizer, .gguf and Modelfile; exit code 1 where they are not alike."""
    (options,) = parse_options(
        (AuditTemplateOptions,), argv, "carellama template audit MODEL", positional="model_name_or_path"
    )
    from carellama.evaluate.chat_formats.audit import audit_model

    report = audit_model(options.model_name_or_path, options.checkpoint_dir, options.gguf, options.modelfile)
    if options.json:
        print(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
    else:
        print("\n".join(report.lines()))
    if not report.alike:
        raise SystemExit(1)
