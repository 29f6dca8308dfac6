"""Routes of vectors: embeddings and rerank.

By default an embedding model answers (`carellama.knowledge.embed`), listed in /v1/models beside the chat model.
The chat model's own states are poor vectors; they are made for requests that name it, and the log warns once.
Documents are ranked by the cosine of their vectors with the query's; there is no cross-encoder.
"""

from __future__ import annotations

import base64
import logging
import secrets
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.engine.base import Engine
from carellama.errors import install
from carellama.knowledge.embed import Embedder, Kind
from carellama.serve.api.embedding_queue import EmbeddingQueue, Vector
from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.middleware import RequestContext, ServerState, Usage
from carellama.serve.api.prompts import count_text
from carellama.serve.api.response_schemas import EmbeddingResponse, RerankResponse
from carellama.serve.api.routes.context import (
    ERROR_RESPONSES,
    check_count,
    context_of,
    note_left_out,
    require_texts,
    resolve_model,
)
from carellama.serve.api.schemas import EmbeddingRequest, RerankRequest
from carellama.serve.api.streaming import run_in_thread

log = logging.getLogger(__name__)
router = APIRouter(route_class=JsonRoute)


@dataclass
class VectorModel:
    """What makes vectors, with its queue."""

    queue: EmbeddingQueue
    count_tokens: Callable[[Sequence[str], Kind], int]


class VectorModels:
    """The embedding model, if there is one, and the chat model for those who name it. For one event loop."""

    def __init__(self, engine: Engine, embedder: Embedder | None) -> None:
        self.name = embedder.name if embedder is not None else None
        self._embedder = VectorModel(EmbeddingQueue(embedder.embed), embedder.count_tokens) if embedder else None
        chat = EmbeddingQueue(lambda given, kind: engine.embed(given))
        self._chat = VectorModel(chat, lambda given, kind: sum(count_text(engine, text) for text in given))
        self._warned = False

    async def select(self, state: ServerState, context: RequestContext, model: str | None) -> VectorModel:
        """Return what a request asks for, and note the model's name. Raises `InvalidRequest` (400, 404)."""
        if self._embedder is not None and self.name is not None and model in (None, self.name):
            context.model = self.name
            return self._embedder
        if model is None:
            raise InvalidRequest(
                f"this server has no embedding model: {install('embed')}; for the states of "
                f"the chat model, send model: {state.settings.names[0]}",
                "model",
                "model_not_found",
            )
        if await resolve_model(state, context, model, self.name):
            raise InvalidRequest(
                "vectors are of the model without adapters: leave the adapter's name out", "model", "unsupported"
            )
        if not self._warned:
            self._warned = True
            better = f"send model: {self.name}" if self.name else install("embed")
            log.warning("a request asks for vectors of the chat model, which rank texts poorly; %s", better)
        return self._chat


@router.post("/v1/embeddings", response_model=EmbeddingResponse, responses=ERROR_RESPONSES)
async def create_embeddings(request: Request, body: EmbeddingRequest) -> Response:
    """One vector of length 1 for each text."""
    state, context = context_of(request)
    note_left_out(context, body)
    model = await request.app.state.vector_models.select(state, context, body.model)
    given = require_texts(body.input, "input")
    check_count(state, len(given), "input")
    kind: Kind = "passage" if (body.input_type or "").removeprefix("search_") in ("passage", "document") else "query"
    vectors = await _embed(state, context, model, [(given, kind)])
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        raise InvalidRequest(
            f"dimensions: the vectors of this model have {len(vectors[0])}", "dimensions", "unsupported_value"
        )
    as_text = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _to_base64(vector) if as_text else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    return JSONResponse({"object": "list", "model": context.model, "data": data, "usage": context.usage.as_json()})


@router.post("/rerank", response_model=RerankResponse, responses=ERROR_RESPONSES, include_in_schema=False)
@router.post("/v1/rerank", response_model=RerankResponse, responses=ERROR_RESPONSES)
async def create_rerank(request: Request, body: RerankRequest) -> Response:
    """The documents, the closest to the query first."""
    state, context = context_of(request)
    note_left_out(context, body)
    model = await request.app.state.vector_models.select(state, context, body.model)
    check_count(state, len(body.documents), "documents")
    documents = [one if isinstance(one, str) else one.text for one in body.documents]
    if not body.query:
        raise InvalidRequest("the query is an empty text", "query")
    if empty := [index for index, document in enumerate(documents) if not document]:
        raise InvalidRequest(f"documents.{empty[0]} is an empty text", f"documents.{empty[0]}")
    query, *vectors = await _embed(state, context, model, [([body.query], "query"), (documents, "passage")])
    scores = [sum(one * other for one, other in zip(query, vector, strict=True)) for vector in vectors]
    order = sorted(range(len(documents)), key=lambda index: -scores[index])[: body.top_n]
    results = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": documents[index]}} if body.return_documents else {})
        for index in order
    ]
    name = f"rerank-{secrets.token_hex(12)}"
    return JSONResponse({"id": name, "model": context.model, "results": results, "usage": context.usage.as_json()})


async def _embed(
    state: ServerState, context: RequestContext, model: VectorModel, given: Sequence[tuple[Sequence[str], Kind]]
) -> list[Vector]:
    """The vectors of texts, whose tokens are counted for the caller's limits."""
    tokens = await run_in_thread(lambda: sum(model.count_tokens(part, kind) for part, kind in given))
    await context.reserve("chat", [tokens])
    context.usage.start(0)  # also of a client that leaves before the end
    vectors: list[Vector] = []
    try:
        for part, kind in given:
            vectors += await model.queue.embed(part, kind, state.settings.request_timeout)
    except Rejected:  # no place in the queue
        context.usage = Usage()
        raise
    return vectors


def _to_base64(vector: Sequence[float]) -> str:
    """The numbers as float32, the lowest byte first, as OpenAI's clients read them."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
