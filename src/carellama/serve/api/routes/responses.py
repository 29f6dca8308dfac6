"""/v1/responses: OpenAI's newer API, without memory: whole or as a stream, with functions and JSON.

A request is read as one for chat completions (`serve.api.responses_request`); this module writes the answer. Nothing
is kept: `store` is always false, and `previous_response_id` is refused.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from carellama.engine.base import Piece, Reply
from carellama.records import JSONObject, ToolCall
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.formatting import ResponseFormatter, logprobs_of, safety_fields
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.responses_request import INCLUDED, NAMES, ResponsesRequest, as_chat
from carellama.serve.api.routes.chat import prepare_job, run_generation
from carellama.serve.api.routes.context import ERROR_RESPONSES, context_of, note_left_out
from carellama.serve.api.schemas import RequestModel

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/responses", response_model=None, responses=ERROR_RESPONSES)
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer a conversation, as a response of items."""
    state, context = context_of(request)
    note_left_out(context, body, [f"include.{one}" for one in body.include or () if one not in INCLUDED])
    chat, items = as_chat(body)
    try:
        job = await prepare_job(state, context, chat, param="input", system=body.instructions)
    except InvalidRequest as error:
        raise _of_item(error, items) from None
    finally:
        context.params = {field: NAMES.get(name, name) for field, name in context.params.items()}
    return await run_generation(state, context, job, chat, ResponsesFormatter(context.model, body))


def _of_item(error: InvalidRequest, items: Sequence[int]) -> InvalidRequest:
    """Return an error of a message as one of the item of the request."""

    def renamed(text: str) -> str:
        text = text.replace("tool_call_id", "call_id").replace("the assistant's tool_calls", "the function_call items")
        return re.sub(r"\binput\.(\d+)", lambda at: f"input.{items[int(at[1])]}", text)

    param = renamed(error.param) if error.param else None
    return InvalidRequest(renamed(error.message), param, error.code, error.status, error.headers)


