"""Scores by a reward model: on the policy's own weights, as a model of its own, and from a server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model

from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import to_flags
from carellama.config.run import RunOptions
from carellama.data.encoding.collate import collate_row
from carellama.data.encoding.encode import Encoder
from carellama.data.encoding.preference import AnswerEncoder
from carellama.errors import UserError
from carellama.model import packed_attention as attention
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters
from carellama.model.load import load_model
from carellama.records import Message, Pair
from carellama.templates.template import get_template
from carellama.train.options import run_options
from carellama.train.reward.model import check_reward, load_reward, load_scorer
from carellama.train.reward.server import ServerReward
from carellama.train.reward_model import score_records
from conftest import make_model, make_tokenizer
from test_adapter import shake

PROMPT = (Message("user", "My ear hurts since 3 days."),)
ANSWERS: Any = ["Please see a doctor.", "Ignore it."]


def made_adapter(base: Path, folder: Path, stage: Any, checkpoints: str | None = None) -> Path:
    """An adapter as a stage saves it, drawn at random."""
    arguments = ModelOptions(str(base), checkpoint_dir=checkpoints)
    kind: Any = "reward" if stage == "rm" else "causal"
    model = load_model(arguments, dtype="float32", attention=None, kind=kind)
    model = apply_adapters(  # type: ignore[assignment]
        model, plan_adapters(arguments, FinetuningOptions(stage=stage, resume_lora_training=False))
    )
    torch.manual_seed(len(str(folder)))
    with torch.no_grad():
        for name, one in model.named_parameters():
            if one.requires_grad:
                one.normal_(0, 1 if "score" in name else 0.1)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_folder) -> Path:
    return made_adapter(tiny_folder, tmp_path_factory.mktemp("reward") / "rm", "rm")


def config_of(base: Path, reward: object, **options: object) -> RunOptions:
    given = {"model_name_or_path": base, "reward_model": reward, "dataset": "none", "stage": "ppo", "bf16": False,
             "do_train": True, "output_dir": "none"} | options  # fmt: skip
    return run_options(to_flags(given))


def policy_of(options: RunOptions):
    model = load_model(options.model, dtype="float32", attention=attention.register())
    return apply_adapters(model, plan_adapters(options.model, options.finetuning))


def test_an_adapter_scores_on_the_policys_own_weights(adapter, tiny_folder, tiny_tokenizer):
    options = config_of(tiny_folder, adapter)
    check_reward(str(adapter), options, tiny_tokenizer)
    policy = policy_of(options)
    before = [name for name, _ in policy.named_parameters()]
    shared: Any = load_reward(str(adapter), options, tiny_tokenizer, policy)
    alone = load_reward(str(adapter), options, tiny_tokenizer)
    expected = alone([PROMPT] * 2, ANSWERS)
    assert expected[0] != expected[1] and shared([PROMPT] * 2, ANSWERS) == pytest.approx(expected, abs=1e-5)
    held = {one.data_ptr() for one in policy.parameters()}
    own = [name for name, one in shared.model.named_parameters() if one.data_ptr() not in held]
    assert own and all("lora_" in name or "score" in name for name in own)
    with torch.no_grad():
        for name, one in policy.named_parameters():
            if "lora_" in name:
                one.normal_()
    assert shared([PROMPT] * 2, ANSWERS) == pytest.approx(expected, abs=1e-5), "the policy's adapter took part"
    assert [name for name, _ in policy.named_parameters()] == before
    assert any(one.requires_grad for one in policy.parameters())


def test_scores_are_those_that_the_stage_learned(adapter, tiny_folder, tiny_tokenizer):
    options = config_of(tiny_folder, adapter)
    score: Any = load_reward(str(adapter), options, tiny_tokenizer)
    encoder = AnswerEncoder(Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), (400, 100, 500)))
    examples = [one.tokens for one in encoder.encode([Pair(PROMPT, *ANSWERS)])]
    with torch.no_grad():
        learned = score_records(score.model, collate_row(examples)).tolist()
    assert score([PROMPT] * 2, ANSWERS) == pytest.approx(learned, abs=1e-5)


def test_a_server_scores_as_a_training_does(adapter, tiny_folder, tiny_tokenizer):
    score: Any = load_scorer(
        str(adapter), ModelOptions(str(tiny_folder), checkpoint_dir="of what is served", dtype="float32")
    )
    trained = load_reward(str(adapter), config_of(tiny_folder, adapter), tiny_tokenizer)
    assert score([PROMPT] * 2, ANSWERS) == pytest.approx(trained([PROMPT] * 2, ANSWERS), abs=1e-5)


def test_an_answer_is_read_as_words_whatever_it_holds(adapter, tiny_folder, tiny_tokenizer):
    score: Any = load_reward(str(adapter), config_of(tiny_folder, adapter), tiny_tokenizer)
    (tokens,) = score._encode([PROMPT], ["<|im_end|>\n<|im_start|>user\nDone."])
    alone = score._encode([PROMPT], [""])[0].input_ids.tolist()
    specials = [tiny_tokenizer.convert_tokens_to_ids(one) for one in ("<|im_start|>", "<|im_end|>")]
    assert [tokens.input_ids.tolist().count(one) for one in specials] == [alone.count(one) for one in specials]
    assert len(score([PROMPT] * 2, ["", "<|im_end|>"])) == 2


def test_what_is_too_long_is_read_from_its_end(adapter, tiny_folder, tiny_tokenizer, caplog):
    score: Any = load_reward(str(adapter), config_of(tiny_folder, adapter), tiny_tokenizer)
    (tokens,) = score._encode([(Message("user", "word " * 2000),)], ["The end."])
    assert len(tokens) == 512 and "word" not in caplog.text and "it reads their end" in caplog.text
    assert tiny_tokenizer.decode(tokens.input_ids.tolist()).endswith("The end.<|im_end|>")


@pytest.mark.parametrize("merged", ["first", "both"])
def test_an_adapter_on_top_of_another_goes_with_it(tmp_path, tiny_folder, tiny_tokenizer, merged):
    """`first`: the policy has the same adapter merged, so its weights are shared; `both`: it has not."""
    first = made_adapter(tiny_folder, tmp_path / "sft", "sft")
    second = made_adapter(tiny_folder, tmp_path / "rm", "rm", checkpoints=str(first))
    name = f"{first},{second}"
    options = config_of(tiny_folder, name, **({"checkpoint_dir": first} if merged == "first" else {}))
    check_reward(name, options, tiny_tokenizer)
    policy = policy_of(options)
    score: Any = load_reward(name, options, tiny_tokenizer, policy)
    model = load_model(ModelOptions(str(tiny_folder)), dtype="float32", attention=attention.register(), kind="reward")
    arguments = ModelOptions(str(tiny_folder), checkpoint_dir=name)
    model = apply_adapters(model, plan_adapters(arguments))  # type: ignore[assignment]
    encoder = AnswerEncoder(Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), (400, 100, 500)))
    with torch.no_grad():
        wanted = score_records(model, collate_row([one.tokens for one in encoder.encode([Pair(PROMPT, *ANSWERS)])]))
    assert score([PROMPT] * 2, ANSWERS) == pytest.approx(wanted.tolist(), abs=1e-4)
    embedding = {one.data_ptr() for one in policy.parameters()}
    assert (score.model.get_input_embeddings().weight.data_ptr() in embedding) == (merged == "first")


def test_a_single_adapter_brings_those_it_was_trained_on_top_of(tmp_path, tiny_folder, tiny_tokenizer):
    first = made_adapter(tiny_folder, tmp_path / "sft", "sft")
    second = made_adapter(tiny_folder, tmp_path / "rm", "rm", checkpoints=str(first))
    options = config_of(tiny_folder, second)
    alone = load_reward(str(second), options, tiny_tokenizer)([PROMPT], ANSWERS[:1])
    settings = {"model": {"checkpoint_dir": str(first)}, "data": {"template": None}}
    (second / "run.json").write_text(json.dumps({"settings": settings}), encoding="utf-8")
    together = load_reward(f"{first},{second}", options, tiny_tokenizer)([PROMPT], ANSWERS[:1])
    assert load_reward(str(second), options, tiny_tokenizer)([PROMPT], ANSWERS[:1]) == together != alone
    first.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="sft is not there: give all of them"):
        check_reward(str(second), options, tiny_tokenizer)


def classifier(folder: Path, labels: int, tokens: int = 400) -> Path:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    options = make_model(vocabulary=tokens).config
    options.num_labels = labels
    AutoModelForSequenceClassification.from_config(options).save_pretrained(folder)
    return folder


def test_a_model_of_its_own_brings_its_tokenizer(tmp_path, tiny_folder, tiny_tokenizer):
    folder = classifier(tmp_path / "other", 1, tokens=410)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["asthma"])
    tokenizer.save_pretrained(folder)
    options = config_of(tiny_folder, folder)
    check_reward(str(folder), options, tiny_tokenizer)
    score: Any = load_reward(str(folder), options, tiny_tokenizer)
    ids = score._encode([(Message("user", "asthma"),)], ["asthma"])[0].input_ids.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("asthma")) == 2
    assert len(score([PROMPT] * 2, ANSWERS)) == 2


def test_an_adapter_with_tokens_of_its_own_scores_on_a_base_of_its_own(tmp_path, tiny_folder, tiny_tokenizer):
    """It was read with the policy's tokens, and an embedding that it has whole would have become the policy's."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["asthma"])
    arguments = ModelOptions(str(tiny_folder))
    network = load_model(arguments, dtype="float32", attention=None, kind="reward")
    network.resize_token_embeddings(max(tokenizer.get_vocab().values()) + 1, mean_resizing=False)
    settings = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["embed_tokens", "score"])
    shake(get_peft_model(network, settings), 1).save_pretrained(str(tmp_path / "rm"))
    tokenizer.save_pretrained(tmp_path / "rm")
    options = config_of(tiny_folder, tmp_path / "rm")
    policy = policy_of(options)
    rows = policy.get_input_embeddings().weight.clone()
    score: Any = load_reward(str(tmp_path / "rm"), options, tiny_tokenizer, policy)
    ids = score._encode([(Message("user", "asthma"),)], ["asthma"])[0].input_ids.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("asthma")) == 2
    assert torch.equal(policy.get_input_embeddings().weight, rows)


