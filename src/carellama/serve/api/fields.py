"""Every field of a request, and what the server does with it: uses it, needs it for nothing, leaves it out, refuses it.

    check_fields(body)      # the names that are left out; raises `InvalidRequest` (400) for a field that is refused

The table is `fields.yaml`: the fields of OpenAI, vLLM, llama.cpp, Ollama and SGLang. A field that limits the answer
or changes its form is used or refused, never ignored. One that only tunes another server is left out: the response
names it in the header `x-carellama-ignored`, and the log says so once. Unknown fields are treated alike, except for a
misspelt one.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator
from functools import cache
from typing import Literal, NamedTuple

from carellama.package_data import package_yaml
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.schemas import RequestModel

log = logging.getLogger(__name__)

HEADER = "x-carellama-ignored"
MOST_NAMES = 100  # of fields that the log has named; clients invent them


Effect = Literal["used", "harmless", "left out", "refused"]


class Field(NamedTuple):
    """What happens with a field; `neutral` are values that ask for nothing."""

    effect: Effect
    about: str = ""
    neutral: tuple[object, ...] = ()


_named: set[str] = set()


@cache
def field_table(of: Literal["request", "message"]) -> dict[str, Field]:
    """Return what happens with each field of a request, or of a message in it, by its name."""
    return {
        name: Field(effect, row.get("about", ""), tuple(row.get("neutral", ())))
        for effect, rows in package_yaml("serve/api/fields.yaml")[of].items()
        for row in rows
        for name in row["names"].split()
    }


def check_fields(body: RequestModel) -> list[str]:
    """Return the names of the fields of a request that the server leaves out, and log each once.

    Raises `InvalidRequest` (400) with the field's name for one that is refused, and for one that looks misspelt.
    """
    known = {name.removesuffix("_") for name in type(body).model_fields}
    left_out = [name for name, value in (body.model_extra or {}).items() if _is_left_out(name, value, known)]
    for index, message in enumerate(getattr(body, "messages", None) or ()):
        for name, value in (getattr(message, "model_extra", None) or {}).items():
            field, where = field_table("message").get(name), f"messages.{index}.{name[:64]}"
            near = difflib.get_close_matches(name, type(message).model_fields, 1, 0.8)
            if field is None and value and near:
                raise InvalidRequest(f"{where}: no such field; did you mean {near[0]}?", where, "unknown_parameter")
            if value is None or (field is not None and (field.effect == "harmless" or not _asks(field, value))):
                continue
            if field is not None and field.effect == "refused":
                raise InvalidRequest(f"{where} is not supported: {field.about}", where, "unsupported_parameter")
            left_out.append(f"messages.{name}")
    for place, part in _parts(body):
        names = {field.alias or name for name, field in type(part).model_fields.items()}
        for name, value in (part.model_extra or {}).items():
            where = f"{place}.{name[:64]}"
            if value is not None and (near := difflib.get_close_matches(name, names, 1, 0.8)):
                raise InvalidRequest(f"{where}: no such field; did you mean {near[0]}?", where, "unknown_parameter")
            left_out += [where] if value is not None else []
    found = list(dict.fromkeys(left_out))
    _say_once(found)
    return found


def _parts(body: RequestModel, place: str = "") -> Iterator[tuple[str, RequestModel]]:
    """The objects within a request with their names; but messages and items, and what reads its own fields."""
    for name in type(body).model_fields:
        value = getattr(body, name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, RequestModel) and name not in ("messages", "input", "documents", "structured_outputs"):
                yield f"{place}{name}", one
                yield from _parts(one, f"{place}{name}.")


def _is_left_out(name: str, value: object, known: Collection[str]) -> bool:
    field = field_table("request").get(name)
    if field is None:
        if value is not None and (near := difflib.get_close_matches(name, known, 1, 0.85)):
            raise InvalidRequest(f"{name[:64]}: no such field; did you mean {near[0]}?", name[:64], "unknown_parameter")
        return value is not None
    if not _asks(field, value) or field.effect == "harmless":
        return False
    if field.effect == "left out":
        return True
    about = field.about if field.effect == "refused" else "it belongs to another route"
    raise InvalidRequest(f"{name} is not supported{': ' * bool(about)}{about}", name, "unsupported_parameter")


def _asks(field: Field, value: object) -> bool:
    """Whether a value asks for anything; 1 is not true."""
    return value is not None and not any(type(value) is type(one) and value == one for one in field.neutral)


def _say_once(names: list[str]) -> None:
    for name in names:
        if name in _named or len(_named) >= MOST_NAMES:
            continue
        _named.add(name)
        field = field_table("request").get(name) or field_table("message").get(name.removeprefix("messages."))
        about = field.about if field else "an unknown field"
        log.warning("requests have %r, which this server leaves out%s%s", name[:64], ": " * bool(about), about)
