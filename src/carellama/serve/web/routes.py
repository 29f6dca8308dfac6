"""The routes of the page: what it shows, and answers that go on without it.

POST /web/answers             202 {"id": ..., "ahead": 0, "seconds": 1.0}, for a body of /v1/chat/completions
POST /web/notices             {"notices": [...]}: what comes before the answer to such a body, without an answer
GET /web/answers/{id}         server-sent events behind Last-Event-ID, until the end
DELETE /web/answers/{id}      stop
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama import __version__
from carellama.assistant import Assistant
from carellama.config.serve import MODEL, Profile, WebOptions
from carellama.package_data import package_yaml
from carellama.records import JSONObject
from carellama.safety.notices import DEFAULT_COUNTRY, countries, disclaimer
from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.middleware import ServerState
from carellama.serve.api.parsing import message_text, parse_messages
from carellama.serve.api.routes.chat import SSEResponse, for_country
from carellama.serve.api.routes.context import check_capacity, context_of
from carellama.serve.api.schemas import ChatRequest
from carellama.serve.api.streaming import run_in_thread
from carellama.serve.web.access import Access
from carellama.serve.web.accounts.service import account_json
from carellama.serve.web.accounts.session_auth import AccountCaller, csrf_token
from carellama.serve.web.answers import Answers
from carellama.serve.web.files import PATH
from carellama.serve.web.viewer import viewer_of

router = APIRouter(prefix="/web", route_class=JsonRoute)
LINES = ("ambulance", "crisis", "poison")  # of a country's numbers
CHECK_SECONDS = 5.0  # between two looks at the session of who reads an answer
SAMPLING = ("temperature", "top_p", "top_k", "max_new_tokens", "repetition_penalty")


@router.get("/config")
async def read_config(request: Request) -> Response:
    """What the page has to know before the first question."""
    state, context = context_of(request)
    adapters, context_tokens = await state.engine_info()
    page: WebOptions = request.app.state.page
    access: Access = request.app.state.access
    caller = context.caller
    known = caller if isinstance(caller, AccountCaller) else None
    return JSONResponse(
        page_config(state, page, viewer_of(request), adapters, context_tokens)
        | {
            "files": PATH in state.uploads,
            "feedback": hasattr(request.app.state, "feedback"),
            "access": access.kind,
            "keep": access.keep,
            "account": account_json(known.account) if known is not None else None,
            "csrf": csrf_token(known.token) if known is not None else "",
        }
    )


def page_config(
    state: ServerState, page: WebOptions, viewer: Profile, adapters: Sequence[str], context_tokens: int | None
) -> JSONObject:
    """Return what the page shows; how answers are sampled only for researchers."""
    assistant = state.engine if isinstance(state.engine, Assistant) else None
    layer = assistant.safety if assistant is not None else None
    country = (layer.country if layer is not None else None) or ""
    numbers = {language: _numbers(country or usual) for language, usual in DEFAULT_COUNTRY.items()}
    found: JSONObject = {
        "version": __version__,
        "model": MODEL,
        "name": assistant.cards[0].name if assistant is not None and assistant.cards and viewer != "patient" else "",
        "adapters": list(adapters),
        "engine": state.engine.name,
        "context_tokens": context_tokens,
        "profile": viewer,
        "mode": state.mode,
        "consult": state.consultant is not None,
        "speaks": list(assistant.languages) if assistant is not None else [],
        "safety": layer.mode if layer is not None else "off",
        "disclaimer": {language: disclaimer(language) for language in DEFAULT_COUNTRY},
        "country": country,
        "numbers": numbers,
        "usual_country": {language: country or usual for language, usual in DEFAULT_COUNTRY.items()},
        "countries": {code: _numbers(code) for code in countries()},
        "limits": {"question_chars": page.question_chars, "file_bytes": page.file_bytes},
        "examples": package_yaml("serve/web/examples.yaml")[viewer],
    }
    if viewer == "researcher":
        found["sampling"] = {name: getattr(state.defaults, name) for name in SAMPLING}
        found["system_prompt"] = assistant.system_prompt if assistant is not None else None
    return found


def _numbers(country: str) -> dict[str, str]:
    """Whom to call in a country."""
    return {line: number for line, number in countries()[country].items() if line in LINES}


@router.post("/answers", status_code=202)
async def create_answer(request: Request, body: ChatRequest) -> Response:
    """Begin an answer. What is wrong with it comes as its first event, but for what can be told at once.

    Raises `InvalidRequest` (400) for a question that is too long, and `Rejected` (429) where the queue is full.
    """
    state, _ = context_of(request)
    most = request.app.state.page.question_chars
    for number, message in enumerate(body.messages):
        if message.role == "user" and (given := len(message_text(message, f"messages.{number}", Counter()))) > most:
            text = f"messages.{number} has {given:,} characters; a question has at most {most:,}"
            raise InvalidRequest(text, f"messages.{number}", "question_too_long")
    check_capacity(state, 1, background=False)
    answers: Answers = request.app.state.answers
    answer = answers.start(request, body.model_dump(exclude_unset=True))
    ahead = state.admission.waiting
    seconds = state.admission.estimate(ahead) if ahead else 0.0
    return JSONResponse({"id": answer.id, "ahead": ahead, "seconds": round(seconds, 1)}, 202)


@router.post("/notices")
async def read_notices(request: Request, body: ChatRequest) -> Response:
    """What the safety layer says before an answer: for the notice of a country that is chosen afterwards.

    No model is asked. Raises `InvalidRequest` (400) for an unknown country.
    """
    state, context = context_of(request)
    await context.reserve("chat")
    engine = state.engine if body.country is None else for_country(state.engine, body.country)
    messages = parse_messages(body.messages)
    screening = await run_in_thread(partial(engine.screen, messages)) if isinstance(engine, Assistant) else None
    notices = screening.notices if screening is not None else ()
    return JSONResponse({"notices": [one.as_json() for one in notices]})


@router.get("/answers/{id}")
async def follow_answer(request: Request, id: str) -> Response:
    """Send the events of an answer behind the one that the client has seen last."""
    last = request.headers.get("last-event-id", "")
    answer = request.app.state.answers.get(request, id)
    events = answer.follow(int(last[:9]) if last.isdecimal() else 0)
    return SSEResponse(_while_let_in(request, events))


async def _while_let_in(request: Request, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the events of an answer until the session of who reads is over: logged out, disabled by a command."""
    state, context = context_of(request)
    checked = time.monotonic()
    async for part in events:
        if isinstance(context.caller, AccountCaller) and time.monotonic() - checked >= CHECK_SECONDS:
            checked = time.monotonic()
            try:
                await state.call_auth(lambda: state.auth.identify(request))
            except Rejected as refused:
                if refused.status == 401:  # a database that is away for a moment ends nothing
                    return
        yield part


@router.delete("/answers/{id}", status_code=204)
async def stop_answer(request: Request, id: str) -> Response:
    """Stop an answer; what there is of it stays."""
    request.app.state.answers.get(request, id).stop()
    return Response(status_code=204)
