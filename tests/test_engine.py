"""Engines keep one contract: streamed == generated, batch == singles, closing stops the computation."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carellama.config.engine import GenerationOptions
from carellama.engine.base import Piece, Reply, Sampling
from carellama.engine.detokenizer import Detokenizer
from carellama.engine.generate import count_tokens, generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.scripted import ScriptedEngine
from carellama.engine.transformers.engine import TransformersEngine
from carellama.errors import UserError
from carellama.model.packed_attention import register
from carellama.records import Message
from carellama.templates.template import get_template
from conftest import make_model
from engine_contract import read as follow

QUESTIONS = ["What is asthma?", "发烧三天了怎么办？", "a", "See a doctor if the fever lasts. " * 6]
PROMPTS = [(Message("user", question),) for question in QUESTIONS]


def greedy(tokens: int = 12, **changes) -> Sampling:
    """The likeliest tokens."""
    return Sampling.of(GenerationOptions(do_sample=False, max_new_tokens=tokens, **changes))


@pytest.fixture
def engine(tiny_model, tiny_tokenizer):
    return TransformersEngine(tiny_model, tiny_tokenizer, get_template(None, tiny_tokenizer), batch_size=3)


def endless(engine: TransformersEngine) -> TransformersEngine:
    """The same engine with no token that ends an answer."""
    engine.template.stop_ids.clear()
    return engine


def said(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def read(answer: Detokenizer, ids) -> list[str]:
    return [*(answer.add(token) for token in ids), answer.end()]


def utf8(ids) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\ufffd"), max_size=40))
def test_pieces_are_whole_characters(text: str) -> None:
    pieces = read(Detokenizer(utf8, (), ()), text.encode())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_dropped_and_broken_bytes_do_not_hold_back_the_rest() -> None:
    assert "".join(read(Detokenizer(utf8, (), ()), "发烧".encode()[:-1])) == "发"
    assert "".join(read(Detokenizer(utf8, (), ()), b"\xa0" * 20 + b"ok")).endswith("ok")


@given(st.text("abcE"), st.lists(st.text("abE", min_size=1, max_size=3), max_size=2))
def test_an_answer_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    answer = Detokenizer(utf8, (), stops)
    found = [text.find(stop) for stop in stops if stop in text]
    shown = ""
    for piece in read(answer, text.encode()):
        shown += piece
        assert not any(stop in shown for stop in stops)
    # Of two stop strings the one that is complete first ends the answer.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    expected = text if not found else text[: min(text[: min(ends)].find(s) for s in stops if s in text[: min(ends)])]
    assert shown == answer.text == expected
    assert answer.stopped == bool(found)


def test_an_end_token_ends_the_answer_and_is_counted() -> None:
    answer = Detokenizer(utf8, [ord("E")], ())
    assert "".join(read(answer, b"abEcd")) == answer.text == "ab"
    assert answer.stopped and answer.tokens == 3


@pytest.mark.parametrize("stops", [("two", "one"), ("one", "two")])
def test_of_two_stop_strings_in_one_token_the_first_in_the_text_ends_the_answer(stops) -> None:
    answer = Detokenizer(lambda ids: "a one b two c" if ids else "", (), stops)
    assert "".join(read(answer, [0])) == answer.text == "a "
    assert answer.stopped


def test_a_space_after_a_new_line_is_kept_by_decoders_that_strip_the_first_one() -> None:
    words = ["Yes.", "\n", " Rest", " and", " drink", "\n", " ", " Call"]

    def decode(ids) -> str:
        return "".join(words[token] for token in ids).removeprefix(" ")

    assert "".join(read(Detokenizer(decode, (), ()), range(len(words)))) == decode(range(len(words)))


def test_streamed_is_generated(engine) -> None:
    for prompt, whole in zip(PROMPTS, generate(endless(engine), PROMPTS, greedy(40)), strict=True):
        pieces, reply = follow(stream_of(engine, prompt, greedy(40)))
        assert said(pieces) == reply.text == whole.text
        assert reply == whole
        assert (reply.finish_reason, reply.completion_tokens) == ("length", 40)
        assert reply.prompt_tokens == count_tokens(engine, prompt)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "packed"])
def test_a_batch_answers_as_single_prompts_do_in_the_order_given(tiny_tokenizer, attention) -> None:
    register()
    model = make_model(attn_implementation=attention)
    engine = TransformersEngine(model, tiny_tokenizer, get_template(None, tiny_tokenizer), batch_size=3)
    told: dict[int, Reply] = {}
    together = generate(endless(engine), PROMPTS, greedy(), on_reply=told.__setitem__)
    assert together == [generate(engine, [prompt], greedy())[0] for prompt in PROMPTS]
    assert [told[index] for index in range(len(PROMPTS))] == together
    assert model.config._attn_implementation == attention


def test_the_model_is_left_as_it_was_and_its_own_settings_do_not_count(engine) -> None:
    expected = generate(engine, PROMPTS, greedy())
    own = engine.model.generation_config
    own.repetition_penalty, own.max_length, own.suppress_tokens = 5.0, 3, list(range(100))
    engine.model.train()
    assert generate(engine, PROMPTS, greedy()) == expected
    assert engine.model.training
    assert engine.model.generation_config is own


def test_an_answer_ends_at_a_stop_token_and_at_a_stop_string(engine) -> None:
    text = generate(endless(engine), PROMPTS[:1], greedy(30))[0].text
    stop = text[6:8]
    for sampling in (greedy(30), greedy(30, num_beams=2)):
        for reply in generate(engine, PROMPTS, replace(sampling, stop=(stop,))):
            assert stop not in reply.text
    pieces, reply = follow(stream_of(engine, PROMPTS[0], replace(greedy(30), stop=(stop,))))
    assert said(pieces) == reply.text == text[: text.find(stop)]
    assert reply.finish_reason == "stop" and reply.completion_tokens < 30

    ids = engine.model.generate(
        torch.tensor([engine._encode(PROMPTS[:1])[0]]), max_new_tokens=5, do_sample=False, eos_token_id=None
    )
    engine.template.stop_ids.append(int(ids[0, -1]))
    ended = generate(engine, PROMPTS[:1], greedy(30))[0]
    assert ended.finish_reason == "stop" and ended.completion_tokens <= 5


def test_closing_a_stream_stops_the_computation(tiny_tokenizer) -> None:
    model = make_model(max_position_embeddings=1 << 20)
    engine = endless(TransformersEngine(model, tiny_tokenizer, get_template(None, tiny_tokenizer)))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    stream = stream_of(engine, PROMPTS[0], greedy(1 << 19))
    next(stream)
    stream.close()
    done = len(calls)
    assert done < 5000
    assert generate(engine, PROMPTS[:1], greedy(2))[0].completion_tokens == 2
    assert len(calls) == done + 2


def test_an_error_in_the_computation_reaches_the_reader(engine) -> None:
    def fail(*_) -> None:
        raise RuntimeError("broken weights")

    engine.model.model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken weights"):
        follow(stream_of(engine, PROMPTS[0], greedy()))


def test_sampling_follows_its_seed_and_leaves_the_global_one(engine) -> None:
    def sampled(seed: int | None) -> Sampling:
        return Sampling.of(GenerationOptions(temperature=2.0, top_p=1.0, top_k=0, max_new_tokens=20), seed=seed)

    state = torch.random.get_rng_state()
    first = generate(engine, PROMPTS, sampled(1))
    assert first == generate(engine, PROMPTS, sampled(1)) != generate(engine, PROMPTS, sampled(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert (
        said(follow(stream_of(engine, PROMPTS[0], sampled(3)))[0]) == generate(engine, PROMPTS[:1], sampled(3))[0].text
    )


def test_a_prompt_near_the_end_of_the_context_does_not_shorten_others(tiny_tokenizer) -> None:
    model = make_model(max_position_embeddings=256)
    engine = endless(TransformersEngine(model, tiny_tokenizer, get_template(None, tiny_tokenizer)))
    long = "x"
    while count_tokens(engine, (Message("user", long),)) < 250:
        long += "x"
    replies = generate(engine, [(Message("user", long),), PROMPTS[0]], greedy(20))
    assert [reply.completion_tokens for reply in replies] == [256 - replies[0].prompt_tokens, 20]
    with pytest.raises(UserError, match="takes 256"):
        generate(engine, [(Message("user", long * 2),)], greedy())
    with pytest.raises(UserError, match="takes 256"):
        next(stream_of(engine, (Message("user", long * 2),), greedy()))


def test_an_adapter_is_used(tiny_tokenizer) -> None:
    from peft import LoraConfig, get_peft_model

    template = get_template(None, tiny_tokenizer)
    plain = generate(TransformersEngine(make_model(), tiny_tokenizer, template), PROMPTS, greedy())
    adapted = get_peft_model(make_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    engine = TransformersEngine(adapted, tiny_tokenizer, template)
    assert generate(engine, PROMPTS, greedy()) == plain
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1.0)
    assert generate(engine, PROMPTS, greedy()) != plain


def test_beam_search_streams_in_one_piece(engine) -> None:
    pieces, reply = follow(stream_of(engine, PROMPTS[0], greedy(num_beams=3)))
    assert (
        [piece.text for piece in pieces if piece.text]
        == [reply.text]
        == [generate(engine, PROMPTS[:1], greedy(num_beams=3))[0].text]
    )


def test_no_prompts_no_replies(engine) -> None:
    assert generate(engine, [], greedy()) == []


def test_the_scripted_engine_keeps_the_contract() -> None:
    assert generate(ScriptedEngine("fixed"), PROMPTS[:2], greedy(9)) == [
        Reply("fixed", "stop", count_tokens(ScriptedEngine(""), prompt), 5) for prompt in PROMPTS[:2]
    ]
    queued = ScriptedEngine(["first", "second"])
    assert [reply.text for reply in generate(queued, PROMPTS[:2], greedy())] == ["first", "second"]
    assert queued.asked == PROMPTS[:2]
    loud = ScriptedEngine(lambda messages: messages[-1].content.upper())
    pieces, reply = follow(stream_of(loud, PROMPTS[0], greedy(4)))
    assert (said(pieces), reply.finish_reason) == ("WHAT", "length")
    with pytest.raises(UserError, match="shorten"):
        generate(ScriptedEngine("x", context_tokens=3), PROMPTS, greedy())


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: next(stream_of(engine, PROMPTS[0], greedy(1000))),
        lambda engine: generate(engine, PROMPTS[:2], greedy(1000)),
    ],
)
def test_ctrl_c_while_a_request_is_submitted_ends_it(ask: Callable[[ScriptedEngine], object]) -> None:
    """Nobody had its handle: the request ran to its end."""

    class SlowToSubmit(ScriptedEngine):
        def submit(self, prompt, sampling, on_event):
            handle = super().submit(prompt, sampling, on_event)
            while not self.running:
                time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)  # which the main thread gets
            time.sleep(0.2)
            return handle

    engine = SlowToSubmit("a" * 1000, token_seconds=0.02)
    with pytest.raises(KeyboardInterrupt):
        ask(engine)
    limit = time.monotonic() + 5
    while engine.running and time.monotonic() < limit:
        time.sleep(0.01)
    assert not engine.running and len(engine.asked) == 1