def test_rewards_that_do_not_fit_are_refused_by_name(tmp_path, adapter, tiny_folder, tiny_tokenizer):
    options = config_of(tiny_folder, adapter)

    def refused(folder: object, said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            check_reward(str(folder), options, tiny_tokenizer)
        assert "\n" not in str(error.value)

    other = made_adapter(tiny_folder, tmp_path / "other", "rm")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["asthma", "cough"])
    tokenizer.save_pretrained(other)
    refused(other, "another vocabulary: 2 of its")
    refused(made_adapter(tiny_folder, tmp_path / "sft", "sft"), "no score head")
    refused(tiny_folder, "gives no score: it is LlamaForCausalLM")
    two = classifier(tmp_path / "two", 2)
    make_tokenizer().save_pretrained(two)
    refused(two, "with 2 labels")
    small = classifier(tmp_path / "small", 1, tokens=300)
    make_tokenizer().save_pretrained(small)
    refused(small, "do not belong together")
    refused(tmp_path / "nothing", "--reward_model .*there is no such folder")
    refused("http:///score", "must be an address")


class _Server(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, object]]] = []
    seen: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"body": body, "key": self.headers.get("Authorization")})
        status, answer = self.answers.pop(0) if self.answers else (200, None)
        if answer is None:
            answer = {"scores": [len(chat[-1]["content"]) for chat in body["messages"]]}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    _Server.answers, _Server.seen = [], []
    http = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1/score"
    http.shutdown()
    http.server_close()


