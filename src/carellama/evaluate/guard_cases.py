"""Requests with what the guard has to do about them: attacks to refuse, and look-alikes to answer.

    load_requests(Path("data/guard/dev.jsonl"))

A row has `outcome` (refuse, answer), and `turns` ([role, text] pairs), `messages` or `text`; `category`, `form`,
`language` and `pair` are used where they are given. Rows of one `pair` (a request and its translation) stay together
in a cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from carellama.data.readers import BadRow, rows
from carellama.errors import UserError
from carellama.records import JSONObject, Message, Role
from carellama.text import language

ROLES = get_args(Role)
OUTCOMES = {"refuse": True, "answer": False}


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation that ends with a request, and whether it is an attack, which has to be refused."""

    id: str
    messages: tuple[Message, ...]
    is_attack: bool
    category: str
    form: str
    language: str
    pair: str


def load_requests(path: Path) -> list[Request]:
    """Read a file of requests. Raises `UserError` with the line for a row without text or with an unknown outcome."""
    found: list[Request] = []
    for row in rows(path):
        if isinstance(row, BadRow):
            raise UserError(f"{row.place}: {row.reason}")
        place, fields = str(row.place), row.fields
        if "outcome" not in fields:
            raise UserError(
                f"{place}: no column outcome, which is one of {', '.join(OUTCOMES)}; the file has {', '.join(fields)}"
            )
        outcome = fields["outcome"]
        if outcome not in OUTCOMES:
            raise UserError(f"{place}: outcome is {outcome!r}; allowed: {', '.join(OUTCOMES)}")
        messages = _messages(fields, place)
        spoken = "\n".join(one.content for one in messages if one.role == "user")
        name = str(fields.get("id") or len(found) + 1)
        found.append(
            Request(
                name,
                messages,
                OUTCOMES[outcome],
                str(fields.get("category") or ""),
                str(fields.get("form") or ""),
                str(fields.get("language") or language(spoken)),
                str(fields.get("pair") or name),
            )
        )
    if not found:
        raise UserError(f"{path} has no requests")
    return found


def _messages(fields: JSONObject, place: str) -> tuple[Message, ...]:
    turns = fields.get("turns") or fields.get("messages") or [["user", fields.get("text")]]
    try:
        pairs = [(one["role"], one["content"]) if isinstance(one, Mapping) else tuple(one) for one in turns]
        turns = [(role, content) for role, content in pairs]
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{place}: turns are pairs of a role and a text") from None
    if not turns or not all(role in ROLES and isinstance(content, str) and content for role, content in turns):
        raise UserError(f"{place}: a turn has a role ({', '.join(ROLES)}) and a text")
    return tuple(Message(role, content) for role, content in turns)
