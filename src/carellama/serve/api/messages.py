"""The messages that clients send, as conversations that every chat format takes; nothing of them is lost.

    parse_messages([ChatMessage(role="developer", content="Be brief."), ChatMessage(role="user", content="Hello")])

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

from carellama.engine.base import Prompt
from carellama.records import Message, ToolCall
from carellama.serve.api.depth import check_depth
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.schemas import ChatMessage

JOIN_TEXT = "\n\n"  # what joins the texts of two messages


# Kinds of parts that a client may send, and what a person calls them.
KINDS = {
    **dict.fromkeys(("image_url", "image", "input_image"), "picture"),
    **dict.fromkeys(("input_audio", "audio", "audio_url"), "sound"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(("file", "input_file", "document"), "file"),
}


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
            turns.append(_result(sent, text, turns, at))
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


def _result(sent: ChatMessage, text: str, turns: Sequence[Message], at: str) -> Message:
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
