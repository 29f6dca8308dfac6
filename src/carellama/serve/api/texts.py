"""Routes that judge texts and write none: score, tokenize."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.engine.base import Sampling
from carellama.serve.api import protocol
from carellama.serve.api.bridge import computed, threaded
from carellama.serve.api.chat import ERRORS, limit, named, note_left_out, parts_of
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.messages import conversation, text_of
from carellama.serve.api.overflow import allowed_tools
from carellama.serve.api.prepare import count_texts
from carellama.serve.api.refusals import Wrong
from carellama.serve.api.sampling import tools_of

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/score", response_model=protocol.Scores, responses=ERRORS)
async def score(request: Request, body: protocol.ScoreRequest) -> Response:
    """What a reward model thinks of the last message of each conversation: the higher the better."""
    service, call = parts_of(request)
    note_left_out(call, body)
    await named(service, call, body.model)
    if (scorer := service.score) is None:
        raise Wrong("this server has no reward model: start it with --reward_model", "model", "unsupported")
    limit(service, len(body.messages), "messages")
    prompts, answers = [], []
    for index, messages in enumerate(body.messages):
        place = f"messages.{index}"
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise Wrong(f"{place} must end with the assistant's answer, after what it answers", place)
        prompts.append(tuple(conversation(messages[:-1], place)))
        answers.append(text_of(messages[-1], f"{place}.{len(messages) - 1}"))
    read = [message.content for prompt in prompts for message in prompt]
    await call.reserve("chat", [sum(await count_texts(service, [*read, *answers]))])
    scores = await computed(
        lambda: scorer(prompts, answers), service.line, service.settings.request_timeout, call.usage.begin
    )
    name = f"score-{secrets.token_hex(12)}"
    return JSONResponse({"id": name, "object": "list", "model": call.model, "scores": scores})


@router.post("/tokenize", response_model=protocol.Tokenized, responses=ERRORS)
async def tokenize(request: Request, body: protocol.TokenizeRequest) -> Response:
    """The tokens of a text, or how many an answer to a conversation starts from."""
    service, call = parts_of(request)
    note_left_out(call, body)
    await named(service, call, body.model)
    engine = service.engine
    if (body.prompt is None) == (body.messages is None):
        raise Wrong("send either prompt or messages", "prompt")
    if body.messages is not None:
        limit(service, len(body.messages), "messages")
        offered = Sampling(tools=tools_of(body.tools))
        tools = allowed_tools(offered, service.settings.tools, engine.knows_tools)[0].tools  # as a chat counts them
        messages = conversation(body.messages)
        await call.reserve("chat")
        found = {"count": await threaded(lambda: engine.count_tokens(messages, tools))}
    else:
        text = body.prompt or ""
        await call.reserve("chat")
        begin, marks = bool(body.add_special_tokens), bool(body.parse_special)
        tokens = await threaded(lambda: engine.tokenize(text, begin=begin, marks=marks))
        found = {"count": len(tokens), "tokens": list(tokens)}  # type: ignore[dict-item]
    return JSONResponse(found | {"max_model_len": call.context_tokens})
