"""Answers of any engine, streamed or whole, by its `prepare` and `submit`.

    for piece in stream(engine, [Message("user", "What is asthma?")], sampling): print(piece.text, end="")
    replies = generate(engine, prompts, sampling)

For callers that may wait in a thread of their own: the terminal, evaluation, batches, library users. The server submits
to the engine itself.
"""

from __future__ import annotations

import queue
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from carellama.engine.base import (
    HEARTBEAT,
    Engine,
    Event,
    OnEvent,
    OnReply,
    Piece,
    PreparedPrompt,
    Prompt,
    PromptTooLong,
    Reply,
    RequestHandle,
    Sampling,
    Tool,
    offered_tools,
)
from carellama.engine.worker_pool import run_in_thread

Value = TypeVar("Value")
AnyPrompt = PreparedPrompt | Prompt | str | Sequence[int]


def prepared(engine: Engine, prompt: AnyPrompt, sampling: Sampling) -> PreparedPrompt:
    """Return a prompt as it is prepared for this sampling; no server is asked to count it. Raises `PromptTooLong`."""
    return (
        prompt if isinstance(prompt, PreparedPrompt) else engine.prepare(prompt, offered_tools(sampling), exact=False)
    )


def count_tokens(engine: Engine, prompt: Prompt | str, tools: Sequence[Tool] = ()) -> int:
    """Return the number of tokens that an answer starts from, also of a prompt that is too long."""
    try:
        return engine.prepare(prompt, tools).tokens
    except PromptTooLong as error:
        return error.prompt_tokens


def stream(engine: Engine, prompt: AnyPrompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
    """Yield the answer piece by piece; the generator's value is the whole `Reply`.

    It yields at least every `HEARTBEAT` seconds, an empty piece if need be. Closing it ends the computation.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    handle = _submit(engine, prepared(engine, prompt, sampling), sampling, events.put)
    reply: Reply = yield from follow(handle, events)
    return reply


def _submit(engine: Engine, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
    """Submit a request, in a thread: one that Ctrl-C leaves here is cancelled as soon as there is a handle of it."""
    submitted: Future[RequestHandle] = Future()
    try:
        run_in_thread(lambda: engine.submit(prompt, sampling, on_event), submitted, "carellama-submit")
        return submitted.result()
    except KeyboardInterrupt:
        submitted.add_done_callback(lambda done: None if done.exception() else done.result().cancel())
        raise


def follow(
    handle: RequestHandle, events: queue.SimpleQueue[Piece | Value | Exception]
) -> Generator[Piece, None, Value]:
    """Yield the pieces of a request, and an empty one every `HEARTBEAT` seconds; return its last event.

    An error is raised. Closing the generator ends the request.
    """
    try:
        while True:
            try:
                event = events.get(timeout=HEARTBEAT)
            except queue.Empty:
                event = Piece()
            if isinstance(event, BaseException):
                raise event
            if not isinstance(event, Piece):
                return event
            yield event
    finally:
        handle.cancel()
        handle.join()


def generate(
    engine: Engine, prompts: Sequence[AnyPrompt], sampling: Sampling, on_reply: OnReply | None = None
) -> list[Reply]:
    """Answer each prompt, `engine.parallel` at once; the replies are in the order of the prompts.

    All prompts are prepared before the first one is answered. `on_reply` is called in this thread. After an error the
    requests under way are answered, no other is begun, and the error is raised. With a seed the first prompt is
    answered as `stream` does, and each further one draws from a seed of its own: equal prompts get different answers.
    """
    requests = [prepared(engine, prompt, sampling) for prompt in prompts]
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    handles: list[RequestHandle] = []
    replies: dict[int, Reply] = {}
    failures: list[BaseException] = []

    def submit(index: int) -> None:
        own = seeded(sampling, index)
        handles.append(_submit(engine, requests[index], own, lambda event: events.put((index, event))))

    try:
        while len(replies) < len(requests):
            while len(handles) < min(len(requests), len(replies) + engine.parallel) and not failures:
                submit(len(handles))
            if len(replies) + len(failures) == len(handles):
                raise failures[0]
            index, event = events.get()
            if isinstance(event, BaseException):
                failures.append(event)
            elif isinstance(event, Reply):
                replies[index] = event
                if on_reply is not None:
                    on_reply(index, event)
    finally:
        for handle in handles:
            handle.cancel()
        for handle in handles:
            handle.join()
    return [replies[index] for index in range(len(requests))]


def seeded(sampling: Sampling, index: int) -> Sampling:
    """Return the sampling of the prompt at a place among several: a seed has the place above its lower 32 bits."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + (index << 32))
