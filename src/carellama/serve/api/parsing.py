"""A request read: its messages as a conversation that every chat format takes, its fields as a `Sampling`.

    parse_messages([ChatMessage(role="developer", content="Be brief."), ChatMessage(role="user", content="Hello")])
    parse_sampling(ChatRequest(messages=[...], temperature=0), defaults, adapter="")

A chat format takes one system message at most, then user and assistant in turn. What clients send is brought into
that order:

    developer              is a system message
    systems anywhere       are joined to the one at the beginning, in their order
    a system at the end    is the user's: those that summarise (NextChat) put their request there
    users in a row         are joined, so are assistants
    an empty assistant     is left out: it is what a client keeps of an answer that failed
    an assistant at the end is followed by an empty user turn, which the next answer is to

`prepend_empty_user_turn` puts an empty user turn before a conversation that the assistant begins, for formats that
demand it. Pictures, sound and files in the last message of the user are refused (400). Clients send a conversation
whole each time, so earlier ones are left out and counted: else one picture would end the conversation. Calls of tools
without results are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from carellama.config.serve import ApiOptions
from carellama.engine.base import Prompt, Sampling, Tool, offered_tools
from carellama.records import JSONObject, Message, ToolCall
from carellama.serve.api.constraints import constraint_of
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import check_depth
from carellama.serve.api.schemas import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    FunctionTool,
    SamplingFields,
    ToolChoice,
)

JOIN_TEXT = "\n\n"  # what joins the texts of two messages
# Kinds of parts that a client may send, and what a person calls them.
KINDS = {
    **dict.fromkeys(("image_url", "image", "input_image"), "picture"),
    **dict.fromkeys(("input_audio", "audio", "audio_url"), "sound"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(("file", "input_file", "document"), "file"),
}
REPETITION_PENALTY = 1.05  # by default; more makes a model avoid the very numbers of a document that it quotes
MAX_STOP_STRINGS = 16  # strings
DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions without max_tokens, as at OpenAI


def parse_messages(
    messages: Sequence[ChatMessage], place: str = "messages", left_out: Counter[str] | None = None
) -> list[Message]:
    """Return the conversation that was sent; pictures and the like that are left out are counted in `left_out`.

    Raises `InvalidRequest` (400) for what cannot be read as a conversation.
    """
    last = max((index for index, sent in enumerate(messages) if sent.role == "user"), default=len(messages))
    systems: list[str] = []
    turns: list[Message] = []
    for index, sent in enumerate(messages):
        at = f"{place}.{index}"
        text = message_text(sent, at, None if index >= last else left_out if left_out is not None else Counter())
        if sent.role in ("system", "developer"):
            if index == len(messages) - 1:
                turns.append(Message("user", text))
            elif text:
                systems.append(text)
        elif sent.role == "user":
            turns.append(Message("user", text))
        elif sent.role == "tool":
            turns.append(_parse_tool_result(sent, text, turns, at))
        elif sent.tool_calls:
            for number, call in enumerate(sent.tool_calls):
                check_depth(call.function.arguments.encode(), f"{at}.tool_calls.{number}.function.arguments")
            calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in sent.tool_calls]
            turns.append(Message("assistant", text, tuple(calls)))
        elif text.strip():
            turns.append(Message("assistant", text))
    _check_tool_results(turns, place)
    found = _merge_same_role(turns)
    if not found:
        raise InvalidRequest("there is nothing to answer: the messages hold no text of a user", place)
    if found[-1].role == "assistant":
        found.append(Message("user", ""))
    return [*([Message("system", JOIN_TEXT.join(systems))] if systems else []), *found]


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """Return a conversation with a text before its system message."""
    if not system:
        return list(messages)
    if messages and messages[0].role == "system":
        return [Message("system", f"{system}{JOIN_TEXT}{messages[0].content}"), *messages[1:]]
    return [Message("system", system), *messages]


def starts_with_assistant(messages: Prompt) -> bool:
    """Whether the assistant speaks first."""
    return next(message.role for message in messages if message.role != "system") == "assistant"


def prepend_empty_user_turn(messages: Prompt) -> list[Message]:
    """Return the conversation with an empty user turn before its first one."""
    head = [message for message in messages if message.role == "system"]
    return [*head, Message("user", ""), *messages[len(head) :]]


def message_text(sent: ChatMessage, at: str, left_out: Counter[str] | None = None) -> str:
    """Return the text of a message.

    With `left_out`, parts that are no text are left out and counted there by kind. Raises `InvalidRequest` (400) for
    them otherwise, and for a message without content.
    """
    if isinstance(sent.content, str):
        return sent.content
    if sent.content is None:
        if sent.role == "assistant":
            return sent.refusal or ""
        raise InvalidRequest(f"{at}.content is missing: a message of {sent.role} has a text", f"{at}.content")
    texts = []
    for number, part in enumerate(sent.content):
        where = f"{at}.content.{number}"
        said = part.refusal if part.type == "refusal" else part.text if part.type == "text" else None
        kind = KINDS.get(part.type)
        if said is not None:
            texts.append(said)
        elif part.type in ("text", "refusal"):
            raise InvalidRequest(f"{where} is of the type {part.type!r} and has no text", where, "unsupported_content")
        elif left_out is not None:
            left_out[kind or "part"] += 1
        elif kind is not None:
            raise InvalidRequest(
                f"this model reads text only: remove the {kind} ({where})", where, "unsupported_content"
            )
        else:
            raise InvalidRequest(
                f"{where} is of the type {part.type[:40]!r}: this model reads text only, as "
                '{"type": "text", "text": "..."}',
                where,
                "unsupported_content",
            )
    return "\n".join(texts)


def _parse_tool_result(sent: ChatMessage, text: str, turns: Sequence[Message], at: str) -> Message:
    """The result of a tool; the call that it belongs to must stand before it."""
    known = {call.id for turn in turns for call in turn.calls}
    if sent.tool_call_id not in known:
        raise InvalidRequest(
            f"{at} is the result of a call that no message before it makes: tool_call_id must be the id of one of "
            "the assistant's tool_calls",
            f"{at}.tool_call_id",
        )
    return Message("tool", text, call_id=sent.tool_call_id or "")


def _check_tool_results(turns: Sequence[Message], place: str) -> None:
    """Refuse calls whose results do not follow."""
    for index, turn in enumerate(turns):
        if not turn.calls:
            continue
        results = set()
        for later in turns[index + 1 :]:
            if later.role != "tool":
                break
            results.add(later.call_id)
        missing = [call.id for call in turn.calls if call.id not in results]
        if missing:
            calls = f"{len(turn.calls)} tools and {len(missing)} of the results {'is' if len(missing) == 1 else 'are'}"
            raise InvalidRequest(
                f"the assistant calls {'1 tool and its result is' if len(turn.calls) == 1 else calls} missing: "
                "send a message of the role tool with the tool_call_id of each call after it",
                place,
            )


def _merge_same_role(turns: Sequence[Message]) -> list[Message]:
    """Users in a row as one, assistants that call nothing as one."""
    found: list[Message] = []
    for turn in turns:
        last = found[-1] if found else None
        alike = last is not None and last.role == turn.role and turn.role in ("user", "assistant")
        if last is not None and alike and not (last.calls or turn.calls):
            found[-1] = Message(turn.role, JOIN_TEXT.join(text for text in (last.content, turn.content) if text))
        else:
            found.append(turn)
    return found


def default_sampling(settings: ApiOptions, engine: str) -> Sampling:
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
    given: JSONObject = {
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
    if constraint is not None and offered_tools(sampling) and sampling.json_schema is None:
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


def _of_chat(body: ChatRequest) -> JSONObject:
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
        "tool_choice": _parse_tool_choice(body, [tool.name for tool in tools]),
        "parallel_calls": body.parallel_tool_calls,
    }


def _of_completion(body: CompletionRequest) -> JSONObject:
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


def _parse_tool_choice(body: ChatRequest, names: Sequence[str]) -> str:
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
