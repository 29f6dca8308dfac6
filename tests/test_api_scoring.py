"""/v1/completions for evaluation harnesses and for clients that write the chat format themselves (A9, A11).

lm-evaluation-harness (`local-completions`) sends token ids, and reads the log-probabilities of the prompt from `echo`:
EleutherAI/lm-evaluation-harness, lm_eval/models/openai_completions.py.
"""

from __future__ import annotations

import json
from operator import itemgetter

import httpx2
import pytest
import torch

from api_server import running, until
from carellama.engine.base import Piece, Reply, Sampling, TokenLogprob, drain
from carellama.engine.generate import stream
from carellama.engine.openai.engine import OpenAIEngine
from carellama.engine.scripted import ScriptedEngine
from carellama.engine.token_text import raw_bytes, shown, token_text, told_text
from carellama.engine.transformers.engine import TransformersEngine
from carellama.serve.api.formatting import CompletionFormatter, logprobs_of, offsets
from carellama.templates.template import get_template
from conftest import make_model, make_tokenizer

GREEDY = Sampling(max_new_tokens=4, temperature=0)


@pytest.fixture(scope="module")
def engine():
    tokenizer = make_tokenizer()
    made = TransformersEngine(make_model(), tokenizer, get_template(None, tokenizer))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(engine):
    with running(engine) as running_one:
        yield running_one


def complete(server, **body):
    answer = httpx2.post(f"{server.v1}/completions", json=body, timeout=60)
    return answer.status_code, answer.json()


def test_log_probabilities_of_a_prompt_are_those_of_the_model(engine) -> None:
    """Across chunks too: the prompt is longer than one."""
    ids = engine.tokenize("Fever and cough. " * 30, begin=True)
    assert len(ids) > 200
    first, *found = drain(engine.prompt_logprobs(ids, 2))
    with torch.no_grad():
        whole = engine.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)  # (T, V)
    assert first.logprob != first.logprob and first.top == ()
    for at, token in enumerate(found):
        assert token.logprob == pytest.approx(float(whole[at, ids[at + 1]]), abs=1e-4)
        assert [value for _, value in token.top] == pytest.approx(whole[at].topk(2).values.tolist(), abs=1e-4)


def test_the_harness_gets_its_log_likelihood(server, engine) -> None:
    """Its request and its reading of the answer, for two questions of different lengths."""
    context, continuation = engine.tokenize("What is asthma?", begin=True), engine.tokenize(" A disease")
    prompts = [context + continuation, context + engine.tokenize(" No")]
    lengths = [len(context)] * 2
    body = {"model": "carellama", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}
    status, out = complete(server, **body, echo=True)
    assert status == 200, out
    scored = []
    for choice, length in zip(sorted(out["choices"], key=itemgetter("index")), lengths, strict=True):
        told = choice["logprobs"]
        values, tops = told["token_logprobs"][length:-1], told["top_logprobs"][length:-1]
        greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        scored.append((sum(values), greedy))
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        assert len(told["tokens"]) == len(told["text_offset"]) == len(told["token_logprobs"])
    for (total, greedy), ids in zip(scored, prompts, strict=True):
        own = drain(engine.prompt_logprobs(ids, 1))[len(context) :]
        assert total == pytest.approx(sum(one.logprob for one in own))
        assert greedy == all(one.logprob == one.top[0][1] for one in own)
    assert out["usage"]["prompt_tokens"] == sum(map(len, prompts))


def test_a_greedy_continuation_is_told_as_greedy(server, engine) -> None:
    ids = engine.tokenize("Fever", begin=True)
    status, out = complete(server, prompt=ids, max_tokens=3, temperature=0, logprobs=1)
    assert status == 200
    said = [engine.tokenizer.convert_tokens_to_ids(one) for one in out["choices"][0]["logprobs"]["tokens"]]
    written = ids + [one for one in said if one is not None]
    _, out = complete(server, prompt=written, max_tokens=0, logprobs=1, echo=True)
    told = out["choices"][0]["logprobs"]
    for value, top in zip(told["token_logprobs"][len(ids) :], told["top_logprobs"][len(ids) :], strict=True):
        assert value == max(top.values())


