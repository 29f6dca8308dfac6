"""The JSON that goes out, for the OpenAPI document and the tests, which hold the answers to these types.

`serve.api.formatting` and the routes make the answers themselves.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from carellama.engine.base import FinishReason, NoticeKind
from carellama.records import JSONObject
from carellama.serve.api.schemas import Document


class ResponseModel(BaseModel):
    """What goes out has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(ResponseModel):
    """What is wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class NoticeOut(ResponseModel):
    """What the safety layer says of a conversation or of an answer."""

    kind: NoticeKind
    level: Literal["emergency", "urgent", "soon", "refuse", "caution", "info"]
    rule: str
    text: str


class ErrorResponse(ResponseModel):
    """The body of every answer whose status is not 200."""

    error: ErrorDetail
    notices: list[NoticeOut] | None = None  # what was found in the conversation before the answer failed


class Usage(ResponseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class TopLogprob(ResponseModel):
    """A token, its log-probability, its bytes in UTF-8; null where the engine does not know them."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(TopLogprob):
    """A token that was said, and the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(ResponseModel):
    """Of the tokens of an answer."""

    content: list[TokenLogprobs]
    refusal: None


class FunctionCallOut(ResponseModel):
    """The function of a call and its arguments, as JSON text."""

    name: str
    arguments: str


class ToolCallOut(ResponseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionCallOut


class ConsultationOut(ResponseModel):
    """Of an answer in mode consult: what is known, the slot that the question asks about, or the report."""

    state: JSONObject
    slot: str | None
    report: JSONObject | None


class AssistantMessage(ResponseModel):
    """The assistant's answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallOut] | None = None
    notices: list[NoticeOut] | None = None
    consultation: ConsultationOut | None = None


class ChatChoice(ResponseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class GenerationResponse(ResponseModel):
    """What chat and completions share."""

    id: str
    created: int
    model: str
    usage: Usage


class ChatCompletionResponse(GenerationResponse):
    """The answer of /v1/chat/completions; as a stream it is chunks of it."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class LegacyLogprobs(ResponseModel):
    """Of the tokens of a completion, side by side."""

    tokens: list[str]
    token_logprobs: list[float | None]  # null: nothing precedes the first token of a prompt
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(ResponseModel):
    """One completion."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: FinishReason


class CompletionResponse(GenerationResponse):
    """The answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Embedding(ResponseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingResponse(ResponseModel):
    """The answer of /v1/embeddings."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class RerankResult(ResponseModel):
    """A document and how close it is: the cosine of its vector and the query's, from -1 to 1."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankResponse(ResponseModel):
    """The answer of /v1/rerank, the closest document first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: Usage


class ScoreResponse(ResponseModel):
    """The answer of /v1/score."""

    id: str
    object: Literal["list"]
    model: str
    scores: list[float]


class TokenizeResponse(ResponseModel):
    """The answer of /tokenize; a conversation has no `tokens`."""

    count: int
    max_model_len: int | None
    tokens: list[int] | None = None


class Model(ResponseModel):
    """A name that requests may give as `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int | None


class ModelList(ResponseModel):
    """The answer of /v1/models."""

    object: Literal["list"]
    data: list[Model]


class HealthResponse(ResponseModel):
    """The answer of /health and /ready."""

    status: str
