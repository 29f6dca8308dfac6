"""How the answer to a request is drawn: its fields, and the server's defaults for those that it leaves out.

sampling = sampling_of(ChatRequest(messages=[...], temperature=0), defaults, adapter="")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from carellama.config.serve import ApiArguments
from carellama.engine.base import Sampling, Tool
from carellama.serve.api.constraints import constraint_of
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.schemas import ChatRequest, CompletionRequest, FunctionTool, SamplingFields, ToolChoice

REPETITION_PENALTY = 1.05  # by default; more makes a model avoid the very numbers of a document that it quotes
MAX_STOP_STRINGS = 16  # strings
DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions without max_tokens, as at OpenAI


def default_sampling(settings: ApiArguments, engine: str) -> Sampling:
    """Return what a request gets for the fields that it leaves out.

    Small models repeat themselves at the defaults of OpenAI. A server behind the openai engine may have no repetition
    penalty, so it gets none by default.
    """
    penalty = settings.repetition_penalty
    if penalty is None:
        penalty = 1.0 if engine == "openai" else REPETITION_PENALTY
    return Sampling(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        repetition_penalty=penalty,
    )


def resolve_adapter(model: str | None, names: Sequence[str], adapters: Sequence[str], *others: str) -> str:
    """Return the adapter that a model's name asks for, "" for none. Raises `InvalidRequest` (404) for no such name."""
    name, _, adapter = (model or names[0]).partition(":")
    if name in names and (adapter in adapters or (not adapter and ":" not in (model or ""))):
        return adapter
    known = [*others, *names, *(f"{names[0]}:{adapter}" for adapter in adapters)]
    raise InvalidRequest(
        f"there is no model {(model or '')[:80]!r}; there are: {', '.join(known)}", "model", "model_not_found", 404
    )


def parse_sampling(body: ChatRequest | CompletionRequest, defaults: Sampling, adapter: str) -> Sampling:
    """Return how the answer to a request is drawn. Raises `InvalidRequest` (400) for contradicting fields."""
    greedy = body.temperature == 0 or body.top_p == 0
    given: dict[str, Any] = {
        "temperature": 0.0 if greedy else body.temperature,
        "top_p": body.top_p or None,
        "top_k": max(body.top_k, 0) if body.top_k is not None else None,
        "min_p": body.min_p,
        "repetition_penalty": _repetition(body),
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "seed": body.seed,
        "stop": _stops(body.stop),
        "logit_bias": _parse_logit_bias(body.logit_bias),
        "min_tokens": body.min_tokens,
        "ignore_eos": body.ignore_eos,
        "stop_token_ids": _stop_tokens(body.stop_token_ids),
    }
    constraint = constraint_of(body)
    given |= constraint.sampling if constraint is not None else {}
    given |= _of_chat(body) if isinstance(body, ChatRequest) else _of_completion(body)
    sampling = replace(defaults, adapter=adapter, **{name: value for name, value in given.items() if value is not None})
    if sampling.max_new_tokens is not None and sampling.min_tokens > sampling.max_new_tokens:
        raise InvalidRequest(
            f"min_tokens is {sampling.min_tokens:,}, above the most tokens of the answer", "min_tokens"
        )
    may_call = bool(sampling.tools) and sampling.tool_choice != "none"
    if constraint is not None and may_call and sampling.json_schema is None:
        raise InvalidRequest(f"{constraint.param} does not go with tools; send tool_choice: none", constraint.param)
    return sampling


def parse_tools(tools: Sequence[FunctionTool] | None) -> tuple[Tool, ...]:
    """Return the functions that a request offers."""
    functions = [tool.function for tool in tools or ()]
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise InvalidRequest("two tools have the same name", "tools")
    return tuple(
        Tool(each.name, each.description or "", each.parameters or {}, bool(each.strict)) for each in functions
    )


def _of_chat(body: ChatRequest) -> dict[str, Any]:
    if body.modalities and body.modalities != ["text"]:
        raise InvalidRequest("modalities: this model writes text only", "modalities", "unsupported_value")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", "top_logprobs")
    limits = {one for one in (body.max_completion_tokens, body.max_tokens) if one is not None}
    if len(limits) > 1:
        raise InvalidRequest("max_tokens and max_completion_tokens are the same; send one of them", "max_tokens")
    tools = parse_tools(body.tools)
    return {
        "max_new_tokens": limits.pop() if limits else None,
        "top_logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "tools": tools,
        "tool_choice": _choice(body, [tool.name for tool in tools]),
        "parallel_calls": body.parallel_tool_calls,
    }


def _of_completion(body: CompletionRequest) -> dict[str, Any]:
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise InvalidRequest("best_of other than n is not supported", "best_of", "unsupported_parameter")
    longest = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    return {"max_new_tokens": longest, "top_logprobs": body.logprobs}


def _repetition(body: SamplingFields) -> float | None:
    """The repetition penalty, which llama.cpp and Ollama call repeat_penalty."""
    both = {one for one in (body.repetition_penalty, body.repeat_penalty) if one is not None}
    if len(both) > 1:
        raise InvalidRequest("repetition_penalty and repeat_penalty are the same; send one of them", "repeat_penalty")
    return (both.pop() or 1.0) if both else None


def _stop_tokens(tokens: Sequence[int] | None) -> tuple[int, ...] | None:
    if tokens and not all(0 <= token < 1 << 31 for token in tokens):
        raise InvalidRequest("stop_token_ids are numbers of tokens, from 0", "stop_token_ids")
    return tuple(tokens) if tokens else None


def _choice(body: ChatRequest, names: Sequence[str]) -> str:
    choice = body.tool_choice
    wanted = choice.function.name if isinstance(choice, ToolChoice) else choice or "auto"
    if isinstance(choice, ToolChoice) and wanted not in names:
        raise InvalidRequest("tool_choice names a function that is not among the tools", "tool_choice")
    if wanted not in ("auto", "none") and not names:
        raise InvalidRequest("tool_choice needs tools", "tool_choice")
    return wanted


def _stops(stop: str | list[str] | None) -> tuple[str, ...] | None:
    if stop is None:
        return None
    stops = [stop] if isinstance(stop, str) else stop
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has {len(stops)} strings; at most {MAX_STOP_STRINGS} are taken", "stop")
    return tuple(one for one in stops if one)  # an empty string stops nothing


def _parse_logit_bias(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...] | None:
    if not bias:
        return None
    if not all(token.isascii() and token.isdecimal() and len(token) <= 10 and int(token) < 1 << 31 for token in bias):
        raise InvalidRequest("logit_bias: its keys are numbers of tokens, from 0", "logit_bias")
    return tuple((int(token), added) for token, added in bias.items())
