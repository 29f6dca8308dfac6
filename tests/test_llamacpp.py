"""The engine on llama.cpp: the contract of all engines, and what is its own. Most of it needs the embedded model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carellama.engine.base import Sampling, Unavailable, Unsupported, drain
from carellama.engine.generate import stream as stream_of
from carellama.engine.llamacpp import server
from carellama.engine.llamacpp.engine import LlamaCppEngine, context_per_slot, kv_bytes_per_token
from carellama.engine.llamacpp.scores import CHOICE_TOP_LOGPROBS
from carellama.errors import UserError
from carellama.model.gguf.read import Header
from carellama.model.zoo.resolve import fetch
from carellama.records import Message
from conftest import make_model, make_tokenizer
from engine_contract import GREEDY, PROMPTS, Contract
from tiny_gguf import write_tiny_gguf

pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(fetch("smollm2-135m"), parallel=4, context_tokens=256, threads=1)
    yield engine
    engine.close()


@pytest.mark.slow
class TestLlamaCpp(Contract):
    LACKS = frozenset({"num_beams"})

    @pytest.fixture
    def engine(self, llama: LlamaCppEngine) -> LlamaCppEngine:
        return llama


def header(**facts: object) -> Header:
    return Header({"general.architecture": "llama", **{f"llama.{name}": fact for name, fact in facts.items()}}, 0)


def test_the_context_is_what_memory_allows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    shape = {
        "block_count": 30, "embedding_length": 576, "attention.head_count": 9, "attention.head_count_kv": 3,
        "context_length": 131072,
    }  # fmt: skip
    ours = header(**shape)
    assert kv_bytes_per_token(ours) == 30 * 2 * 3 * 64 * 2  # layers, keys and values, heads, width, bytes
    monkeypatch.setattr("carellama.engine.llamacpp.engine.free_memory_bytes", lambda: 1 << 40)
    assert context_per_slot(ours, None, 8) == 8192 and context_per_slot(ours, 100_000, 8) == 100_000
    monkeypatch.setattr(
        "carellama.engine.llamacpp.engine.free_memory_bytes", lambda: 2 * 8 * 4000 * kv_bytes_per_token(ours)
    )
    assert context_per_slot(ours, None, 8) == 4000 // 256 * 256 and "3,840 tokens" in capsys.readouterr().err
    with pytest.raises(UserError, match="at most 131,072"):
        context_per_slot(ours, 200_000, 1)


@pytest.mark.slow
def test_penalties_count_the_answer_alone(llama: LlamaCppEngine) -> None:
    """As OpenAI defines them: what the prompt has said many times may be said without a penalty."""
    text = "1 2 1 2 1 2 1 2 1 2 1"

    def said(**penalties: Any) -> str:
        return drain(stream_of(llama, text, replace(GREEDY, max_new_tokens=8, **penalties))).text

    assert said().startswith(" 2 1 2")
    assert said(frequency_penalty=2.0).startswith(" 2 1") and said(frequency_penalty=2.0) != said()
    once = said(presence_penalty=1e4)
    tokens = llama.tokenize(once)
    assert once.startswith(" 2") and len(set(tokens)) == len(tokens) > 2
    assert not said(repetition_penalty=5.0).startswith(" 2")  # which counts the prompt too


@pytest.mark.slow
@pytest.mark.parametrize("text", ["Asthma is a disease of", "感冒是一种常见的"])
def test_an_answer_by_steps_is_the_same_answer(llama: LlamaCppEngine, text: str) -> None:
    """A presence penalty asks for each token alone; one of nearly nothing changes nothing."""
    for changes in ({}, {"stop": ("a", "，")}, {"max_new_tokens": 1}, {"top_logprobs": 2}):
        plain, stepped = (
            drain(stream_of(llama, text, replace(GREEDY, **{"max_new_tokens": 24} | changes, presence_penalty=size)))
            for size in (0.0, 1e-6)
        )
        assert (stepped.text, stepped.finish_reason) == (plain.text, plain.finish_reason)
        assert [one.token for one in stepped.logprobs] == [one.token for one in plain.logprobs]
    drawn = replace(GREEDY, max_new_tokens=24, temperature=2.0, seed=5, presence_penalty=1.0)
    first, again, other = (drain(stream_of(llama, text, one)).text for one in (drawn, drawn, replace(drawn, seed=6)))
    assert first == again != other
    with pytest.raises(Unsupported, match="presence_penalty"):
        drain(stream_of(llama, text, replace(drawn, json_schema={"type": "object"})))


@pytest.mark.slow
def test_an_answer_by_steps_that_is_left_frees_its_place(llama: LlamaCppEngine) -> None:
    for _ in range(llama.parallel + 1):
        answer = stream_of(llama, PROMPTS[0], replace(GREEDY, max_new_tokens=200, presence_penalty=0.5))
        assert next(piece for piece in answer if piece.text)
        answer.close()
    assert drain(stream_of(llama, PROMPTS[0], replace(GREEDY, max_new_tokens=4))).completion_tokens == 4


@pytest.mark.slow
def test_a_conversation_that_goes_on_is_not_computed_anew(llama: LlamaCppEngine) -> None:
    ids = list(llama.prepare(PROMPTS[0]).ids or ())

    def cached(sampling: Sampling) -> int:
        events: list[dict[str, Any]] = []

        def note(event: dict[str, Any]) -> bool:
            events.append(event)
            return False

        body = llama._request_body(ids, 1, sampling) | {"stream": False}
        llama._server.complete(body, note)
        return events[0]["usage"]["prompt_tokens_details"]["cached_tokens"]

    cached(GREEDY)
    assert cached(GREEDY) == len(ids) - 1  # the last is needed for what comes next
    assert cached(replace(GREEDY, seed=1)) == 0  # the same draw needs the same sums


@pytest.mark.slow
def test_letters_that_are_unlikely_are_found_too(llama: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = ["A", "B"]
    likely = llama.logprobs(PROMPTS[:1], letters)
    monkeypatch.setattr("carellama.engine.llamacpp.scores.CHOICE_TOP_LOGPROBS", 1)
    assert llama.logprobs(PROMPTS[:1], letters)[0] == pytest.approx(likely[0], abs=0.02)


@pytest.mark.slow
def test_letters_are_found_where_the_likeliest_token_is_part_of_a_character(llama: LlamaCppEngine) -> None:
    """llama.cpp tells nothing of such a token: all choices had the log-probability minus infinity."""
    ids = llama.tokenize("Repeat: 发烧发烧发烧发烧发烧发烧发", begin=True)
    for cut in (0, 1, 2):
        known = llama._scores("").likeliest(ids[: len(ids) - cut], [])
        assert len(known) == CHOICE_TOP_LOGPROBS and max(one["logprob"] for one in known) > -2


@pytest.mark.slow
def test_log_probabilities_of_a_prompt(llama: LlamaCppEngine) -> None:
    """A11: refused. Held to those of the tokens that the model writes itself, and of parts of characters."""
    ids = llama.tokenize("Asthma is a disease of", begin=True)
    reply = drain(stream_of(llama, ids, replace(GREEDY, max_new_tokens=6, top_logprobs=3)))
    written = llama.tokenize(reply.text)
    assert len(written) == len(reply.logprobs)
    scored = drain(llama.prompt_logprobs([*ids, *written], 3))
    assert len(scored) == len(ids) + len(written) and scored[0].logprob != scored[0].logprob
    assert "".join(one.token for one in scored) == llama.detokenize([*ids, *written])
    for given, said in zip(scored[len(ids) :], reply.logprobs, strict=True):
        assert given.token == said.token == given.top[0][0]
        assert given.logprob == pytest.approx(said.logprob, abs=0.1)  # computed one by one, and in a batch
        assert len(given.top) == 3
    marked = llama.tokenize("<|im_end|>\n感冒", marks=True)
    parts = drain(llama.prompt_logprobs(marked, 1))
    assert parts[0].token == "<|im_end|>" and all(-60 < one.logprob < 0 for one in parts[1:])
    with pytest.raises(UserError, match="takes 256 in all"):
        drain(llama.prompt_logprobs(marked * 100, 1))


@pytest.mark.slow
def test_scoring_that_is_left_frees_its_place(llama: LlamaCppEngine) -> None:
    streams = [llama.prompt_logprobs(llama.tokenize("a b c d e f g"), 1) for _ in range(2 * llama.parallel)]
    for stream in streams:
        next(stream)
        stream.close()
    assert len(drain(llama.prompt_logprobs(llama.tokenize("a b"), 1))) == 2


@pytest.mark.slow
def test_a_schema_that_can_not_be_kept_to_is_refused(llama: LlamaCppEngine) -> None:
    with pytest.raises(Unsupported, match="JSON schema"):
        drain(stream_of(llama, PROMPTS[0], replace(GREEDY, json_schema={"type": "nonsense"})))
    anything = drain(stream_of(llama, PROMPTS[0], replace(GREEDY, json_schema={})))
    assert anything.text.startswith("{")


@pytest.mark.slow
def test_what_llama_cpp_would_drop_is_refused(llama: LlamaCppEngine) -> None:
    with pytest.raises(UserError, match="tokens 0 to 49,151"):
        drain(stream_of(llama, PROMPTS[0], replace(GREEDY, logit_bias=((49152, 1.0),))))
    with pytest.raises(UserError, match="stop_token_ids names token 49152"):
        drain(stream_of(llama, PROMPTS[0], replace(GREEDY, stop_token_ids=(49152,))))
    with pytest.raises(UserError, match="empty"):
        drain(stream_of(llama, "", GREEDY))
    with pytest.raises(UserError, match="1 to 256 tokens"):
        llama.embed(["fever " * 300])


@pytest.mark.slow
def test_marks_are_tokens_in_markup_and_text_in_words(llama: LlamaCppEngine) -> None:
    end = 2  # <|im_end|> of this model
    ids = llama.prepare((Message("user", "a<|im_end|>\ue0000\ue001"),)).ids
    assert list(ids or ()).count(end) == 2  # of the system message and of the question
    assert llama.tokenize("<|im_end|>") != [end] and len(llama.tokenize("<|im_end|>")) > 1


@pytest.mark.slow
def test_nothing_that_is_said_reaches_the_log(llama: LlamaCppEngine, capfd: pytest.CaptureFixture) -> None:
    drain(stream_of(llama, (Message("user", "My name is Quintessa Marlowe"),), replace(GREEDY, top_logprobs=1)))
    llama.embed(["Quintessa Marlowe"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_signals_stay_those_of_python(llama: LlamaCppEngine) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        drain(stream_of(llama, PROMPTS[0], GREEDY))
    assert drain(stream_of(llama, PROMPTS[0], GREEDY)).text


def test_a_signal_while_a_model_loads_comes_after_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exception of a handler dropped the server that was being made, and its destructor waited for ever."""
    made = []

    class Native:
        def __init__(self, parameters: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # Python would run its handler here
            made.append(parameters)

    monkeypatch.setattr(server, "import_xllamacpp", lambda: SimpleNamespace(Server=Native))
    monkeypatch.setattr(server, "_parameters", lambda *_: "parameters")
    with pytest.raises(KeyboardInterrupt):
        server.Server(server.ServerOptions(tmp_path / "model.gguf", context_tokens=8))
    assert made == ["parameters"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_an_engine_that_is_closed_says_so() -> None:
    engine = LlamaCppEngine(fetch("smollm2-135m"), parallel=1, context_tokens=256, threads=1)
    under_way = stream_of(engine, PROMPTS[0], Sampling(None, temperature=0))
    while not next(under_way).text:
        pass
    folder = engine._server._held.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    engine.close()
    with pytest.raises(Unavailable):
        drain(under_way)
    with pytest.raises(Unavailable):
        drain(stream_of(engine, PROMPTS[0], GREEDY))
    engine.close()
    assert not folder.exists()


@pytest.mark.slow
def test_neither_torch_nor_transformers_is_loaded() -> None:
    """And a program that forgets to close the engine ends well."""
    code = (
        "import sys\n"
        "from carellama.engine.base import Sampling, drain\n"
        "from carellama.engine.generate import stream\n"
        "from carellama.engine.llamacpp.engine import LlamaCppEngine\n"
        "from carellama.model.zoo.resolve import fetch\n"
        "from carellama.records import Message\n"
        "engine = LlamaCppEngine(fetch('smollm2-135m'), parallel=1, context_tokens=128, threads=1)\n"
        "drain(stream(engine, (Message('user', 'hi'),), Sampling(2, temperature=0)))\n"
        "next(stream(engine, (Message('user', 'hi'),), Sampling(50)))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_a_file_that_is_no_model_is_one_line(tmp_path) -> None:
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(16))  # a whole file that holds nothing
    with pytest.raises(UserError, match="cannot load"):
        LlamaCppEngine(damaged, template="default", parallel=1, context_tokens=64)


def test_a_broken_chat_template_is_named_and_another_is_taken(tmp_path: Path) -> None:
    """llama.cpp parses the file's template as well, and refused the file as damaged or too large for the memory."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}\n{% if %}"
    path = write_tiny_gguf(tmp_path / "a.gguf", make_model(len(tokenizer)), tokenizer)
    with pytest.raises(UserError, match=r"no valid Jinja \(line 2: .*give --template"):
        LlamaCppEngine(path, parallel=1, context_tokens=64)
    engine = LlamaCppEngine(path, template="chatml", parallel=1, context_tokens=64)
    try:
        assert engine.prepare([Message("user", "x")]).ids
    finally:
        engine.close()
