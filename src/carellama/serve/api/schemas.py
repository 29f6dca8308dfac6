"""The JSON that comes in: OpenAI's API, with the extra fields of vLLM, and the routes that only we have.

    ChatRequest.model_validate({"messages": [{"role": "user", "content": "What is asthma?"}]})

A wrong type or value is an error. What happens with fields that are not declared here is in `serve.api.fields`, the
table of all fields; what a request means is in `serve.api.parsing`. These are the types alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from carellama.records import JSONObject

ModelName = Field(default=None, max_length=256, description="carellama, or carellama:ADAPTER; left out: carellama")


def _number(value: object) -> object:
    """A number as JSON has it: neither true nor "0.5"."""
    if isinstance(value, (bool, str)):
        raise ValueError("Input should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number)]
TokenId = Annotated[int, Field(strict=True)]
TokenCount = Annotated[Whole, Field(ge=1, le=1 << 31)]
Text = Annotated[str, Field(max_length=1 << 26)]


Mode = Literal["answer", "consult"]


class RequestModel(BaseModel):
    """What comes in: NaN and infinity are not numbers. `model_extra` has the fields that are not declared."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class ContentPart(RequestModel):
    """A part of a message; only text is understood."""

    type: str = Field(max_length=64)
    text: Text | None = None
    refusal: Text | None = None


class FunctionCallIn(RequestModel):
    """The function of a call, and its arguments as JSON text."""

    name: str = Field(min_length=1, max_length=256)
    arguments: Text = "{}"


class ToolCallIn(RequestModel):
    """A call of a tool in an assistant's message."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCallIn


class ChatMessage(RequestModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    refusal: Text | None = Field(default=None, description="of an assistant: read where there is no content")
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: str | None = Field(default=None, max_length=256)


class Function(RequestModel):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: JSONObject | None = Field(default=None, description="JSON schema of its arguments")
    strict: StrictBool | None = Field(
        default=None, description="true: a call whose arguments break the schema is no call"
    )


class FunctionTool(RequestModel):
    """A tool; functions are the only kind."""

    type: Literal["function"] = "function"
    function: Function


class FunctionName(RequestModel):
    """The name of a function."""

    name: str


class ToolChoice(RequestModel):
    """The tool that has to be called."""

    type: Literal["function"] = "function"
    function: FunctionName


class JsonSchema(RequestModel):
    """The schema of `response_format`."""

    name: str = ""
    description: str | None = None
    strict: StrictBool | None = Field(default=None, description="the answer keeps to the schema either way")
    schema_: JSONObject = Field(alias="schema")


class ResponseFormat(RequestModel):
    """Text, any JSON object, or JSON of a schema. `schema` is the place of it at Together, Fireworks and llama.cpp."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: JSONObject | None = Field(default=None, alias="schema")


class StructuredOutputs(RequestModel):
    """vLLM's constraint of an answer; one of the fields."""

    json_: JSONObject | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: StrictBool | None = None


class StreamOptions(RequestModel):
    """What a stream tells besides the answer."""

    include_usage: StrictBool | None = None
    include_obfuscation: StrictBool | None = Field(default=None, description="no padding is sent")
    continuous_usage_stats: Literal[False] | None = None


class SamplingFields(RequestModel):
    """How an answer is drawn: the fields that chat and completion share; null: the server's default."""

    model: str | None = ModelName
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Whole | None = Field(default=None, ge=1, le=128)
    max_tokens: TokenCount | None = None
    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1, description="0 is taken as the likeliest token")
    top_k: Whole | None = Field(default=None, ge=-1, le=1 << 31, description="0 and -1: from all tokens")
    min_p: Number | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=None, ge=0, le=10, description="0 and 1: none")
    repeat_penalty: Number | None = Field(default=None, ge=0, le=10, description="llama.cpp's repetition_penalty")
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    seed: Whole | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    min_tokens: Whole | None = Field(default=None, ge=0, le=1 << 31)
    ignore_eos: StrictBool | None = None
    stop_token_ids: list[Whole] | None = Field(default=None, max_length=64)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JSONObject | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: JSONObject | None = Field(default=None, description="llama.cpp's")
    format: Literal["", "json"] | JSONObject | None = Field(default=None, description="Ollama's")
    grammar: str | None = Field(default=None, description="GBNF or Lark")
    regex: str | None = Field(default=None, description="SGLang's")
    ebnf: str | None = Field(default=None, description="SGLang's")
    user: str | None = Field(default=None, description="not kept")


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: TokenCount | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)
    tools: list[FunctionTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = Field(default=None, description="false: at most one call")
    modalities: list[str] | None = Field(default=None, description="text only")
    mode: Mode | None = Field(
        default=None, description="answer: at once; consult: ask before advice; left out: as the server was started"
    )
    country: str | None = Field(
        default=None, max_length=8, description="whose numbers a notice has: CN, US, ...; left out: the server's"
    )


class CompletionRequest(SamplingFields):
    """POST /v1/completions; max_tokens is 16 where it is left out, as at OpenAI."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    max_tokens: Annotated[Whole, Field(ge=0, le=1 << 31)] | None = None
    echo: StrictBool | None = None
    parse_special: StrictBool | None = Field(
        default=None, description="true: strings of special tokens in a prompt are these tokens; default: the server's"
    )
    add_special_tokens: StrictBool | None = Field(
        default=None, description="false: without the token that begins a sequence"
    )
    best_of: Whole | None = None
    logprobs: Whole | None = Field(default=None, ge=0, le=20)


class EmbeddingRequest(RequestModel):
    """POST /v1/embeddings."""

    model: str | None = ModelName
    input: str | list[str] | list[TokenId] | list[list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = Field(default=None, ge=1)
    input_type: Literal["query", "document", "passage", "search_query", "search_document"] | None = Field(
        default=None, description="what the texts are, for embedders that tell questions from documents apart"
    )
    user: str | None = None


class Document(RequestModel):
    """A document as an object."""

    text: Text


class RerankRequest(RequestModel):
    """POST /v1/rerank: documents by how close they are to a query."""

    model: str | None = ModelName
    query: Text
    documents: list[Text | Document] = Field(min_length=1)
    top_n: Whole | None = Field(default=None, ge=1)
    return_documents: StrictBool | None = None


class ScoreRequest(RequestModel):
    """POST /v1/score: conversations that end with the answer to be scored."""

    model: str | None = ModelName
    messages: list[list[ChatMessage]] = Field(min_length=1)


class TokenizeRequest(RequestModel):
    """POST /tokenize: a text, or a conversation (its number of tokens alone)."""

    model: str | None = ModelName
    prompt: Text | None = None
    parse_special: StrictBool | None = Field(default=None, description="of a prompt, as in /v1/completions")
    add_special_tokens: StrictBool | None = Field(
        default=None, description="of a prompt: true: with the token that begins a sequence"
    )
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    tools: list[FunctionTool] | None = Field(default=None, max_length=128)
