"""The conversations of who asks, kept on the server. An id of another account is as one that is not there.

GET /web/conversations                  all of them, without their messages
GET, PUT, DELETE /web/conversations/{id}
GET, PUT /web/conversations/{id}/messages
POST /web/conversations/search          {"text"}: the ids of those that have it
GET, PUT /web/drafts/{place}            {"text"}: what was typed and not sent
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from carellama.records import JSONObject
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.web.accounts.routes import Body, accounts_of
from carellama.serve.web.accounts.service import Accounts, no_conversation

if TYPE_CHECKING:
    from carellama.store.conversations import ConversationStore

router = APIRouter(prefix="/web", route_class=JsonRoute)
MAX_PART_BYTES = 1 << 20  # of a message, of a conversation without its messages, of a draft
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as the store takes them
ID_WORDS = "1 to 64 letters, digits, - and _"


class Search(Body):
    """Words to be found."""

    text: str = Field(max_length=1000)


class Draft(Body):
    """What was typed and not sent."""

    text: str


def store_of(request: Request) -> tuple[Accounts, ConversationStore, str]:
    """Return the accounts, their conversations, and the account of who asks."""
    accounts, caller = accounts_of(request)
    assert accounts.conversations is not None, "these routes are added with --keep server only"
    return accounts, accounts.conversations, caller.id


def check_size(value: object, param: str) -> None:
    """Raise `InvalidRequest` (413) for a value that is too long to be kept."""
    if (size := len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))) > MAX_PART_BYTES:
        text = f"{param} has {size:,} bytes; the most is {MAX_PART_BYTES:,}"
        raise InvalidRequest(text, param, "too_large", 413)


@router.get("/conversations")
async def list_conversations(request: Request) -> Response:
    """All conversations of the account."""
    accounts, store, who = store_of(request)
    return JSONResponse(await accounts.ask(lambda: store.list(who)))


@router.post("/conversations/search")
async def search(request: Request, body: Search) -> Response:
    """The ids of the conversations that have a text."""
    accounts, store, who = store_of(request)
    return JSONResponse({"ids": await accounts.ask(lambda: store.search(who, body.text))})


@router.get("/conversations/{id}")
async def read_conversation(request: Request, id: str) -> Response:
    """One conversation. Raises `InvalidRequest` (404)."""
    accounts, store, who = store_of(request)
    return JSONResponse(_require_conversation(await accounts.ask(lambda: store.get(who, id))))


@router.put("/conversations/{id}", status_code=204)
async def write_conversation(request: Request, id: str, body: JSONObject) -> Response:
    """Keep a conversation. Raises `InvalidRequest` (400, 409, 413)."""
    accounts, store, who = store_of(request)
    if body.get("id") != id or not _is_id(id):
        raise InvalidRequest(f"id has to be that of the path: {ID_WORDS}", "id")
    check_size(body, "the conversation")
    await accounts.ask(lambda: store.put(who, body))
    return Response(status_code=204)


@router.delete("/conversations/{id}", status_code=204)
async def delete_conversation(request: Request, id: str) -> Response:
    """Delete a conversation with its messages. Raises `InvalidRequest` (404)."""
    accounts, store, who = store_of(request)
    if not await accounts.ask(lambda: store.delete(who, id)):
        raise no_conversation()
    return Response(status_code=204)


@router.get("/conversations/{id}/messages")
async def read_messages(request: Request, id: str) -> Response:
    """The messages of a conversation. Raises `InvalidRequest` (404)."""
    accounts, store, who = store_of(request)

    def read() -> list[JSONObject] | None:
        return None if store.get(who, id) is None else store.messages(who, id)

    messages = await accounts.ask(read)
    if messages is None:
        raise no_conversation()
    return JSONResponse(messages)


@router.put("/conversations/{id}/messages", status_code=204)
async def write_messages(request: Request, id: str, body: list[JSONObject]) -> Response:
    """Keep messages of a conversation; others of it stay. Raises `InvalidRequest` (400, 404, 413)."""
    accounts, store, who = store_of(request)
    for number, message in enumerate(body):
        check_size(message, f"message {number}")
        if not _is_id(message.get("id")) or message.get("conversation", id) != id:
            text = f"message {number} needs an id ({ID_WORDS}), and the conversation of the path"
            raise InvalidRequest(text, f"{number}.id")

    await accounts.ask(lambda: store.put_messages(who, id, body))
    return Response(status_code=204)


@router.get("/drafts/{place}")
async def read_draft(request: Request, place: str) -> Response:
    """What was typed at a place and not sent; empty where there is nothing."""
    accounts, store, who = store_of(request)
    _check_place(place)
    return JSONResponse({"text": await accounts.ask(lambda: store.draft(who, place))})


@router.put("/drafts/{place}", status_code=204)
async def write_draft(request: Request, place: str, body: Draft) -> Response:
    """Keep what was typed; an empty text deletes it. Raises `InvalidRequest` (400, 413)."""
    accounts, store, who = store_of(request)
    _check_place(place)
    check_size(body.text, "text")
    await accounts.ask(lambda: store.put_draft(who, place, body.text))
    return Response(status_code=204)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _check_place(place: str) -> None:
    if not _is_id(place):
        raise InvalidRequest(f"a draft has a place: {ID_WORDS}", "place")


def _require_conversation(value: JSONObject | None) -> JSONObject:
    if value is None:
        raise no_conversation()
    return value
