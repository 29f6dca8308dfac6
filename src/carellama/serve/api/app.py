"""The application: an OpenAI-compatible server over an engine that it is handed.

    app = create_app(engine, ApiOptions(), auth=NoAuth())        # ASGI: uvicorn.run(app)

The routes are in `serve.api.routes`. `serve.api.server` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from carellama import __version__
from carellama.config.serve import ApiOptions
from carellama.engine.base import Engine
from carellama.engine.worker_pool import WorkerPool
from carellama.knowledge.embed import Embedder
from carellama.serve.api.admission import AdmissionQueue
from carellama.serve.api.auth import Auth
from carellama.serve.api.errors import InvalidRequest, from_validation_error
from carellama.serve.api.metrics import Metrics
from carellama.serve.api.middleware import RequestMiddleware, RewardScorer, ServerState
from carellama.serve.api.parsing import default_sampling
from carellama.serve.api.routes import chat, embeddings, responses, scoring, system
from carellama.serve.api.routes.embeddings import VectorModels
from carellama.serve.api.schemas import Mode

API_DESCRIPTION = "Medical language models over OpenAI's API. It informs and refers; it does not diagnose."
RELEASE_TIMEOUT = 5.0  # seconds that the database of the keys has to take the last counts
BEARER = HTTPBearer(auto_error=False, description="An API key; none is needed where the server has no keys.")


def create_app(
    engine: Engine,
    settings: ApiOptions,
    *,
    auth: Auth,
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
        auth=auth,
        defaults=default_sampling(settings, engine.name),
        admission=AdmissionQueue(engine.parallel, settings.queue, settings.queue_timeout),
        metrics=Metrics(),
        echo_pool=WorkerPool(engine.parallel, "carellama-echo"),
        score=score,
        consultant=consultant,
        mode=mode,
        embedding_model=embedder.name if embedder is not None else None,
    )
    state.metrics.observe_queue(state.admission)
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
    app.include_router(system.router)
    for part in (chat.router, responses.router, scoring.router, embeddings.router):
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
    pending: set[asyncio.Future[None]] = app.state.server.pending_releases
    if pending:
        await asyncio.wait(set(pending), timeout=RELEASE_TIMEOUT)


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
