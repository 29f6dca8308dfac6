"""Requests of /v1/responses (OpenAI), as requests of /v1/chat/completions. The server keeps nothing of either.

    chat = as_chat(ResponsesRequest(input="What is asthma?", instructions="Be brief."))

Each response has to be asked for with the whole conversation: what refers to one that is kept is refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool, ValidationError

from carellama.records import JSONObject
from carellama.serve.api.errors import InvalidRequest, from_validation_error
from carellama.serve.api.schemas import (
    ChatRequest,
    ContentPart,
    ModelName,
    Number,
    RequestModel,
    StreamOptions,
    Text,
    TokenCount,
    Whole,
)

KEPT = "this server keeps no responses: send the whole conversation as input"
REFUSED = {  # fields that ask for what there is not, and why not
    "previous_response_id": KEPT,
    "conversation": KEPT,
    "prompt": "this server keeps no prompts: send instructions and input",
    "background": "ask with stream: true instead",
    "max_tool_calls": "this server calls no tools itself",
    "context_management": "texts are never cut",
}

LOGPROBS = "message.output_text.logprobs"
INCLUDED = {LOGPROBS, "reasoning.encrypted_content"}  # the latter is of OpenAI's models: ours is not encrypted
NAMES = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}  # as chat has them


class InputItem(RequestModel):
    """One item of the conversation: a message, a call of a function, or the result of one."""

    type: str = Field(default="message", max_length=64)
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | list[ContentPart] | None = None
    call_id: str | None = Field(default=None, min_length=1, max_length=256)
    name: str | None = Field(default=None, min_length=1, max_length=256)
    arguments: Text | None = None
    output: Text | list[ContentPart] | None = None


class ToolItem(RequestModel):
    """A function that the model may call."""

    type: str = Field(max_length=64)
    name: str = ""
    description: str | None = None
    parameters: JSONObject | None = None
    strict: StrictBool | None = None


class NamedTool(RequestModel):
    """The function that has to be called."""

    type: Literal["function"]
    name: str


class TextFormat(RequestModel):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema_: JSONObject | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class TextOptions(RequestModel):
    """The form of the text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesRequest(RequestModel):
    """POST /v1/responses."""

    model: str | None = ModelName
    input: Text | list[InputItem]
    instructions: Text | None = None
    stream: StrictBool | None = None
    max_output_tokens: TokenCount | None = None
    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16, description="sent back with the answer")
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    tools: list[ToolItem] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: StrictBool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: StrictBool | None = Field(default=None, description="nothing is kept either way")
    previous_response_id: str | None = None
    conversation: object = None
    prompt: object = None
    background: StrictBool | None = None
    max_tool_calls: Whole | None = None
    context_management: object = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are asked for."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


def as_chat(body: ResponsesRequest) -> tuple[ChatRequest, list[int]]:
    """Return the same request for chat completions, and for each of its messages the item that it is of.

    Raises `InvalidRequest` (400) for what this server does not do.
    """
    for name, why in REFUSED.items():
        if getattr(body, name):
            raise InvalidRequest(f"{name} is not supported: {why}", name, "unsupported_parameter")
    if body.truncation == "auto":
        raise InvalidRequest(
            "truncation: auto is not supported: texts are never cut", "truncation", "unsupported_value"
        )
    messages, items = _messages(body.input)
    fields: JSONObject = {
        "model": body.model,
        "stream": body.stream,
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": True if body.wants_logprobs else None,
        "top_logprobs": body.top_logprobs if body.wants_logprobs else None,
        "messages": messages,
        "tools": [_tool(tool, index) for index, tool in enumerate(body.tools or ())] or None,
        "tool_choice": _choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _format(body),
    }
    try:
        chat = ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        faults = error.errors()
        for fault in faults:
            fault["loc"] = (NAMES.get(str(fault["loc"][0]), fault["loc"][0]), *fault["loc"][1:])
        raise from_validation_error(faults) from None
    return chat, items


def _messages(given: str | list[InputItem]) -> tuple[list[JSONObject], list[int]]:
    """The messages of a conversation; calls that follow each other are of one message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}], [0]
    messages: list[JSONObject] = []
    items: list[int] = []
    for index, item in enumerate(given):
        at = f"input.{index}"
        if item.type == "reasoning":
            continue  # of an earlier answer: templates leave it out as well
        if item.type == "function_call":
            call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments or "{}"}}
            if not (item.call_id and item.name):
                raise InvalidRequest(f"{at} is a call without call_id or name", at)
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
                continue
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif item.type == "function_call_output":
            if item.output is None:
                raise InvalidRequest(f"{at}.output is missing", f"{at}.output")
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
        elif item.type == "message" and item.role is not None and item.content is not None:
            messages.append({"role": item.role, "content": _content(item.content)})
        elif item.type == "message":
            raise InvalidRequest(f"{at} is a message and needs role and content", at)
        else:
            why = KEPT if item.type == "item_reference" else "this server has no such tools"
            raise InvalidRequest(f"{at} is of the type {item.type!r}: {why}", f"{at}.type", "unsupported_content")
        items.append(index)
    return messages, items


def _content(given: str | list[ContentPart]) -> str | list[JSONObject]:
    if isinstance(given, str):
        return given
    texts = ("input_text", "output_text", "text")
    return [
        {"type": "text" if part.type in texts else part.type, "text": part.text, "refusal": part.refusal}
        for part in given
    ]


def _tool(tool: ToolItem, index: int) -> JSONObject:
    if tool.type != "function":
        message = f"tools.{index} is of the type {tool.type!r}: this server has no tools of its own"
        raise InvalidRequest(message, f"tools.{index}.type", "unsupported_value")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function | ({} if tool.strict is None else {"strict": tool.strict})}


def _choice(body: ResponsesRequest) -> JSONObject | str | None:
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return choice if body.tools or choice == "required" else None


def _format(body: ResponsesRequest) -> JSONObject | None:
    form = body.text.format if body.text else None
    if form is None:
        return None
    if form.type != "json_schema":
        return {"type": form.type}
    if form.schema_ is None:
        raise InvalidRequest("text.format.schema is missing", "text.format.schema")
    return {"type": "json_schema", "json_schema": {"name": form.name, "schema": form.schema_}}
