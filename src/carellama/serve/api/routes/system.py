"""The models, the state of the server, its metrics and its documentation."""

from __future__ import annotations

import html

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from carellama import __version__
from carellama.records import JSONObject
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.response_schemas import ErrorResponse, HealthResponse, Model, ModelList
from carellama.serve.api.routes.context import context_of

router = APIRouter()


@router.get("/v1/models", response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The names that requests may give as `model`."""
    return JSONResponse({"object": "list", "data": await _models(request)})


@router.get("/v1/models/{model}", response_model=Model, responses={404: {"model": ErrorResponse}})
async def get_model(request: Request, model: str) -> Response:
    """One of them."""
    for known in await _models(request):
        if known["id"] == model:
            return JSONResponse(known)
    raise InvalidRequest("there is no such model; /v1/models lists them", "model", "model_not_found", 404)


@router.get("/health", response_model=HealthResponse)
async def health() -> Response:
    """Whether the server is alive."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", response_model=HealthResponse, responses={503: {"model": HealthResponse}})
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
    return Response(state.metrics.render(), media_type=state.metrics.content_type)


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
        f"<h1>CareLlama {__version__}</h1><p>{request.app.description}</p>"
        f'<p>Types and fields: <a href="openapi.json">openapi.json</a></p><table>{"".join(rows)}</table>'
    )


async def _models(request: Request) -> list[JSONObject]:
    state, _ = context_of(request)
    names = state.settings.names
    adapters, context_tokens = await state.engine_info()
    parents = dict.fromkeys(names) | {f"{names[0]}:{adapter}": names[0] for adapter in adapters}
    models = [(name, parent, context_tokens) for name, parent in parents.items()]
    if state.embedding_model is not None:
        models.append((state.embedding_model, None, None))
    frame = {"object": "model", "created": state.created, "owned_by": "carellama"}
    return [{"id": name, **frame, "parent": parent, "max_model_len": length} for name, parent, length in models]
