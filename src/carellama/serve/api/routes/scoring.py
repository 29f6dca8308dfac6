"""Routes that judge texts and write none: score, tokenize."""

from __future__ import annotations

import secrets
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.assistant import Assistant
from carellama.engine.base import Sampling
from carellama.engine.generate import count_tokens
from carellama.records import JSONObject
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.overflow import allowed_tools
from carellama.serve.api.parsing import message_text, parse_messages, parse_tools
from carellama.serve.api.prompts import count_text
from carellama.serve.api.response_schemas import ScoreResponse, TokenizeResponse
from carellama.serve.api.routes.context import ERROR_RESPONSES, check_count, context_of, note_left_out, resolve_model
from carellama.serve.api.schemas import ScoreRequest, TokenizeRequest
from carellama.serve.api.streaming import run_in_thread, run_queued

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/score", response_model=ScoreResponse, responses=ERROR_RESPONSES)
async def create_scores(request: Request, body: ScoreRequest) -> Response:
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
    texts = [*(message.content for prompt in prompts for message in prompt), *answers]
    tokens = await run_in_thread(lambda: sum(count_text(state.engine, text) for text in texts))
    await context.reserve("chat", [tokens])
    scores = await run_queued(
        lambda: scorer(prompts, answers), state.admission, state.settings.request_timeout, context.usage.start
    )
    name = f"score-{secrets.token_hex(12)}"
    return JSONResponse({"id": name, "object": "list", "model": context.model, "scores": scores})


@router.post("/tokenize", response_model=TokenizeResponse, responses=ERROR_RESPONSES)
async def tokenize(request: Request, body: TokenizeRequest) -> Response:
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
        allowed, _ = allowed_tools(offered, state.settings.tools, knows_tools=engine.knows_tools)  # as in a chat
        messages = parse_messages(body.messages)
        await context.reserve("chat")
        count = engine.count_tokens if isinstance(engine, Assistant) else partial(count_tokens, engine)
        found: JSONObject = {"count": await run_in_thread(partial(count, messages, allowed.tools))}
    else:
        text = body.prompt or ""
        await context.reserve("chat")
        begin, marks = bool(body.add_special_tokens), bool(body.parse_special)
        tokens = await run_in_thread(lambda: engine.tokenize(text, begin=begin, marks=marks))
        found = {"count": len(tokens), "tokens": list(tokens)}
    return JSONResponse(found | {"max_model_len": context.context_tokens})