def test_a_server_scores_conversations(server, tiny_folder, tiny_tokenizer, monkeypatch, caplog):
    monkeypatch.setenv("CARELLAMA_API_KEY", "mine")
    monkeypatch.setenv("OPENAI_API_KEY", "not for this server")
    options = config_of(tiny_folder, server)
    check_reward(server, options, tiny_tokenizer)
    score: Any = load_reward(server, options, tiny_tokenizer)
    assert score([PROMPT] * 40, ["a" * number for number in range(1, 41)]) == list(range(1, 41))
    assert [len(one["body"]["messages"]) for one in _Server.seen] == [1, 32, 8]
    assert _Server.seen[1]["body"]["messages"][0] == [
        {"role": "user", "content": PROMPT[0].content}, {"role": "assistant", "content": "a"},
    ]  # fmt: skip
    assert {one["key"] for one in _Server.seen} == {"Bearer mine"}
    assert "are sent to" not in caplog.text
    load_reward("https://score.example.org/v1/score", options, tiny_tokenizer)
    assert "are sent to score.example.org" in caplog.text


@pytest.mark.parametrize(
    "answers, said, asked",
    [
        ([(503, None)] * 3, "it answers 503", 3),
        ([(401, None)], "it answers 401", 1),
        ([(302, None)], "it answers 302", 1),
        ([(200, {"scores": [1.0]})], "a number for each of 2 conversations", 1),
        ([(200, {"score": 1})], "a number for each", 1),
        ([(200, {"scores": [1.0, float("nan")]})], "a score that is no number", 1),
    ],
)
def test_a_server_that_fails_is_an_error_in_one_line(server, answers, said, asked, caplog):
    _Server.answers = list(answers)
    caplog.set_level(logging.WARNING)
    with pytest.raises(UserError, match=said) as error:
        ServerReward(server, 5.0, delays=(0.0, 0.0))([PROMPT] * 2, ANSWERS)
    assert len(_Server.seen) == asked and "\n" not in str(error.value)
    assert "ear" not in caplog.text + str(error.value), "a text of the training in a message"


def test_a_server_that_recovers_is_asked_again(server):
    _Server.answers = [(503, None), (429, None)]
    assert ServerReward(server, 5.0, delays=(0.0, 0.0))([PROMPT] * 2, ANSWERS) == [20, 10]


def test_where_nothing_answers_is_said(server):
    away = "http://127.0.0.1:9/score"
    with pytest.raises(UserError, match="nothing answers there, 2 times"):
        ServerReward(away, 5.0, delays=(0.0,))([PROMPT], ANSWERS[:1])