class ResponsesFormatter(ResponseFormatter):
    """A response of items: reasoning, a message, calls of functions."""

    def __init__(self, model: str, body: ResponsesRequest) -> None:
        self.id = f"resp_{secrets.token_hex(24)}"
        self._head: JSONObject = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _plain(body.text.format) if body.text and body.text.format else {"type": "text"}},
            "tool_choice": body.tool_choice
            if isinstance(body.tool_choice, str)
            else _plain(body.tool_choice) or "auto",
            "tools": [_plain(tool) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
        }
        self._number = 0  # of the next event
        self._output: list[JSONObject] = []  # items of a stream; the last one is open until another one begins
        self._open = False
        self._finish = ""

    def event(self, data: JSONObject) -> bytes:
        """A server-sent event with its type."""
        return b"event: " + str(data["type"]).encode() + b"\n" + super().event(data)

    def full_response(self, replies: Sequence[Reply], usage: JSONObject) -> JSONObject:
        """The response in one piece."""
        (reply,) = replies
        done = "incomplete" if reply.finish_reason == "length" else "completed"
        output: list[JSONObject] = []
        if reply.reasoning:
            output.append(_reasoning(reply.reasoning))
        if reply.text or reply.notices or not reply.calls:
            output.append(_message(reply.text, done, logprobs_of(reply.logprobs)) | safety_fields(reply))
        output += [_function_call(call, done) for call in reply.calls]
        return self._response(done, output, usage)

    def first_chunks(self, index: int) -> list[JSONObject]:
        """The response as it begins."""
        head = self._response("in_progress", [])
        return [self._event("response.created", response=head), self._event("response.in_progress", response=head)]

    def delta_chunk(self, index: int, piece: Piece) -> list[JSONObject]:
        """What a piece adds; another kind of item closes the one before."""
        events: list[JSONObject] = []
        if piece.reasoning:
            events += self._switch("reasoning")
            self._output[-1]["content"][0]["text"] += piece.reasoning
            events.append(self._delta("response.reasoning_text.delta", delta=piece.reasoning))
        if piece.text or piece.logprobs or piece.notices:
            events += self._switch("message")
            item, logprobs = self._output[-1], logprobs_of(piece.logprobs)
            part, found = item["content"][0], safety_fields(piece)
            noticed = {"notices": found["notices"]} if piece.notices else {}
            item |= found | {name: [*item.get(name, []), *new] for name, new in noticed.items()}
            part["text"] += piece.text
            part["logprobs"] += logprobs
            events.append(self._delta("response.output_text.delta", delta=piece.text, logprobs=logprobs, **noticed))
        if piece.call is not None:
            events += [*self._close(), *self._call(piece.call)]
        return events

    def last_chunks(self, index: int, reply: Reply) -> list[JSONObject]:
        """Close the last item."""
        self._finish = reply.finish_reason
        opened = [] if self._output else self._switch("message")
        return [*opened, *self._close()]

    def usage_chunks(self, usage: JSONObject) -> list[JSONObject]:
        """The whole response."""
        done = "incomplete" if self._finish == "length" else "completed"
        return [self._event(f"response.{done}", response=self._response(done, self._output, usage))]

    def _response(self, status: str, output: Sequence[JSONObject], usage: JSONObject | None = None) -> JSONObject:
        tokens = None
        if usage is not None:
            tokens = {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            }
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._head | {"status": status, "incomplete_details": details, "output": list(output), "usage": tokens}

    def _event(self, kind: str, **fields: object) -> JSONObject:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _delta(self, kind: str, **fields: object) -> JSONObject:
        at = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, "content_index": 0}
        return self._event(kind, **at, **fields)

    def _switch(self, kind: str) -> list[JSONObject]:
        """Go on with an item of this kind: the open one, or a new one."""
        if self._open and self._output[-1]["type"] == kind:
            return []
        events = self._close()
        item = _reasoning("") if kind == "reasoning" else _message("", "in_progress", [])
        self._output.append(item)
        self._open = True
        empty = item | {"content": []}
        events.append(self._event("response.output_item.added", output_index=len(self._output) - 1, item=empty))
        events.append(self._delta("response.content_part.added", part=dict(item["content"][0])))
        return events

    def _close(self) -> list[JSONObject]:
        """End the open item, if there is one."""
        if not self._open:
            return []
        self._open = False
        item, events = self._output[-1], list[JSONObject]()
        part = item["content"][0]
        item["status"] = "incomplete" if self._finish == "length" else "completed"
        if item["type"] == "reasoning":
            events.append(self._delta("response.reasoning_text.done", text=part["text"]))
        else:
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            events.append(self._delta("response.output_text.done", **done))
        events.append(self._delta("response.content_part.done", part=part))
        events.append(self._event("response.output_item.done", output_index=len(self._output) - 1, item=item))
        return events

    def _call(self, call: ToolCall) -> list[JSONObject]:
        """A whole call: engines tell it when it is complete."""
        item = _function_call(call, "completed")
        at = len(self._output)
        self._output.append(item)
        begun = item | {"arguments": "", "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": at}
        return [
            self._event("response.output_item.added", output_index=at, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
            self._event("response.function_call_arguments.done", **place, arguments=call.arguments, name=call.name),
            self._event("response.output_item.done", output_index=at, item=item),
        ]


def _message(text: str, status: str, logprobs: list[JSONObject]) -> JSONObject:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
    item = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant"}
    return item | {"status": status, "content": [part]}


def _reasoning(text: str) -> JSONObject:
    item = {"id": f"rs_{secrets.token_hex(12)}", "type": "reasoning", "summary": [], "status": "completed"}
    return item | {"content": [{"type": "reasoning_text", "text": text}]}


def _function_call(call: ToolCall, status: str) -> JSONObject:
    item = {"id": f"fc_{secrets.token_hex(12)}", "type": "function_call", "call_id": call.id, "name": call.name}
    return item | {"arguments": call.arguments, "status": status}


def _plain(model: RequestModel | None) -> object:
    """A part of the request as it was sent."""
    return None if model is None else json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
