"""Prompts of /v1/completions: texts or token ids, with special tokens or without, scored or only continued.

    prompts = await read_prompts(service, call, body)
    makes = [partial(continued, service.engine, prompt, sampling, wants) for prompt in prompts]

A text is only text: `<|im_start|>` in it is not a token. `parse_special: true` (or --parse_special) reads such strings
as tokens, for clients that write the chat format themselves. Token ids are used as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from carellama.engine.base import Engine, Piece, PromptTooLong, Reply, Sampling, TokenLogprob
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.prepare import answer_tokens, count_text
from carellama.serve.api.schemas import CompletionRequest
from carellama.serve.api.streaming import run_in_thread


@dataclass(frozen=True)
class CompletionPrompt:
    """A prompt: `given` is what the engine continues, `echo` what is sent before the answer."""

    given: str | list[int]
    tokens: int
    echo: str = ""


async def read_prompts(state: ServerState, body: CompletionRequest) -> list[CompletionPrompt]:
    """Return the prompts of a request. Raises `InvalidRequest` (400) for an empty one."""
    parse_special = state.settings.parse_special if body.parse_special is None else body.parse_special
    begin = body.add_special_tokens is not False
    given = _listed(body.prompt)
    for index, one in enumerate(given):
        if not one:
            param = "prompt" if len(given) == 1 else f"prompt.{index}"
            raise InvalidRequest(f"{param} is an empty text", param)
    needs_ids = parse_special or not begin or (bool(body.echo) and body.logprobs is not None)

    def read(one: str | list[int]) -> CompletionPrompt:
        engine = state.engine
        if isinstance(one, str) and not needs_ids:
            return CompletionPrompt(one, count_text(engine, one, begin=True), one if body.echo else "")
        ids = engine.tokenize(one, begin=begin, marks=parse_special) if isinstance(one, str) else one
        echo = "" if not body.echo else one if isinstance(one, str) else engine.detokenize(ids)
        return CompletionPrompt(ids, len(ids), echo)

    return await run_in_thread(lambda: [read(one) for one in given])


async def reserve_prompts(
    context: RequestContext, prompts: Sequence[CompletionPrompt], sampling: Sampling, choices: int
) -> None:
    """Reserve the tokens of the prompts, each once, and of all answers. Raises `PromptTooLong` and `Rejected`."""
    answers = 0
    for prompt in prompts:
        if sampling.max_new_tokens:
            answers += choices * answer_tokens(prompt.tokens, sampling, context.context_tokens)
        elif context.context_tokens is not None and prompt.tokens > context.context_tokens:
            raise PromptTooLong(prompt.tokens, context.context_tokens)
    await context.reserve("chat", [prompt.tokens for prompt in prompts], choices, answers)


def continued(
    engine: Engine, prompt: CompletionPrompt, sampling: Sampling, scored: int | None
) -> Generator[Piece, None, Reply]:
    """Yield the echo of a prompt and the answer. `scored`: log-probabilities of the prompt, and so many likeliest."""
    logprobs: tuple[TokenLogprob, ...] = ()
    if scored is not None:
        assert not isinstance(prompt.given, str), "a prompt that is scored is read as ids"
        logprobs = tuple((yield from engine.prompt_logprobs(prompt.given, scored, sampling.adapter)))
    if prompt.echo:
        yield Piece(prompt.echo, logprobs=logprobs, of_prompt=True)
    if sampling.max_new_tokens:
        reply = yield from engine.continue_text(prompt.given, sampling)
    else:
        reply = Reply("", "length", prompt.tokens, 0)
    return replace(reply, text=prompt.echo + reply.text, logprobs=(*logprobs, *reply.logprobs))


def check_scoring(body: CompletionRequest) -> None:
    """Raise `InvalidRequest` (400) for an answer of no token of which nothing is told."""
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("max_tokens is 0: send echo: true to get the prompt, or at least 1", "max_tokens")


def _listed(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts of a field that has one or several."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(isinstance(one, int) for one in prompt):
        return [[one for one in prompt if isinstance(one, int)]]
    return [one for one in prompt if not isinstance(one, int)]
