"""Feedback on answers: stored only with consent, and without the identifiers that are found in it.

POST /web/feedback           {"consent": true, "rating": "down", "messages": [...], "answer": ..., ...}
                             -> 201 {"id", "masked": {"NAME": 1}}
DELETE /web/feedback/{id}    withdrawn: 204

Nothing is stored before all of its texts have passed `carellama.privacy`: one search over the whole conversation, so
that a name that was found once is masked everywhere. What a rule does not know stays; the page says so.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections import Counter
from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.responses import JSONResponse, Response

from carellama.config import environment
from carellama.config.serve import WebOptions
from carellama.errors import UserError
from carellama.privacy.deidentify import Deidentifier
from carellama.records import JSONObject
from carellama.serve.api.auth import database_unavailable
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.streaming import run_in_thread
from carellama.store.feedback import FeedbackStore

router = APIRouter(prefix="/web", route_class=JsonRoute)
LIBRARIES = ("phonenumbers", "jieba")  # of the extra clean
MOST_CHARS = 60_000  # of all texts: masking takes some 3 seconds of them
Reason = Literal["wrong", "unsafe", "not_for_me", "missing", "unclear", "language", "other"]
Result = TypeVar("Result")
Words = Annotated[str, Field(max_length=MOST_CHARS)]


class Turn(BaseModel):
    """A message before the answer."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Words


class FeedbackRequest(BaseModel):
    """POST /web/feedback."""

    model_config = ConfigDict(extra="forbid")
    consent: StrictBool
    rating: Literal["up", "down"] | None = None
    reasons: list[Reason] = Field(default_factory=list, max_length=7)
    comment: Words = ""
    correction: Words = ""  # the answer as it should have been
    rejected: Words = ""  # the answer of a blind comparison that was not chosen
    messages: list[Turn] = Field(min_length=1, max_length=400)
    answer: Words
    model: str = Field(default="", max_length=200)

    @property
    def texts(self) -> list[str]:
        """All that a person, or the model, wrote."""
        return [*(turn.content for turn in self.messages), self.answer, self.comment, self.correction, self.rejected]


class Feedback:
    """Masks and stores. For one event loop; the database is opened with the first feedback."""

    def __init__(self, open_store: Callable[[], FeedbackStore]) -> None:
        self._open = open_store
        self._masking = asyncio.Semaphore(1)  # it takes a whole core

    @cached_property
    def store(self) -> FeedbackStore:
        """Where it is kept."""
        return self._open()

    @cached_property
    def deidentifier(self) -> Deidentifier:
        """What masks."""
        return Deidentifier()

    async def add(self, given: FeedbackRequest, account_id: str | None) -> tuple[str, Counter[str]]:
        """Store feedback without identifiers; return its id, and how many of each kind were masked."""
        async with self._masking:
            return await run_in_thread(partial(asked, lambda: self._add(given, account_id)))

    def _add(self, given: FeedbackRequest, account_id: str | None) -> tuple[str, Counter[str]]:
        body, masked = mask(given, self.deidentifier)
        return self.store.add(body, account_id=account_id), masked


def asked(function: Callable[[], Result]) -> Result:
    """Return what a function of the store returns. Raises `Rejected` (503), without the place of the database."""
    try:
        return function()
    except UserError as error:
        raise database_unavailable(error, "feedback") from error


def mask(given: FeedbackRequest, deidentifier: Deidentifier) -> tuple[JSONObject, Counter[str]]:
    """What is stored of feedback, and how many identifiers of each kind were masked."""
    texts, masked = deidentifier.deidentify_texts(given.texts)
    turns = len(given.messages)
    answer, comment, correction, rejected = texts[turns:]
    body: JSONObject = {
        "rating": given.rating,
        "reasons": sorted(set(given.reasons)),
        "comment": comment,
        "correction": correction,
        "rejected": rejected,
        "messages": [
            {"role": turn.role, "content": text} for turn, text in zip(given.messages, texts[:turns], strict=True)
        ],
        "answer": answer,
        "model": given.model,
    }
    return body, masked


def feedback_is_masked() -> bool:
    """Whether the libraries that find identifiers are installed."""
    return all(importlib.util.find_spec(name) is not None for name in LIBRARIES)


def add_feedback(app: FastAPI, options: WebOptions, open_store: Callable[[], FeedbackStore]) -> bool:
    """Let the page send feedback. Returns False where that is switched off, or identifiers cannot be masked."""
    if not options.feedback or not feedback_is_masked():
        return False
    app.state.feedback = Feedback(open_store)
    app.include_router(router)
    return True


def open_feedback(options: WebOptions) -> FeedbackStore:
    """Open the database that keeps feedback. Raises `UserError`."""
    from carellama.store.cipher import read_cipher
    from carellama.store.database import open_database

    database = open_database(options.database or environment.database(), durable=True)
    assert database is not None  # it is made where it is not
    return FeedbackStore(database, read_cipher(options.encryption_key_file))


@router.post("/feedback", status_code=201)
async def create_feedback(request: Request, body: FeedbackRequest) -> Response:
    """Store feedback. Raises `InvalidRequest` without consent (400), or for too long texts (413)."""
    if not body.consent:
        text = "nothing was stored: feedback is stored only with consent, which the person gives by a check mark"
        raise InvalidRequest(text, "consent", "consent_needed")
    if body.messages[-1].role != "user":
        raise InvalidRequest("messages end with the question", "messages", "invalid_value")
    if (given := sum(map(len, body.texts))) > MOST_CHARS:
        text = f"the texts have {given:,} characters; at most {MOST_CHARS:,} are stored"
        raise InvalidRequest(text, "messages", "feedback_too_long", 413)
    feedback: Feedback = request.app.state.feedback
    id, masked = await feedback.add(body, account_of(request))
    return JSONResponse({"id": id, "masked": dict(masked)}, 201)


@router.delete("/feedback/{id}", status_code=204)
async def withdraw_feedback(request: Request, id: str) -> Response:
    """Delete feedback of who asks."""
    feedback: Feedback = request.app.state.feedback
    account_id = account_of(request)
    if not await run_in_thread(partial(asked, lambda: feedback.store.delete(id, account_id=account_id))):
        raise InvalidRequest("there is no such feedback: it was withdrawn before", "id", "feedback_not_found", 404)
    return Response(status_code=204)


def account_of(request: Request) -> str | None:
    """The account of who asks; None where the page has no accounts."""
    account = getattr(request.state.context.caller, "account", None)
    return None if account is None else str(account.id)
