"""Errors as OpenAI's API writes them: a status, and {"error": {message, type, param, code}}.

    status, body, headers = to_http_error(PromptTooLong(9000, 8192))      # 400, context_length_exceeded

What a client cannot help gets status 500 and a sentence that says nothing of the request; `log_server_error` tells the
operator the kind and the place of it, without the words of the exception, which may repeat what a patient wrote.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic_core import ErrorDetails

from carellama.engine.base import PromptTooLong, Unavailable, Unsupported
from carellama.errors import UserError
from carellama.records import JSONObject

log = logging.getLogger(__name__)

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
    504: "timeout",
}
CODES = {  # where an error does not name one of its own
    400: "invalid_value",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
}
# What an error of the engine is about, by a word in it; otherwise it is about the prompt.
_OWN = "logit_bias presence_penalty frequency_penalty repetition_penalty min_p top_k top_logprobs tool_choice echo"
ABOUT = {name: name for name in _OWN.split()} | {"JSON schema": "response_format", "tool": "tools", "adapter": "model"}
PROMPTS = {  # the field with the prompt of each route
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
    "/rerank": "documents",
    "/v1/responses": "input",
    "/tokenize": "prompt",
}
KINDS = {  # pydantic's kinds of faults, in the words of JSON
    "missing": "is missing",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be an object"),
    "list_type": "must be an array",
    "too_short": "must have at least 1 entry",
    "string_type": "must be a string",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_from_float"), "must be a whole number"),
    "float_type": "must be a number",
}
PYTHON_TYPES = {"str", "int", "float", "bool", "ToolChoice", "NamedTool", "Document"}
FORMS = {  # fields that take several forms
    "prompt": "must be a text, an array of texts, an array of token ids, or an array of such arrays",
    "input": "must be a text or an array",
    "content": 'must be a text, or an array of parts as {"type": "text", "text": "..."}',
    "stop": "must be a text or an array of texts",
    "tool_choice": 'must be "auto", "none", "required", or an object of the type "function" with its name',
}
CLIENT_CLOSED_REQUEST = 499  # not sent: the client has hung up
EVENT_STREAM = "text/event-stream"
SSE_DONE = b"data: [DONE]\n\n"  # the last event of a stream


class Rejected(Exception):
    """A request that is not served: the HTTP status, OpenAI's code, one line, and in how many seconds to try again."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after
        self.param = None
        self.headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


class InvalidRequest(Exception):
    """A request that cannot be answered as it is: OpenAI's `invalid_request_error`."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status
        self.code = code or CODES.get(status)
        self.headers = dict(headers or {})


class GenerationTimeout(TimeoutError):
    """An answer that took longer than it may."""


def to_http_error(
    error: Exception, path: str = "", params: Mapping[str, str] | None = None
) -> tuple[int, JSONObject, dict[str, str]]:
    """Return the status, the body and the headers that an error on a route is answered with.

    `params` has the request's names of fields of `Sampling`, where they differ.
    """
    prompt = PROMPTS.get(path, "messages")
    if isinstance(error, (Rejected, InvalidRequest)):
        return error.status, error_body(error.status, error.message, error.param, error.code), error.headers
    if isinstance(error, PromptTooLong):
        return 400, error_body(400, str(error), prompt, "context_length_exceeded"), {}
    if isinstance(error, Unsupported):
        param = (params or {}).get(error.field or "", error.field) or _about(error, prompt)
        return 400, error_body(400, str(error), param, "unsupported"), {}
    if isinstance(error, Unavailable):
        return 503, error_body(503, str(error), code="unavailable"), {"retry-after": "5"}
    if isinstance(error, TimeoutError):
        return 504, error_body(504, str(error) or "the request took too long", code="timeout"), {}
    if isinstance(error, UserError):
        return 400, error_body(400, str(error), _about(error, prompt), "invalid_value"), {}
    return 500, error_body(500, "the server failed at this request; its log tells where", code="internal_error"), {}


def _about(error: Exception, prompt: str) -> str:
    """Return the field that an error of the engine is about."""
    return next((field for word, field in ABOUT.items() if word in str(error)), prompt)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONObject:
    """Return the body of an error."""
    kind = ERROR_TYPES.get(status, "invalid_request_error")
    said = message.encode("utf-8", "backslashreplace").decode("utf-8")  # half a surrogate pair cannot be sent
    return {"error": {"message": said, "type": kind, "param": param, "code": code}}


def event(data: JSONObject) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def from_validation_error(faults: Sequence[ErrorDetails]) -> InvalidRequest:
    """Return the error of a body that has wrong types or values, by pydantic's list of them; values are left out."""
    named = _path(faults[0])
    forms = [fault for fault in faults if _path(fault)[: len(named)] == named]  # where several forms are allowed
    fault = max(forms, key=lambda one: len(_path(one)))  # of the form that the value comes closest to
    alike = [one for one in forms if len(_path(one)) == len(_path(fault))]
    allowed = FORMS.get(named[-1]) if named and len(alike) > 1 and len(_path(fault)) - len(named) < 2 else None
    named = named if allowed else _path(fault)
    param = ".".join(named)[:200].encode("utf-8", "backslashreplace").decode("utf-8") or None
    if fault["type"] == "json_invalid" or (param or "").isdecimal():
        return InvalidRequest("the body is not JSON", "body", "invalid_json")
    others = len({tuple(_path(one)) for one in faults if one not in forms})
    more = f" (and {others} more)" if others else ""
    words = str(fault["msg"]).removeprefix("Value error, ")
    message = allowed or KINDS.get(fault["type"]) or re.sub(r"^(?:Input|String|List|Dictionary) should", "must", words)
    message = message if len(message) < 300 else "has a value that is not allowed"
    return InvalidRequest(f"{param or 'the body'} {message}{more}", param or "body", "invalid_value")


def _path(fault: ErrorDetails) -> list[str]:
    """Where a fault is, in the words of JSON: without the names of our types."""
    place = [str(part) for part in fault["loc"] if part != "body"]
    return [part for part in place if part not in PYTHON_TYPES and "[" not in part and "-" not in part]


def log_server_error(request: str, error: BaseException) -> None:
    """Tell the operator which kind of error happened where; its words are left out."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    log.error("request %s failed: %s at %s", request, type(error).__name__, places or "an unknown place")
