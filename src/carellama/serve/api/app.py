"""The application: an OpenAI-compatible server over an engine that it is handed.

    app = create_app(engine, ApiArguments(), access=Open())        # ASGI: uvicorn.run(app)

The routes are those of `serve.api.chat` and `serve.api.texts`, and here the models, the state of the server, its
metrics and its OpenAPI document. `serve.api.server` runs it.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response

from carellama import __version__
from carellama.config.serve import ApiArguments
from carellama.engine.base import Engine
from carellama.knowledge.embed import Embedder
from carellama.serve.api import schemas
from carellama.serve.api.admission import AdmissionQueue
from carellama.serve.api.auth import Auth
from carellama.serve.api.errors import InvalidRequest, from_validation_error
from carellama.serve.api.metrics import Metrics
from carellama.serve.api.middleware import RequestMiddleware, RewardScorer, ServerState
from carellama.serve.api.routes import chat, embeddings, responses
from carellama.serve.api.routes import scoring as texts
from carellama.serve.api.routes.chat import context_of
from carellama.serve.api.routes.embeddings import VectorModels
from carellama.serve.api.sampling import default_sampling
from carellama.serve.api.schemas import Mode

API_DESCRIPTION = "Medical language models over OpenAI's API. It informs and refers; it does not diagnose."
RELEASE_TIMEOUT = 5.0  # seconds that the database of the keys has to take the last counts
BEARER = HTTPBearer(auto_error=False, description="An API key; none is needed where the server has no keys.")
router = APIRouter()


def create_app(
    engine: Engine,
    settings: ApiArguments,
    *,
    access: Auth,
    score: RewardScorer | None = None,
    embedder: Embedder | None = None,
    consultant: Engine | None = None,
    mode: Mode = "answer",
) -> FastAPI:
    """Return the application.

    `score` is a reward model's: prompts and answers to numbers; None: no /v1/score. `embedder` answers /v1/embeddings
    and /v1/rerank; None: only the chat model does, for requests that name it. `consultant` answers conversations in
    mode consult; None: such requests are refused. `mode` is that of requests that name none.
    """
    state = ServerState(
        engine=engine,
        settings=settings,
        access=access,
        defaults=default_sampling(settings, engine.name),
        line=AdmissionQueue(engine.parallel, settings.queue, settings.queue_timeout),
        metrics=Metrics(),
        score=score,
        consultant=consultant,
        mode=mode,
        embedding_model=embedder.name if embedder is not None else None,
    )
    state.metrics.watch(state.line)
    app = FastAPI(
        title="CareLlama",
        description=API_DESCRIPTION,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.server = state
    app.state.vector_models = VectorModels(engine, embedder)
    app.include_router(router)
    for part in (chat.router, responses.router, texts.router, embeddings.router):
        app.include_router(part, dependencies=[Depends(BEARER)])
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_middleware(RequestMiddleware, state=state)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
            allow_private_network=True,  # of the pages that are listed
        )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    ending = app.state.server.ending
    if ending:
        await asyncio.wait(set(ending), timeout=RELEASE_TIMEOUT)


async def on_validation_error(_request: Request, error: Exception) -> Response:
    """Answer a body of wrong types or values."""
    assert isinstance(error, RequestValidationError)
    raise from_validation_error(error.errors())  # `RequestMiddleware` answers with it


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what has no route, and the body that `ConnectionGuard` rejects."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").replace("GET", "GET, HEAD")
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": f"{allowed}, OPTIONS"})
        error.headers = {"allow": allowed}
    known = {404: "there is no such route; /openapi.json lists them", 405: "this route does not take this method"}
    message = known.get(error.status_code, str(error.detail))
    code = "invalid_json" if error.status_code == 400 else None
    param = "body" if error.status_code in (400, 408, 413) else None
    raise InvalidRequest(message, param, code, error.status_code, error.headers)


@router.get("/v1/models", response_model=schemas.ModelList)
async def models(request: Request) -> Response:
    """The names that requests may give as `model`."""
    return JSONResponse({"object": "list", "data": await _models(request)})


@router.get("/v1/models/{model}", response_model=schemas.Model, responses={404: {"model": schemas.ErrorResponse}})
async def model(request: Request, model: str) -> Response:
    """One of them."""
    for known in await _models(request):
        if known["id"] == model:
            return JSONResponse(known)
    raise InvalidRequest("there is no such model; /v1/models lists them", "model", "model_not_found", 404)


@router.get("/health", response_model=schemas.HealthResponse)
async def health() -> Response:
    """Whether the server is alive."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", response_model=schemas.HealthResponse, responses={503: {"model": schemas.HealthResponse}})
async def ready(request: Request) -> Response:
    """Whether it takes requests: 503 from SIGTERM on."""
    state, _ = context_of(request)
    if state.draining:
        return JSONResponse({"status": "shutting down"}, 503, {"retry-after": "5"})
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """What Prometheus reads; with keys, the scope admin is needed."""
    state, context = context_of(request)
    await context.reserve("admin")
    return Response(state.metrics.page(), media_type=state.metrics.content_type)


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs(request: Request) -> Response:
    """The routes as a page that loads nothing from elsewhere."""
    rows = []
    for path, methods in request.app.openapi()["paths"].items():
        for method, route in methods.items():
            cells = (method.upper(), path, route.get("description", ""))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return HTMLResponse(
        "<!doctype html><meta charset=utf-8><title>CareLlama</title>"
        f"<h1>CareLlama {__version__}</h1><p>{API_DESCRIPTION}</p>"
        f'<p>Types and fields: <a href="openapi.json">openapi.json</a></p><table>{"".join(rows)}</table>'
    )


async def _models(request: Request) -> list[dict[str, Any]]:
    state: ServerState = request.app.state.server
    names = state.settings.names
    adapters, context_tokens = await state.facts()
    parents = dict.fromkeys(names) | {f"{names[0]}:{adapter}": names[0] for adapter in adapters}
    models = [(name, parent, context_tokens) for name, parent in parents.items()]
    if state.embedding_model is not None:
        models.append((state.embedding_model, None, None))
    return [
        {
            "id": name,
            "object": "model",
            "created": state.created,
            "owned_by": "carellama",
            "parent": parent,
            "max_model_len": length,
        }
        for name, parent, length in models
    ]
