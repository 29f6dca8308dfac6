"""What is sent to an OpenAI-compatible server: messages, tools and sampling as the fields of its requests.

    body = chat_body("my-model", messages, sampling, dialect_of("vllm"))

OpenAI's protocol has no word for top_k, min_p and repetition_penalty. Servers that have one are known by the `owned_by`
of the models that they list; to others such a sampling is refused, never sent without it. A server with words of its
own also has defaults of its own, so it is told all of them, also those that change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from carellama.engine.base import Prompt, Sampling, Tool, Unsupported
from carellama.engine.tools import resolve_tool_choice
from carellama.records import JSONObject
from carellama.templates.jinja import as_functions, as_rows

MAX_TOP_LOGPROBS = 20  # that OpenAI, vLLM and SGLang tell of one token


@dataclass(frozen=True, slots=True)
class ServerDialect:
    """What a kind of server takes beyond OpenAI's fields."""

    repetition: str = ""  # its name for repetition_penalty; "": it has none of the three
    all_tokens: int = 0  # top_k that takes all tokens
    tokenizer: Literal["", "vllm", "llamacpp"] = ""  # whose form of /tokenize it has
    grammars: Literal["", "vllm", "sglang", "llamacpp"] = ""  # whose fields for regex, choice and grammar it has
    ends: tuple[str, ...] = ()  # which of min_tokens, ignore_eos and stop_token_ids it takes


# By `owned_by` of /v1/models. vLLM 0.32, SGLang 0.5, llama.cpp's server of 2026, and CareLlama's own.
DIALECTS = {
    "vllm": ServerDialect("repetition_penalty", -1, "vllm", "vllm", ("min_tokens", "ignore_eos", "stop_token_ids")),
    "sglang": ServerDialect("repetition_penalty", -1, "", "sglang", ("min_tokens", "ignore_eos", "stop_token_ids")),
    "llamacpp": ServerDialect("repeat_penalty", 0, "llamacpp", "llamacpp", ("ignore_eos",)),
    "carellama": ServerDialect("repetition_penalty", 0, "vllm", "vllm", ("min_tokens", "ignore_eos", "stop_token_ids")),
}


def dialect_of(owner: str) -> ServerDialect:
    """The kind of a server by the owner of its models; one that is not known takes OpenAI's fields only."""
    return DIALECTS.get(owner, ServerDialect())


def chat_body(model: str, messages: Prompt, sampling: Sampling, dialect: ServerDialect) -> JSONObject:
    """The body for /v1/chat/completions. Raises `Unsupported` for what the server has no word for."""
    body = {"model": model, "messages": _rows(messages), **_sampling_fields(sampling, dialect)}
    if sampling.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": _check_top_logprobs(sampling.top_logprobs)}
    if sampling.tools and sampling.tool_choice != "none":
        resolve_tool_choice(sampling)  # which says so where the choice names no tool
        choice: str | JSONObject = sampling.tool_choice
        if choice not in ("auto", "required"):
            choice = {"type": "function", "function": {"name": choice}}
        functions = as_functions(sampling.tools)
        for function, tool in zip(functions, sampling.tools, strict=True):
            function["function"] |= {"strict": True} if tool.strict else {}
        body |= {"tools": functions, "tool_choice": choice}
        if not sampling.parallel_calls:
            body["parallel_tool_calls"] = False
    return body


def completion_body(model: str, text: str | Sequence[int], sampling: Sampling, dialect: ServerDialect) -> JSONObject:
    """The body for /v1/completions, which goes on with a text. Raises as `chat_body`."""
    prompt = text if isinstance(text, str) else list(text)
    body = {"model": model, "prompt": prompt, **_sampling_fields(sampling, dialect)}
    if sampling.top_logprobs is not None:
        body["logprobs"] = _check_top_logprobs(sampling.top_logprobs)
    return body


def tokenize_text(model: str, text: str, dialect: ServerDialect, *, begin: bool, marks: bool) -> JSONObject:
    """The body for /tokenize of a text, see `Engine.tokenize`. vLLM reads marks as tokens in any case."""
    if dialect.tokenizer == "vllm":
        return {"model": model, "prompt": text, "add_special_tokens": begin, "parse_special": marks}
    return {"content": text, "add_special": begin, "parse_special": marks}


def tokenize_chat(model: str, messages: Prompt, tools: Sequence[Tool]) -> JSONObject:
    """The body for vLLM's /tokenize of a conversation, and for llama.cpp's /apply-template."""
    body: JSONObject = {"model": model, "messages": _rows(messages), "add_generation_prompt": True}
    return body | ({"tools": as_functions(tools)} if tools else {})


def _rows(messages: Prompt) -> list[JSONObject]:
    return as_rows(messages, attrgetter("arguments"))  # as text


def _sampling_fields(sampling: Sampling, dialect: ServerDialect) -> JSONObject:
    if sampling.num_beams != 1:
        raise Unsupported("a server of this protocol takes no num_beams: give --num_beams 1")
    body: JSONObject = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if dialect.repetition:
        body |= {
            "top_k": sampling.top_k or dialect.all_tokens,
            "min_p": sampling.min_p,
            dialect.repetition: sampling.repetition_penalty,
        }
    elif sampling.top_k or sampling.min_p or sampling.repetition_penalty != 1:
        raise Unsupported(
            "the endpoint does not say that it takes top_k, min_p or repetition_penalty: "
            "give --top_k 0 --repetition_penalty 1, and no min_p"
        )
    given = {
        "max_tokens": sampling.max_new_tokens,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
    }
    body |= {name: value for name, value in given.items() if value is not None}
    if sampling.json_schema is not None:
        schema = {"name": "answer", "schema": dict(sampling.json_schema), "strict": True}
        any_object = {"type": "json_object"}
        body["response_format"] = {"type": "json_schema", "json_schema": schema} if sampling.json_schema else any_object
    return body | _grammar(sampling, dialect) | _ends(sampling, dialect)


def _grammar(sampling: Sampling, dialect: ServerDialect) -> JSONObject:
    """The fields for a regular expression, a choice or a grammar."""
    given = {"regex": sampling.regex, "choice": list(sampling.choice), "grammar": sampling.grammar}
    asked = {name: value for name, value in given.items() if value}
    if not asked:
        return {}
    if dialect.grammars == "vllm":
        return {"structured_outputs": asked}
    if dialect.grammars == "sglang" and sampling.regex:
        return {"regex": sampling.regex}
    if dialect.grammars in ("sglang", "llamacpp") and sampling.grammar:
        return {"ebnf" if dialect.grammars == "sglang" else "grammar": sampling.grammar}
    raise Unsupported(
        f"the endpoint does not say that it takes {next(iter(asked))}; use a JSON schema", sampling.constraint
    )


def _ends(sampling: Sampling, dialect: ServerDialect) -> JSONObject:
    """The fields that say where an answer may end."""
    given = {
        "min_tokens": sampling.min_tokens,
        "ignore_eos": sampling.ignore_eos,
        "stop_token_ids": list(sampling.stop_token_ids),
    }
    asked = {name: value for name, value in given.items() if value}
    if unknown := [name for name in asked if name not in dialect.ends]:
        raise Unsupported(f"the endpoint does not say that it takes {', '.join(unknown)}; leave it out", unknown[0])
    return asked


def _check_top_logprobs(count: int) -> int:
    if count > MAX_TOP_LOGPROBS:
        raise Unsupported(f"top_logprobs is {count}; a server of this protocol tells at most {MAX_TOP_LOGPROBS}")
    return count
