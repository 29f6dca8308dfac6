"""The named chat formats: what they write around the contents of a conversation, and the same as Jinja.

    jinja_of(formats()["chatml"])       # the chat template that export writes into the tokenizer

They are data: the YAML files of `formats/` have an entry for each, with the place that its strings were read from. An
entry `same_as` another one is that one under a second name. This module loads no tokenizer and renders nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from carellama.errors import UserError, lookup
from carellama.package_data import package_folder, parse_yaml

DEFAULT = "default"  # the format of a model that brings none
OWN = "the tokenizer's own"  # name of the format that a tokenizer brings
FILLED = ("input", "references", "context")  # what whoever renders a format may give it besides messages
_PLACES = re.compile(r"(\{(?:bos|eos|i|" + "|".join(FILLED) + r")\})")


@dataclass(frozen=True)
class Format:
    """A chat format as data. `{bos}`, `{eos}` and `{i}` (the turn's number) are filled in.

    bos + start + [system block] + for each turn: user_prefix + question + user_suffix + assistant_prefix, then, for an
    answer that is there, history_lead + answer + assistant_suffix; with turn_sep before every turn but the first. The
    system block is left out when there is no system message; with `system_in_user` it stands inside the first question.
    `{input}`, `{references}` and `{context}` are variables of the chat template, nothing where they are not given.
    """

    bos: bool | Literal["tokenizer"] = True  # tokenizer: where the tokenizer itself begins a text with it
    start: str = ""
    system: str = ""  # the default system message
    system_prefix: str = ""
    system_suffix: str = ""
    system_in_user: bool = False
    user_prefix: str = ""
    first_user_prefix: str | None = None  # None: as user_prefix
    user_suffix: str = ""
    assistant_prefix: str = ""
    history_lead: str = ""  # between the generation prompt and an answer
    assistant_suffix: str = "{eos}"
    turn_sep: str = ""
    first_turn: int = 1  # what {i} counts from
    stop: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # single tokens that the tokenizer must have
    about: str = ""
    source: str = ""  # repository and file that the strings were read from
    trained_as: str = ""  # the format that the same project trained with, where this one is how it asks
    same_as: str = ""  # the format of which this is another name


@lru_cache(maxsize=1)
def formats() -> dict[str, Format]:
    """All named formats of `formats/`, by name."""
    entries: dict[str, dict[str, Any]] = {}
    for path, text in package_folder("templates/formats"):
        for name, entry in parse_yaml(text).items():
            if name in entries:
                raise ValueError(f"{path}: the format {name} is there twice")
            entries[name] = entry
    own = {name: Format(**entry) for name, entry in entries.items() if "same_as" not in entry}
    return {name: own.get(name) or replace(own[entry["same_as"]], **entry) for name, entry in entries.items()}


def named_format(name: str) -> Format:
    """Return the named format. Raises `UserError` for an unknown name."""
    return lookup(formats(), name, "template", listed_by="carellama template list")


def format_for(name: str, has_token: Callable[[str], bool]) -> Format:
    """Return the named format. Raises `UserError` for an unknown name, and for single tokens that a model lacks."""
    form = named_format(name)
    if missing := [token for token in form.tokens if not has_token(token)]:
        raise UserError(
            f"--template {name} needs the tokens {', '.join(missing)}, which this model's tokenizer does not have; "
            "leave --template out to use the model's own format, or take one of plain text: alpaca, default, vicuna"
        )
    return form


def jinja_of(form: Format, *, adds_bos: bool = True) -> str:
    """Return the Jinja chat template that renders `form`, as Hugging Face tokenizers keep it.

    `adds_bos`: whether the tokenizer itself begins a text with its bos token, which some formats leave to it.
    """

    def literal(text: str, *, number: str = "") -> str:
        """`"a{eos}"` -> `{{- "a" + eos_token -}}`."""
        named = {"{bos}": "bos_token", "{eos}": "eos_token", "{i}": number}
        named |= {f"{{{name}}}": f"({name} or '')" for name in FILLED}
        parts = [part for part in _PLACES.split(text) if part]
        joined = " ~ ".join(named.get(part) or json.dumps(part, ensure_ascii=False) for part in parts)
        return "{{- " + joined + " -}}" if joined else ""

    number = f"(loop.index0 // 2 + {form.first_turn})"
    system = (
        "{%- if system -%}"
        + literal(form.system_prefix)
        + "{{- system -}}"
        + literal(form.system_suffix)
        + "{%- endif -%}"
    )
    first = form.user_prefix if form.first_user_prefix is None else form.first_user_prefix
    begins = form.bos is True or (form.bos == "tokenizer" and adds_bos)
    lines = [
        "{%- if messages[0]['role'] == 'system' -%}",
        "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}",
        "{%- else -%}",
        "{%- set system = " + json.dumps(form.system, ensure_ascii=False) + " -%}{%- set turns = messages -%}",
        "{%- endif -%}",
        literal("{bos}") if begins else "",
        literal(form.start),
        "" if form.system_in_user else system,
        "{%- for message in turns -%}",
        "{%- if message['role'] == 'user' -%}",
        "{%- if loop.first -%}" + literal(first, number=number) + (system if form.system_in_user else ""),
        "{%- else -%}" + literal(form.turn_sep + form.user_prefix, number=number) + "{%- endif -%}",
        "{{- message['content'] -}}" + literal(form.user_suffix, number=number),
        "{%- elif message['role'] == 'assistant' -%}",
        literal(form.assistant_prefix + form.history_lead, number=number)
        + "{{- message['content'] -}}"
        + literal(form.assistant_suffix),
        "{%- else -%}{{- raise_exception('unknown role ' ~ message['role']) -}}{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}"
        + literal(form.assistant_prefix, number=f"(turns|length // 2 + {form.first_turn})")
        + "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)
