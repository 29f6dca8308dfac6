"""Routes that judge texts and write none: score, tokenize."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.engine.base import Sampling
from carellama.serve.api import schemas
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.messages import message_text, parse_messages
from carellama.serve.api.overflow import allowed_tools
from carellama.serve.api.prepare import count_texts
from carellama.serve.api.routes.chat import ERROR_RESPONSES, check_count, context_of, note_left_out, resolve_model
from carellama.serve.api.sampling import parse_tools
from carellama.serve.api.streaming import run_in_thread, run_queued

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/score", response_model=schemas.ScoreResponse, responses=ERROR_RESPONSES)
async def create_scores(request: Request, body: schemas.ScoreRequest) -> Response:
    """What a reward model thinks of the last message of each conversation: the higher the better."""
    state, context = context_of(request)
    note_left_out(context, body)
    await resolve_model(state, context, body.model)
    if (scorer := state.score) is None:
        raise InvalidRequest("this server has no reward model: start it with --reward_model", "model", "unsupported")
    check_count(state, len(body.messages), "messages")
    prompts, answers = [], []
    for index, messages in enumerate(body.messages):
        place = f"messages.{index}"
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise InvalidRequest(f"{place} must end with the assistant's answer, after what it answers", place)
        prompts.append(tuple(parse_messages(messages[:-1], place)))
        answers.append(message_text(messages[-1], f"{place}.{len(messages) - 1}"))
    read = [message.content for prompt in prompts for message in prompt]
    await context.reserve("chat", [sum(await count_texts(state, [*read, *answers]))])
    scores = await run_queued(
        lambda: scorer(prompts, answers), state.line, state.settings.request_timeout, context.usage.begin
    )
    name = f"score-{secrets.token_hex(12)}"
    return JSONResponse({"id": name, "object": "list", "model": context.model, "scores": scores})


@router.post("/tokenize", response_model=schemas.TokenizeResponse, responses=ERROR_RESPONSES)
async def tokenize(request: Request, body: schemas.TokenizeRequest) -> Response:
    """The tokens of a text, or how many an answer to a conversation starts from."""
    state, context = context_of(request)
    note_left_out(context, body)
    await resolve_model(state, context, body.model)
    engine = state.engine
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either prompt or messages", "prompt")
    if body.messages is not None:
        check_count(state, len(body.messages), "messages")
        offered = Sampling(tools=parse_tools(body.tools))
        tools = allowed_tools(offered, state.settings.tools, engine.knows_tools)[0].tools  # as a chat counts them
        messages = parse_messages(body.messages)
        await context.reserve("chat")
        found = {"count": await run_in_thread(lambda: engine.count_tokens(messages, tools))}
    else:
        text = body.prompt or ""
        await context.reserve("chat")
        begin, marks = bool(body.add_special_tokens), bool(body.parse_special)
        tokens = await run_in_thread(lambda: engine.tokenize(text, begin=begin, marks=marks))
        found = {"count": len(tokens), "tokens": list(tokens)}  # type: ignore[dict-item]
    return JSONResponse(found | {"max_model_len": context.context_tokens})