def test_only_the_prompt_is_scored_and_nothing_written(server, engine) -> None:
    status, out = complete(server, prompt="Fever", max_tokens=0, logprobs=2, echo=True)
    (choice,) = out["choices"]
    assert status == 200 and choice["text"] == "Fever" and choice["finish_reason"] == "length"
    assert out["usage"]["completion_tokens"] == 0
    assert len(choice["logprobs"]["tokens"]) == out["usage"]["prompt_tokens"]
    assert complete(server, prompt="Fever", max_tokens=0)[0] == 400  # nothing would come back


def test_token_ids_and_texts_give_the_same_answer(server, engine) -> None:
    ids = engine.tokenize("Fever", begin=True)
    ask = {"max_tokens": 4, "temperature": 0, "echo": True}
    by_text, by_ids = complete(server, prompt="Fever", **ask)[1], complete(server, prompt=ids, **ask)[1]
    several = complete(server, prompt=[ids, ids], **ask)[1]
    said = by_text["choices"][0]["text"]
    assert said.startswith("Fever") and [one["text"] for one in several["choices"]] == [said, said]
    assert by_ids["choices"][0]["text"].endswith(said) and by_ids["usage"] == by_text["usage"]
    status, wrong = complete(server, prompt=[1, 10**6])
    assert status == 400 and wrong["error"]["param"] == "prompt" and "1000000" in wrong["error"]["message"]
    assert complete(server, prompt=[[1], []])[1]["error"]["param"] == "prompt.1"


