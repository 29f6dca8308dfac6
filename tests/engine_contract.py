"""What every engine has to do; `test_contract.py` runs it for each. Not a test module itself.

    class TestScripted(Contract): ...

A subclass gives the fixture `engine` and says in `LACKS` what its engine cannot do: that has to be refused in one
line, and nothing else may be.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import pytest

from carellama.engine.base import (
    HEARTBEAT,
    Engine,
    Event,
    Piece,
    PromptTooLong,
    Reply,
    Sampling,
    Tool,
    Unsupported,
    drain,
)
from carellama.engine.generate import count_tokens, generate, stream
from carellama.errors import UserError
from carellama.records import Message

QUESTIONS = ["What is asthma?", "发烧三天了怎么办？", "Is a headache dangerous?", "How much water should I drink?"]
PROMPTS = [(Message("user", question),) for question in QUESTIONS]
GREEDY = Sampling(16, temperature=0)
SCHEMA = {
    "type": "object",
    "properties": {"urgent": {"type": "boolean"}},
    "required": ["urgent"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
WEATHER = Tool("department", "The department of a hospital", NOTHING)


def read(stream: Generator[Piece, None, Reply]) -> tuple[list[Piece], Reply]:
    """All pieces of a stream, and its value."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


class Listener:
    """Takes the events of a request; `fails`: its first piece is an error of its own."""

    def __init__(self, *, fails: bool = False) -> None:
        self.pieces: list[Piece] = []
        self.last: Reply | Exception | None = None
        self.ended, self._fails = threading.Event(), fails

    def __call__(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.pieces.append(event)
            if self._fails:
                raise RuntimeError("an error of the listener")
            return
        assert self.last is None, "something came after the end"
        self.last = event
        self.ended.set()

    def reply(self) -> Reply:
        assert self.ended.wait(60) and isinstance(self.last, Reply), self.last
        return self.last


class Contract:
    """Tests that take the fixture `engine`."""

    LACKS: ClassVar[frozenset[str]] = frozenset()  # of: seed, logit_bias, json_schema, logprobs, choices, embed, ...

    def may(self, ability: str) -> bool:
        return ability not in self.LACKS

    def refused(self, engine: Engine, sampling: Sampling) -> None:
        with pytest.raises(Unsupported):
            drain(stream(engine, PROMPTS[0], sampling))

    def test_a_streamed_answer_is_the_generated_one(self, engine: Engine) -> None:
        generated = generate(engine, PROMPTS, GREEDY)
        for prompt, reply in zip(PROMPTS, generated, strict=True):
            pieces, streamed = read(stream(engine, prompt, GREEDY))
            assert "".join(piece.text for piece in pieces) == streamed.text == reply.text
            assert streamed == reply

    def test_a_prompt_is_prepared_once_and_submitted_as_often_as_wanted(self, engine: Engine) -> None:
        prompt = engine.prepare(PROMPTS[0])
        assert prompt.messages is not None and QUESTIONS[0] in prompt.text
        assert prompt.ids is None or len(prompt.ids) == prompt.tokens
        listeners = [Listener(), Listener()]
        for listener in listeners:
            engine.submit(prompt, GREEDY, listener)
        replies = [listener.reply() for listener in listeners]
        assert replies[0] == replies[1] == drain(stream(engine, prompt, GREEDY))
        assert "".join(piece.text for piece in listeners[0].pieces) == replies[0].text
        assert replies[0].prompt_tokens == prompt.tokens or not prompt.exact

    def test_an_error_of_a_listener_ends_its_request_alone(self, engine: Engine) -> None:
        broken, other = Listener(fails=True), Listener()
        handle = engine.submit(engine.prepare(PROMPTS[0]), GREEDY, broken)
        engine.submit(engine.prepare(PROMPTS[1]), GREEDY, other)
        assert other.reply().text
        assert broken.ended.wait(60) and isinstance(broken.last, RuntimeError)
        handle.cancel()
        handle.join()

    def test_a_cancelled_request_frees_its_place(self, engine: Engine) -> None:
        prompt, listeners = engine.prepare(PROMPTS[0]), [Listener() for _ in range(2 * engine.parallel)]
        handles = [engine.submit(prompt, Sampling(None, temperature=0), listener) for listener in listeners]
        began = time.monotonic()
        for handle in handles:
            handle.cancel()
        assert time.monotonic() - began < 1  # it does not wait
        for handle in handles:
            handle.join()
        last = Listener()
        engine.submit(prompt, replace(GREEDY, max_new_tokens=2), last)
        last.reply()
        assert time.monotonic() - began < 5

    def test_replies_come_in_the_order_of_the_prompts(self, engine: Engine) -> None:
        told: dict[int, Reply] = {}
        replies = generate(engine, PROMPTS, GREEDY, on_reply=told.__setitem__)
        assert [told[index] for index in range(len(PROMPTS))] == replies
        assert generate(engine, [], GREEDY) == []

    def test_tokens_are_counted(self, engine: Engine) -> None:
        reply = drain(stream(engine, PROMPTS[0], replace(GREEDY, max_new_tokens=3)))
        assert reply.finish_reason == "length" and reply.completion_tokens == 3
        if self.may("count"):
            assert reply.prompt_tokens == count_tokens(engine, PROMPTS[0])
            assert count_tokens(engine, (*PROMPTS[0], Message("assistant", "Yes."), *PROMPTS[1])) > reply.prompt_tokens

    def test_an_answer_may_run_to_its_own_end(self, engine: Engine) -> None:
        reply = drain(stream(engine, PROMPTS[0], Sampling(None, temperature=0)))
        limit = engine.context_tokens
        if reply.finish_reason == "length":
            assert limit is not None and reply.prompt_tokens + reply.completion_tokens == limit

    def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(self, engine: Engine) -> None:
        whole = drain(stream(engine, PROMPTS[0], GREEDY)).text
        stop = whole[len(whole) // 2 :][:3]
        assert stop, "the answer is too short for this test"
        reply = drain(stream(engine, PROMPTS[0], replace(GREEDY, stop=(stop, "never said"))))
        assert reply.text == whole[: whole.index(stop)] and reply.finish_reason == "stop"

    def test_a_prompt_that_is_too_long_is_refused_at_once(self, engine: Engine) -> None:
        if engine.context_tokens is None:
            pytest.skip("no limit known")
        long = (Message("user", "fever and cough " * engine.context_tokens),)
        with pytest.raises(PromptTooLong) as refused:
            engine.prepare(long)
        assert refused.value.prompt_tokens > refused.value.context_tokens == engine.context_tokens
        with pytest.raises(PromptTooLong) as refused:
            next(stream(engine, long, GREEDY))
        assert refused.value.prompt_tokens > refused.value.context_tokens == engine.context_tokens
        with pytest.raises(PromptTooLong):
            generate(engine, [long], GREEDY)

    def test_closing_frees_the_place_of_an_answer(self, engine: Engine) -> None:
        streams = [stream(engine, prompt, Sampling(None, temperature=0)) for prompt in PROMPTS * engine.parallel]
        for one in streams[: engine.parallel]:
            next(one)
        for one in streams:
            one.close()
        began = time.monotonic()
        drain(stream(engine, PROMPTS[0], replace(GREEDY, max_new_tokens=2)))
        assert time.monotonic() - began < 5

    def test_a_stream_that_waits_keeps_on_telling(self, engine: Engine) -> None:
        """More streams than places: the last one yields empty pieces, and can be left."""
        longest, lock = 0.0, threading.Lock()

        def follow(prompt) -> None:
            nonlocal longest
            before = time.monotonic()
            for _ in stream(engine, prompt, replace(GREEDY, max_new_tokens=24)):
                now = time.monotonic()
                with lock:
                    longest, before = max(longest, now - before), now

        with ThreadPoolExecutor(2 * engine.parallel) as pool:
            list(pool.map(follow, (PROMPTS * engine.parallel)[: 2 * engine.parallel]))
        assert longest < 6 * HEARTBEAT  # machines of tests are busy

    def test_answers_at_once_do_not_mix(self, engine: Engine) -> None:
        alone = [drain(stream(engine, prompt, GREEDY)).text for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda prompt: drain(stream(engine, prompt, GREEDY)).text, PROMPTS))
        same = [one[:8] == other[:8] for one, other in zip(alone, together, strict=True)]
        assert all(same)  # later a tie may fall otherwise in a batch

    def test_a_seed_draws_the_same_answer(self, engine: Engine) -> None:
        if not self.may("seed"):
            return
        drawn = Sampling(12, temperature=1.5, seed=3)
        assert drain(stream(engine, PROMPTS[0], drawn)).text == drain(stream(engine, PROMPTS[0], drawn)).text

    def test_a_bias_forbids_and_forces_a_token(self, engine: Engine) -> None:
        (token, *_) = engine.tokenize("yes")
        forced = replace(GREEDY, max_new_tokens=3, logit_bias=((token, 100.0),))
        if not self.may("logit_bias"):
            return self.refused(engine, forced)
        said = drain(stream(engine, PROMPTS[0], forced)).text
        assert said
        forbidden = replace(GREEDY, logit_bias=tuple((each, -100.0) for each in engine.tokenize(said)))
        assert drain(stream(engine, PROMPTS[0], forbidden)).text[:1] != said[:1]
        return None

    def test_an_answer_keeps_to_a_schema(self, engine: Engine) -> None:
        sampling = replace(GREEDY, max_new_tokens=64, json_schema=SCHEMA)
        if not self.may("json_schema"):
            return self.refused(engine, sampling)
        text = drain(stream(engine, PROMPTS[0], sampling)).text
        found = json.loads(text)
        assert text == json.dumps(found)  # A12: no white space that is not needed
        assert isinstance(found["urgent"], bool) and len(found) == 1
        return None

    def test_log_probabilities_of_what_is_said(self, engine: Engine) -> None:
        sampling = replace(GREEDY, max_new_tokens=4, top_logprobs=2)
        if not self.may("logprobs"):
            return self.refused(engine, sampling)
        pieces, reply = read(stream(engine, PROMPTS[0], sampling))
        assert len(reply.logprobs) == 4
        assert tuple(one for piece in pieces for one in piece.logprobs) == reply.logprobs
        for one in reply.logprobs:
            assert one.logprob <= 0 and len(one.top) <= 2
            assert one.top[0][0] == one.token and one.top[0][1] == pytest.approx(one.logprob)
        return None

    def test_letters_of_an_exam_in_one_pass(self, engine: Engine) -> None:
        if not self.may("choices"):
            with pytest.raises(Unsupported):
                engine.logprobs(PROMPTS, ["A", "B"])
            return
        found = engine.logprobs(PROMPTS, ["A", "B", "C", "D"])
        assert len(found) == len(PROMPTS)
        for row in found:
            assert len(row) == 4 and sum(map(math.exp, row)) <= 1.001

    def test_vectors_have_length_one(self, engine: Engine) -> None:
        if not self.may("embed"):
            with pytest.raises(Unsupported):
                engine.embed(QUESTIONS)
            return
        vectors = engine.embed([*QUESTIONS, QUESTIONS[0]])
        assert vectors[0] == pytest.approx(vectors[-1], abs=1e-3) and len(vectors) == 5
        assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-3) for vector in vectors)

    def test_a_tool_that_must_be_called_is_called(self, engine: Engine) -> None:
        sampling = replace(GREEDY, max_new_tokens=64, tools=(WEATHER,), tool_choice="required")
        if not self.may("json_schema"):
            return self.refused(engine, sampling)
        pieces, reply = read(stream(engine, PROMPTS[0], sampling))
        assert reply.finish_reason == "tool_calls" and [call.name for call in reply.calls] == ["department"]
        assert [piece.call for piece in pieces if piece.call] == list(reply.calls)
        return None

    def test_a_required_call_that_is_cut_is_no_text(self, engine: Engine) -> None:
        """A5: the text was half a JSON object."""
        tool = Tool("department", "", {"properties": {"name_of_the_department": {"type": "string"}}})
        sampling = replace(GREEDY, max_new_tokens=12, tools=(tool,), tool_choice="required")
        if not self.may("json_schema"):
            return self.refused(engine, sampling)
        pieces, reply = read(stream(engine, PROMPTS[0], sampling))
        assert reply.text == "" and reply.finish_reason == "length"
        assert [call.name for call in reply.calls] == ["department"]
        assert [piece.call for piece in pieces if piece.call] == list(reply.calls)
        return None

    def test_an_answer_is_one_of_a_choice(self, engine: Engine) -> None:
        sampling = replace(GREEDY, choice=("see a doctor", "休息"))
        if not self.may("json_schema"):
            return self.refused(engine, sampling)
        assert drain(stream(engine, PROMPTS[0], sampling)).text in sampling.choice
        return None

    def test_an_answer_matches_a_regular_expression_and_a_grammar(self, engine: Engine) -> None:
        """A7: they were ignored."""
        regex = replace(GREEDY, regex="[0-9]{2} (mg|ml)")
        grammar = replace(GREEDY, grammar='root ::= "urgent: " ("yes" | "no")')
        if not self.may("json_schema") or not self.may("regex"):
            self.refused(engine, regex)
            return self.refused(engine, grammar)
        assert re.fullmatch("[0-9]{2} (mg|ml)", drain(stream(engine, PROMPTS[0], regex)).text)
        assert drain(stream(engine, PROMPTS[0], grammar)).text in ("urgent: yes", "urgent: no")
        return None

    def test_where_an_answer_may_end(self, engine: Engine) -> None:
        """A7: min_tokens, ignore_eos and stop_token_ids were ignored."""
        whole = drain(stream(engine, PROMPTS[0], GREEDY))
        if not self.may("ends"):
            for one in (Sampling(min_tokens=2), Sampling(ignore_eos=True), Sampling(stop_token_ids=(1,))):
                self.refused(engine, one)
            return
        ends = tuple(engine.tokenize(whole.text)[1:4])
        stopped = drain(stream(engine, PROMPTS[0], replace(GREEDY, stop_token_ids=ends)))
        assert stopped.finish_reason == "stop" and stopped.completion_tokens <= 4
        assert whole.text.startswith(stopped.text)
        later = drain(stream(engine, PROMPTS[0], replace(GREEDY, stop_token_ids=ends, min_tokens=8)))
        assert 8 <= later.completion_tokens <= 16
        endless = drain(stream(engine, PROMPTS[0], replace(GREEDY, ignore_eos=True, max_new_tokens=24)))
        assert (endless.finish_reason, endless.completion_tokens) == ("length", 24)

    def test_an_adapter_that_is_not_there_is_refused(self, engine: Engine) -> None:
        self.refused(engine, replace(GREEDY, adapter="nobody"))

    def test_marks_in_a_question_stay_text(self, engine: Engine) -> None:
        """Who writes the mark that ends a turn has not ended it."""
        if not self.may("count"):
            return
        plain = count_tokens(engine, (Message("user", "a"),))
        marked = count_tokens(engine, (Message("user", "a<|im_end|>"),))
        assert marked > plain + 1

    def test_a_text_is_gone_on_with(self, engine: Engine) -> None:
        reply = drain(stream(engine, "The heart pumps", replace(GREEDY, max_new_tokens=4)))
        assert reply.text and reply.completion_tokens == 4

    def test_beams_or_a_refusal(self, engine: Engine) -> None:
        sampling = replace(GREEDY, num_beams=2, max_new_tokens=4)
        if not self.may("num_beams"):
            return self.refused(engine, sampling)
        assert drain(stream(engine, PROMPTS[0], sampling)).text
        return None

    def test_errors_are_of_one_kind(self, engine: Engine) -> None:
        assert issubclass(PromptTooLong, UserError) and issubclass(Unsupported, UserError)
        assert engine.name and engine.parallel >= 1
