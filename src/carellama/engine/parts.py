"""The parts of an answer (reasoning, text, calls of tools), told apart by the marks of the model's chat format.

    on_event = split_parts(on_event, sampling, jinja=template.jinja, begun=template.opens_reasoning)

All engines pass their answers through here. `reads_calls` asks a chat template to write a call and sees whether it is
read: of a template whose calls are not, tools are told and called as text (`carellama.engine.tools`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from carellama.engine import call_forms, harmony
from carellama.engine.base import Event, OnEvent, Piece, Reply, Sampling, Tool
from carellama.engine.harmony import HarmonyReader
from carellama.engine.reading import read_events
from carellama.engine.reasoning import split_reasoning
from carellama.engine.tools import ToolCallParser
from carellama.errors import UserError
from carellama.records import Message, ToolCall
from carellama.templates.jinja import knows_tools, speaks_harmony

Render = Callable[[Sequence[Message], Sequence[Tool]], str]
# A call that a template is asked to write. Mistral's templates take ids of nine letters or digits.
VALUE = "Reykjavik"
TRIED = Tool("get_hours", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
CALL = ToolCall("a1b2c3d4e", TRIED.name, f'{{"city": "{VALUE}"}}')
BEHIND = 120  # characters behind a value in which its call ends


def split_parts(on_event: OnEvent, sampling: Sampling, *, jinja: str = "", begun: bool = False) -> OnEvent:
    """Return what takes the events of an answer and hands them to `on_event` with reasoning and calls apart.

    `jinja` is the model's chat template; `begun`: the prompt has opened the reasoning.
    """
    if speaks_harmony(jinja) and not sampling.constrained:
        return read_events(on_event, HarmonyReader(sampling))
    if sampling.tools:
        on_event = read_events(on_event, ToolCallParser(sampling))
    return split_reasoning(on_event, sampling, begun=begun)


def kept_marks(jinja: str, sampling: Sampling) -> tuple[str, ...]:
    """Return the special tokens that have to be in the text of an answer, so that its parts can be told apart."""
    return (harmony.MARKS if speaks_harmony(jinja) else ()) + (call_forms.MARKS if sampling.tools else ())


def reads_calls(jinja: str, render: Render) -> bool:
    """Return whether a chat template writes tools, and calls in a form that is read here."""
    if not knows_tools(jinja):
        return False
    asked = (Message("user", "x"),)
    try:
        before = render(asked, [TRIED])
        whole = render((*asked, Message("assistant", "", (CALL,)), Message("tool", "x", call_id=CALL.id)), [TRIED])
    except UserError:
        return False
    common = next((at for at, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other), len(before))
    written = whole[common:]
    at = written.find(VALUE) + len(VALUE)
    return at >= len(VALUE) and any(_reads(written[:end], jinja) for end in range(at, at + BEHIND))


def _reads(answer: str, jinja: str) -> bool:
    """Whether an answer is the one call that was asked for."""

    events: list[Event] = []
    take = split_parts(events.append, Sampling(tools=(TRIED,)), jinja=jinja)
    take(Piece(answer))
    take(Reply(answer, "stop", 0, 0))
    reply = events[-1]
    assert isinstance(reply, Reply)
    return [(call.name, call.arguments) for call in reply.calls] == [(CALL.name, CALL.arguments)]