def test_a_stream_with_echo_has_the_scores_first() -> None:
    with running(ScriptedEngine("ok")) as server:
        body = {"prompt": "tea", "echo": True, "logprobs": 1, "stream": True, "stream_options": {"include_usage": True}}
        lines = httpx2.post(f"{server.v1}/completions", json=body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    first = events[0]["choices"][0]
    assert first["text"] == "tea" and first["logprobs"]["token_logprobs"] == [None, -0.5, -1.0]
    assert "".join(one["choices"][0]["text"] for one in events[:-1]) == "teaok"
    assert events[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_special_tokens_in_a_prompt_are_text_unless_asked_for(server, engine) -> None:
    """A9: clients that write the chat format themselves had their marks read as text, without a word."""
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

    def tokens(**fields) -> int:
        return complete(server, prompt=text, max_tokens=1, **fields)[1]["usage"]["prompt_tokens"]

    assert tokens() == len(engine.tokenize(text, begin=True))
    assert tokens(parse_special=True) == len(engine.tokenize(text, begin=True, marks=True)) < tokens()
    with running(engine, parse_special=True) as other:
        asked = {"prompt": text, "max_tokens": 1}
        assert complete(other, **asked)[1]["usage"]["prompt_tokens"] == tokens(parse_special=True)
        assert complete(other, **asked, parse_special=False)[1]["usage"]["prompt_tokens"] == tokens()
    for marks in (False, True):
        body = {"prompt": text, "parse_special": marks, "add_special_tokens": True}
        told = httpx2.post(f"{server.url}/tokenize", json=body).json()["tokens"]
        assert told == engine.tokenize(text, begin=True, marks=marks)


def test_an_engine_that_can_not_score_says_so() -> None:
    class CanNot(ScriptedEngine):
        prompt_logprobs = OpenAIEngine.prompt_logprobs

    with running(CanNot("ok")) as server:
        status, out = complete(server, prompt="tea", echo=True, logprobs=1, max_tokens=0)
        assert status == 400 and out["error"]["code"] == "unsupported" and out["error"]["param"] == "echo"
        assert "--engine transformers or llamacpp" in out["error"]["message"]
        assert complete(server, prompt="tea", echo=True)[1]["choices"][0]["text"] == "teaok"
        until(lambda: not server.state.running)


def test_offsets_of_parts_of_a_character_are_those_of_the_character() -> None:
    """Each part counted as a character of its own: the tokens behind a rare one had offsets that are too far."""
    parts = ["Dr", " \ufffd", "\ufffd", "\ufffd", " says", " \ufffd\ufffd", "\ufffd", "!"]
    tokens = [TokenLogprob(part, -1.0) for part in parts]
    text = "Dr 肺 says 肺!"
    right = [0, 2, 3, 3, 4, 9, 10, 11]
    assert offsets(tokens, text, 0, 0) == (right, 12)
    shape, streamed = CompletionFormatter("m"), []
    for token, said in zip(tokens, ["Dr", " ", "", "肺", " says", " ", "肺", "!"], strict=True):
        streamed += shape.delta_chunk(0, Piece(said, logprobs=(token,)))[0]["choices"][0]["logprobs"]["text_offset"]
    assert streamed == right
    held = CompletionFormatter("m")  # "w" may become a stop string
    for said, token, at in (("", "w", 0), ("wx", "x", 1)):  # type: ignore[assignment]
        (chunk,) = held.delta_chunk(0, Piece(said, logprobs=(TokenLogprob(token, -1.0),)))  # type: ignore[arg-type]
        assert chunk["choices"][0]["logprobs"]["text_offset"] == [at]


def test_scoring_ends_when_the_client_hangs_up() -> None:
    with running(ScriptedEngine("ok", token_seconds=0.05)) as server:
        with pytest.raises(httpx2.ReadTimeout):
            body = {"prompt": "tea " * 500, "echo": True, "logprobs": 1, "max_tokens": 0}
            httpx2.post(f"{server.v1}/completions", json=body, timeout=0.5)
        until(lambda: not server.state.admission.running, 3)


def test_a_prompt_of_marks_is_continued_as_its_ids(engine) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n"
    ids = engine.tokenize(text, begin=True, marks=True)
    assert engine.detokenize(ids).endswith(text)
    assert drain(stream(engine, ids, GREEDY)).prompt_tokens == len(ids)


def test_parts_of_a_character_have_their_bytes() -> None:
    """Each had the bytes of U+FFFD, and of the likeliest tokens only one such was left in /v1/completions."""
    parts = [token_text(piece, "\ufffd") for piece in ("èĤ", "º", "<0xE8>", "▁肺")]
    assert [raw_bytes(part) for part in parts] == [b"\xe8\x82", b"\xba", b"\xe8", None]
    assert token_text("Ġa", " a") == " a" and raw_bytes(" 肺") == " 肺".encode()
    tokens = [TokenLogprob(part, -1.0, tuple((each, -2.0) for each in parts)) for part in parts[:2]]
    told = [row["bytes"] for row in logprobs_of(tokens)]
    assert bytes([*told[0], *told[1]]).decode() == "肺"
    first = logprobs_of(tokens)[0]
    assert first["token"] == "\ufffd" and [row["bytes"] for row in first["top_logprobs"]][3] is None
    choice = CompletionFormatter("m").full_choice(0, Reply("肺", "stop", 1, 2, logprobs=tuple(tokens)))
    assert choice["logprobs"]["tokens"] == [r"bytes:\xe8\x82", r"bytes:\xba"]
    assert list(choice["logprobs"]["top_logprobs"][0]) == [r"bytes:\xe8\x82", r"bytes:\xba", r"bytes:\xe8", "\ufffd"]
    json.dumps(choice, ensure_ascii=False).encode()


def test_parts_of_a_character_that_a_server_tells_of() -> None:
    assert raw_bytes(told_text("\ufffd", [0xE8, 0x82])) == b"\xe8\x82" == raw_bytes(told_text(r"bytes:\xe8\x82"))
    for told in (None, [0xEF, 0xBF, 0xBD]):
        assert raw_bytes(told_text("\ufffd", told)) is None
    assert shown(told_text("a\ud83d")) == "a\ufffd"


def test_the_bytes_of_a_tokenizer_join_to_the_text(engine) -> None:
    text = "肺炎 Asthma 🫁"
    joined = b"".join(raw_bytes(engine._token_text(token)) or b"" for token in engine.tokenize(text))
    assert joined.decode() == text
