"""What researchers see of the model: its cards, and the prompt that it gets for a question.

GET /web/cards        {"cards": [{"name", "adapter", "facts", "text"}]}, the first is the model's
POST /web/prompt      {"text", "tokens", "exact", "room", "dropped", "why"}, for a body of /v1/chat/completions

Both are refused (403) for who is no researcher. The prompt is made as that of an answer is: with the system prompt,
without the turns that do not fit, by the chat format. No model is asked.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.assistant import Assistant, ScreenedPrompt
from carellama.engine.base import Engine, PreparedPrompt
from carellama.errors import UserError
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.prompts import TURNS_HEADER
from carellama.serve.api.routes.chat import read_chat
from carellama.serve.api.routes.context import context_of
from carellama.serve.api.schemas import ChatRequest
from carellama.serve.api.streaming import run_in_thread
from carellama.serve.web.viewer import viewer_of

router = APIRouter(prefix="/web", route_class=JsonRoute)
# Why there is no text: another server renders it, no engine gets the question, or rules ask and report.
Why = Literal["", "remote", "refused", "consult"]


@router.get("/cards")
async def read_cards(request: Request) -> Response:
    """What is known of the model, its checkpoints and its adapters."""
    _check_researcher(request)
    state, _ = context_of(request)
    cards = state.engine.cards if isinstance(state.engine, Assistant) else ()
    return JSONResponse({"cards": [one.as_json() for one in cards]})


@router.post("/prompt")
async def read_prompt(request: Request, body: ChatRequest) -> Response:
    """The exact text that the engine gets for a question, special tokens and all, and its number of tokens."""
    _check_researcher(request)
    state, context = context_of(request)
    await context.reserve("chat")
    task = await read_chat(state, context, body)
    prompt, _, room = await task.prepare(state, context)
    why: Why = "consult" if task.consultant is not None else ""
    if isinstance(prompt, ScreenedPrompt):
        why = "refused" if prompt.prompt is None else why
        prompt = prompt.prompt or prompt
    text = None if why else await run_in_thread(lambda: _text(task.engine, prompt))
    return JSONResponse(
        {
            "text": text,
            "tokens": prompt.tokens,
            "exact": prompt.exact,
            "room": room,
            "dropped": int(context.headers.get(TURNS_HEADER, 0)),
            "why": why or ("remote" if text is None else ""),
        }
    )


def _text(engine: Engine, prompt: PreparedPrompt) -> str | None:
    """The text of a prompt's tokens; None where another server makes them."""
    if prompt.ids is None:
        return None
    try:
        return engine.detokenize(prompt.ids)
    except UserError:
        return prompt.text or None


def _check_researcher(request: Request) -> None:
    if viewer_of(request) != "researcher":
        raise InvalidRequest("this is for researchers only (--profile researcher)", "profile", "forbidden", 403)
