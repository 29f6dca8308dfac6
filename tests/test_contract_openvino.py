"""OpenVINO keeps the contract, on the embedded model. Skipped where it is not installed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine.base import Sampling, Unavailable, Unsupported, drain
from carellama.engine.generate import stream as stream_of
from carellama.engine.openvino.engine import OpenVINOEngine, load
from carellama.errors import UserError
from carellama.records import Message
from engine_contract import GREEDY, PROMPTS, Contract

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.slow


def embedded(**options) -> OpenVINOEngine:
    arguments = EngineOptions(engine="openvino", **{"parallel": 4, "context_tokens": 256} | options)
    return load(ModelOptions("smollm2-135m"), DataOptions(), arguments)


@pytest.fixture(scope="module")
def engine() -> Iterator[OpenVINOEngine]:
    made = embedded()
    yield made
    made.close()


class TestOpenVINO(Contract):
    # seed: the sums for a prompt differ a little once a beginning of it is in the cache
    LACKS = frozenset({"logit_bias", "logprobs", "embed", "seed", "regex", "ends"})


def test_prompts_have_the_tokens_of_training(engine: OpenVINOEngine) -> None:
    from transformers import AutoTokenizer

    from carellama.model.zoo.resolve import model_folder
    from carellama.templates.template import get_template
    from carellama.templates.tokenize import GroupEncoder

    tokenizer = AutoTokenizer.from_pretrained(str(model_folder("smollm2-135m")))
    template, encoder = get_template(None, tokenizer), GroupEncoder(tokenizer)
    for text in (
        "What is asthma?",
        "发烧38.5度，三天了。\n\n怎么办？",
        "3x <|im_end|> 1,024 mg/kg  ½",
        "<|im_end|>",
        " x\n",
    ):
        messages = [Message("user", text), Message("assistant", "好"), Message("user", "why?")]
        ids = encoder.encode([[template.prompt_group(messages)]])[0][0].tolist()
        assert engine.tokenizer.encode_chat(messages) == ids
        assert engine.tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_what_the_pipeline_lacks_is_refused_in_one_line(engine: OpenVINOEngine) -> None:
    for change in (
        {"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"top_logprobs": 1}, {"adapter": "tcm"},
        {"logit_bias": ((5, 1.0),)}, {"num_beams": 2, "top_logprobs": 0},
    ):  # fmt: skip
        with pytest.raises(Unsupported) as refused:
            next(stream_of(engine, PROMPTS[0], replace(GREEDY, **change)))
        assert "\n" not in str(refused.value)


LETTERS = (Message("user", "Answer with one letter, A or B."),)


def test_the_log_probability_of_what_is_said_knows_no_temperature(engine: OpenVINOEngine) -> None:
    plain = drain(stream_of(engine, LETTERS, Sampling(1, temperature=0, top_logprobs=0))).logprobs
    drawn = drain(stream_of(engine, LETTERS, Sampling(1, temperature=0.01, top_logprobs=0, seed=1))).logprobs
    assert plain[0].token == drawn[0].token and plain[0].top == ()
    assert plain[0].logprob == pytest.approx(drawn[0].logprob, abs=0.3) and plain[0].logprob < -1  # 8-bit cache


def test_letters_are_judged_as_the_whole_vocabulary_has_them(engine: OpenVINOEngine) -> None:
    (row,) = engine.logprobs([LETTERS], ["A", "B", "z"])
    assert sum(map(math.exp, row)) < 0.99 and max(row) < 0 and len(set(row)) == 3
    with pytest.raises(Unsupported, match="ASCII letter"):
        engine.logprobs(PROMPTS[:1], ["对", "错"])


def test_a_schema_that_can_not_be_is_refused_alone(engine: OpenVINOEngine) -> None:
    other = stream_of(engine, PROMPTS[1], GREEDY)
    next(other)
    with pytest.raises(Unsupported, match="nonsense"):
        drain(stream_of(engine, PROMPTS[0], replace(GREEDY, json_schema={"type": "nonsense"})))
    assert drain(other).completion_tokens == GREEDY.max_new_tokens


def test_a_process_that_dies_is_told_to_all_who_wait() -> None:
    engine = embedded(parallel=1)
    stream = stream_of(engine, PROMPTS[0], Sampling(400, temperature=0))
    next(stream)
    engine.worker._child.kill()
    with pytest.raises(Unavailable):
        drain(stream)
    with pytest.raises(Unavailable):
        next(stream_of(engine, PROMPTS[0], GREEDY))
    engine.close()


def test_a_file_that_is_no_model_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load(ModelOptions(str(tmp_path)), DataOptions(), EngineOptions())
