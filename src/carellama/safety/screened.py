"""An engine's answer with what the safety layer has to say: before it, beside it, and where it is stopped.

    stream = screened_stream(layer.screen(messages), engine, messages, sampling)

An answer that is held to a grammar (JSON) is not added to: its notices are fields beside it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from carellama.engine.base import Engine, Notice, Piece, Prompt, Reply, Sampling
from carellama.safety.answers import makes_light_of, sentence_end
from carellama.safety.layer import Screening


def screened_stream(
    screening: Screening, engine: Engine, messages: Prompt, sampling: Sampling
) -> Generator[Piece, None, Reply]:
    """Yield the notices, then the answer until it makes light of the emergency."""
    preface = "" if sampling.constrained else screening.preface()
    watch = None if sampling.constrained else screening.watch()
    notices, pieces = screening.notices, list[Piece]()
    yield Piece(preface, notices=notices)
    stream = engine.stream(messages, sampling)
    try:
        while True:
            piece = next(stream)
            pieces.append(piece)
            found = watch.add(piece.text) if watch else None
            if watch is None or found is None:
                yield piece
                continue
            notices, surplus, watch = (*notices, found), watch.surplus, None
            if screening.mode == "on":
                yield replace(piece, text=piece.text[: len(piece.text) - surplus])
                yield Piece(f"\n\n{found.text}", notices=(found,))
                said = "".join(one.text for one in pieces)
                text = f"{preface}{said[: len(said) - surplus]}\n\n{found.text}"
                return _stopped(engine, messages, sampling, Reply(text, "content_filter", 0, 0), notices, pieces)
            yield piece
            yield Piece(notices=(found,))
    except StopIteration as end:
        reply: Reply = end.value
        found = watch.end() if watch else None
        mark = f"\n\n{found.text}" if found and screening.mode == "on" else ""
        if found:
            notices = (*notices, found)
            yield Piece(mark, notices=(found,))
        return replace(reply, text=f"{preface}{reply.text}{mark}", notices=notices)
    finally:
        stream.close()


def _stopped(
    engine: Engine,
    messages: Prompt,
    sampling: Sampling,
    reply: Reply,
    notices: tuple[Notice, ...],
    pieces: Sequence[Piece],
) -> Reply:
    """The reply of an answer that was stopped; its tokens are counted again, since the engine did not finish it."""
    reasoning = "".join(one.reasoning for one in pieces)
    return replace(
        reply,
        notices=notices,
        reasoning=reasoning,
        logprobs=tuple(token for one in pieces if not one.of_prompt for token in one.logprobs),
        calls=tuple(one.call for one in pieces if one.call is not None),
        prompt_tokens=engine.count_tokens(messages, sampling.tools),
        completion_tokens=len(engine.tokenize(reasoning + "".join(one.text for one in pieces))),
    )


def screened_reply(screening: Screening, reply: Reply, sampling: Sampling) -> Reply:
    """Return a whole answer with its notices, cut where it makes light of an emergency."""
    if not screening.notices or sampling.constrained:
        return replace(reply, notices=screening.notices)
    notices, text, reason = screening.notices, reply.text, reply.finish_reason
    place = makes_light_of(text) if screening.watch() else None
    if place:
        found = screening.contradiction()
        notices = (*notices, found)
        if screening.mode == "on":
            text, reason = f"{text[: sentence_end(text, place[1])]}\n\n{found.text}", "content_filter"
    return replace(reply, text=f"{screening.preface()}{text}", finish_reason=reason, notices=notices)
