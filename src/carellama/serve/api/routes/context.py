"""What the routes share: the state of the server and the request, the model that it names, and its limits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import Request

from carellama.engine.base import Sampling
from carellama.serve.api.constraints import CONSTRAINTS, constraint_of
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.fields import HEADER, check_fields
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.parsing import parse_sampling, resolve_adapter
from carellama.serve.api.response_schemas import ErrorResponse
from carellama.serve.api.schemas import ChatRequest, CompletionRequest, RequestModel, SamplingFields

MAX_HEADER = 1000  # characters of a header that lists names
ERROR_RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorResponse, "description": about}
    for status, about in (
        (400, "Wrong or unsupported; context_length_exceeded: the prompt leaves no room"),
        (401, "No valid key"),
        (403, "The key has not this scope"),
        (404, "No such model"),
        (408, "The body did not come in time"),
        (413, "The body is too long"),
        (415, "The body is not JSON"),
        (429, "Too many requests: see Retry-After"),
        (500, "The server failed"),
        (503, "The engine does not answer, or the server is ending"),
        (504, "The answer took too long"),
        ("default", "Any other error"),
    )
}


def context_of(request: Request) -> tuple[ServerState, RequestContext]:
    """Return the state of the server, and the context of the request."""
    return request.app.state.server, request.state.context


async def resolve_model(state: ServerState, context: RequestContext, model: str | None, *others: str | None) -> str:
    """Return the adapter that a request asks for, and record the model. Raises `InvalidRequest` (404).

    `others` are names that the route takes besides, for the message.
    """
    names = state.settings.names
    if model is not None and model == state.embedding_model:
        raise InvalidRequest(
            f"{model} is an embedding model: it makes vectors and writes no answers; send model: {names[0]}",
            *("model", "model_not_found", 404),
        )
    adapters, context.context_tokens = await state.engine_info()
    adapter = resolve_adapter(model, names, adapters, *filter(None, others))
    context.model = model or names[0]
    return adapter


def read_sampling(
    state: ServerState, context: RequestContext, body: ChatRequest | CompletionRequest, adapter: str
) -> Sampling:
    """Return how the answer is sampled, and record the fields that are left out. Raises `InvalidRequest` (400)."""
    note_left_out(context, body)
    if (constraint := constraint_of(body)) is not None:
        context.params |= dict.fromkeys(CONSTRAINTS, constraint.param)
    sampling = parse_sampling(body, state.defaults, adapter)
    if sampling.tools and sampling.tool_choice not in ("auto", "none"):
        context.params["json_schema"] = "tool_choice"  # a demanded call is JSON of a schema
    return sampling


def note_left_out(context: RequestContext, body: RequestModel, others: Sequence[str] = ()) -> None:
    """Name the fields that are left out, and `others`, in a header of the response.

    Raises `InvalidRequest` (400) for those refused.
    """
    if left_out := [*check_fields(body), *others]:
        context.headers[HEADER] = re.sub(r"[^\x20-\x7e]", "?", ", ".join(left_out))[:MAX_HEADER]


def check_count(state: ServerState, count: int, param: str) -> None:
    """Raise `InvalidRequest` (400) for more messages or texts than the server takes."""
    most = state.settings.max_messages
    if not 0 < count <= most:
        raise InvalidRequest(f"{param} has {count:,} entries; 1 to {most:,} are taken", param)


def choice_count(state: ServerState, body: SamplingFields) -> int:
    """Return how many answers are asked for. Raises `InvalidRequest` (400) for too many."""
    count, most = body.n or 1, state.settings.max_choices
    if count > most:
        raise InvalidRequest(f"n is {count}; at most {most} answers to one request are given", "n")
    return count


def check_capacity(state: ServerState, count: int, *, background: bool) -> None:
    """Raise `InvalidRequest` (400) for more answers than ever fit, and `Rejected` (429) where they do not fit now."""
    if count > (most := state.settings.queue + state.admission.max_running):
        raise InvalidRequest(f"the request asks for {count} answers; at most {most} are taken at once", "n")
    state.admission.check_capacity(count, background=background)


def require_texts(given: str | list[str] | list[int] | list[list[int]], param: str) -> list[str]:
    """Return the texts of a field. Raises `InvalidRequest` (400) for tokens, and for a text that is empty."""
    found = [given] if isinstance(given, str) else given
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise InvalidRequest(
            f"{param}: send texts; tokens are not taken, since they would have to be this model's own "
            "(LangChain: check_embedding_ctx_length=False)",
            param,
            "unsupported_value",
        )
    if not all(texts):
        param = param if isinstance(given, str) else f"{param}.{texts.index('')}"
        raise InvalidRequest(f"{param} is an empty text", param)
    return texts
