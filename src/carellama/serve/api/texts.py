"""Routes that judge texts and write none: embeddings, rerank, score, tokenize.

Documents are ranked by the cosine of their vectors with the query's: the engine's `embed`, no cross-encoder.
"""

from __future__ import annotations

import base64
import secrets
import sys
from array import array
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.engine.base import Engine, Unsupported
from carellama.serve.api import protocol
from carellama.serve.api.bridge import computed, threaded
from carellama.serve.api.calls import BYTES_A_TOKEN, Call, Service
from carellama.serve.api.chat import ERRORS, limit, named, parts_of, texts
from carellama.serve.api.messages import conversation, text_of
from carellama.serve.api.refusals import Wrong
from carellama.serve.api.sampling import tools_of

router = APIRouter()


@router.post("/v1/embeddings", response_model=protocol.Embeddings, responses=ERRORS)
async def embed(request: Request, body: protocol.EmbeddingRequest) -> Response:
    """One vector of length 1 for each text."""
    service, call = parts_of(request)
    _base_only(await named(service, call, body.model))
    given = texts(body.input, "input")
    limit(service, len(given), "input")
    vectors, usage = await _vectors(service, call, given)
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        raise Wrong(f"dimensions: the vectors of this model have {len(vectors[0])}", "dimensions", "unsupported_value")
    as_text = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    return JSONResponse({"object": "list", "model": call.model, "data": data, "usage": usage})


@router.post("/v1/rerank", response_model=protocol.Ranking, responses=ERRORS)
async def rerank(request: Request, body: protocol.RerankRequest) -> Response:
    """The documents, the closest to the query first."""
    service, call = parts_of(request)
    _base_only(await named(service, call, body.model))
    limit(service, len(body.documents), "documents")
    documents = [one if isinstance(one, str) else one.text for one in body.documents]
    if not (body.query and all(documents)):
        raise Wrong("the query, or one of the documents, is an empty text", "documents")
    (query, *vectors), usage = await _vectors(service, call, [body.query, *documents])
    scores = [sum(one * other for one, other in zip(query, vector, strict=True)) for vector in vectors]
    order = sorted(range(len(documents)), key=lambda index: -scores[index])[: body.top_n]
    results = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": documents[index]}} if body.return_documents else {})
        for index in order
    ]
    name = f"rerank-{secrets.token_hex(12)}"
    return JSONResponse({"id": name, "model": call.model, "results": results, "usage": usage})


@router.post("/v1/score", response_model=protocol.Scores, responses=ERRORS)
async def score(request: Request, body: protocol.ScoreRequest) -> Response:
    """What a reward model thinks of the last message of each conversation: the higher the better."""
    service, call = parts_of(request)
    await named(service, call, body.model)
    if (scorer := service.score) is None:
        raise Wrong("this server has no reward model: start it with --reward_model", code="unsupported")
    limit(service, len(body.messages), "messages")
    prompts, answers, size = [], [], 0
    for index, messages in enumerate(body.messages):
        place = f"messages.{index}"
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise Wrong(f"{place} must end with the assistant's answer, after what it answers", place)
        prompts.append(tuple(conversation(messages[:-1], place)))
        answers.append(text_of(messages[-1], f"{place}.{len(messages) - 1}"))
        size += sum(len(message.content.encode()) for message in prompts[-1]) + len(answers[-1].encode())
    await call.begin("chat", size)
    scores = await computed(lambda: scorer(prompts, answers), service.line, service.settings.request_timeout)
    name = f"score-{secrets.token_hex(12)}"
    return JSONResponse({"id": name, "object": "list", "model": call.model, "scores": scores})


@router.post("/tokenize", response_model=protocol.Tokenized, responses=ERRORS)
async def tokenize(request: Request, body: protocol.TokenizeRequest) -> Response:
    """The tokens of a text, or how many an answer to a conversation starts from."""
    service, call = parts_of(request)
    await named(service, call, body.model)
    engine = service.engine
    if (body.prompt is None) == (body.messages is None):
        raise Wrong("send either prompt or messages", "prompt")
    if body.messages is not None:
        limit(service, len(body.messages), "messages")
        messages, tools = conversation(body.messages), tools_of(body.tools)
        await call.begin("chat", 0)
        found = {"count": await threaded(lambda: engine.count_tokens(messages, tools))}
    else:
        text = body.prompt or ""
        await call.begin("chat", 0)
        tokens = await threaded(lambda: engine.tokenize(text))
        found = {"count": len(tokens), "tokens": list(tokens)}  # type: ignore[dict-item]
    return JSONResponse(found | {"max_model_len": call.context_tokens})


async def _vectors(service: Service, call: Call, given: Sequence[str]) -> tuple[list[list[float]], dict[str, int]]:
    """The vectors of texts, and what they cost."""
    await call.begin("chat", sum(len(text.encode()) for text in given))
    engine = service.engine

    def compute() -> tuple[list[list[float]], int]:
        return engine.embed(given), _count(engine, given)

    vectors, tokens = await computed(compute, service.line, service.settings.request_timeout)
    call.prompt_tokens = tokens
    return vectors, {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}


def _count(engine: Engine, given: Sequence[str]) -> int:
    """Tokens of texts; an estimate where the engine can not tell."""
    try:
        return sum(len(engine.tokenize(text)) for text in given)
    except Unsupported:
        return sum(len(text.encode()) // BYTES_A_TOKEN + 1 for text in given)


def _base_only(adapter: str) -> None:
    if adapter:
        raise Wrong("vectors are of the model without adapters: leave the adapter's name out", "model", "unsupported")


def _base64(vector: Sequence[float]) -> str:
    """The numbers as float32, the lowest byte first, as OpenAI's clients read them."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
