"""The files of an export as other programs read them: positions, end tokens, classes, pad token, template of scores.

The programs themselves read them in test_readers.py.
"""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.parity.rewards import conversations
from carellama.model.load import load_model
from carellama.model.readers import SIGMOID_ROUTERS, make_readable, readable_config
from carellama.model.tokenizer import load_tokenizer
from carellama.templates.template import get_template
from carellama.templates.tokenize import GroupEncoder
from exporting import export
from hub_bases import BASES, write_base

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ({"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6, "rope_scaling": None}),
        (
            LLAMA3_ROPE,
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
        ),
        (
            {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "rope_scaling": None},
        ),
        (
            {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        (
            {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0],
             "original_max_position_embeddings": 64},
            {"rope_theta": 1e4, "original_max_position_embeddings": 64,
             "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
        ),
    ],
)  # fmt: skip
def test_positions_are_written_in_both_spellings(new: dict[str, Any], old: dict[str, Any]) -> None:
    """T2: transformers 4.57 read rope_theta 10000, and no scaling, of every export."""
    written = readable_config({"model_type": "llama", "rope_parameters": new})
    assert {key: value for key, value in written.items() if key not in ("model_type", "rope_parameters")} == old
    assert written["rope_parameters"] == new


def test_positions_of_gpt_neox_have_its_own_old_names() -> None:
    """T2: its rotary_pct stood in rope_parameters only."""
    parameters = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}
    written = readable_config({"model_type": "gpt_neox", "rope_parameters": parameters})
    assert (written["rotary_emb_base"], written["rotary_pct"]) == (2e4, 0.5)


@pytest.mark.parametrize("family", BASES)
def test_the_written_files_say_the_same_to_every_version(family: str, tmp_path: Path) -> None:
    """T2, T3, T22: class, positions, end tokens and lists as transformers 4 reads them; nothing of our loading."""
    base = write_base(family, tmp_path / "base")
    export(ModelOptions(str(base)), None, tmp_path / "out")
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    config, tokenizer = written["config.json"], written["tokenizer_config.json"]
    before = json.loads((base / "config.json").read_text())
    for name in ("rope_theta", "rope_scaling", "rope_local_base_freq"):
        assert config.get(name) == before.get(name), name
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert AutoConfig.from_pretrained(tmp_path / "out").to_dict().get("rope_parameters") == AutoConfig.from_pretrained(
        base
    ).to_dict().get("rope_parameters")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["clean_up_tokenization_spaces"] is False
    assert "token_type_ids" not in tokenizer["model_input_names"]
    assert isinstance(tokenizer.get("extra_special_tokens", {}), dict)
    assert tokenizer["chat_template"] == (tmp_path / "out" / "chat_template.jinja").read_text()
    traces = {"is_local", "local_files_only", "backend", "name_or_path", "_name_or_path", "_model_name_or_path"}
    assert not traces & {*config, *tokenizer}
    ends = written["generation_config.json"]["eos_token_id"]
    assert config["eos_token_id"] == (ends if len(ends) > 1 else ends[0])
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read.eos_token_id in ends and read.convert_tokens_to_ids("<end_of_turn>") in [*ends, read.unk_token_id]
    assert set(AutoTokenizer.from_pretrained(base).all_special_tokens) <= set(read.all_special_tokens)
    assert max(read.get_vocab().values()) < config["vocab_size"]
    content = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    make_readable(tmp_path / "out")
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_experts_are_counted_under_both_names() -> None:
    """T2: transformers 4.57 read 128 experts of every Qwen3-MoE."""
    assert readable_config({"model_type": "qwen3_moe", "num_local_experts": 4})["num_experts"] == 4


def test_sigmoid_routers_are_named_as_other_programs_read_them() -> None:
    """transformers 5 does not write which: llama.cpp took a softmax (DeepSeek-V3), crashed (dots.llm1) or refused."""
    for family in SIGMOID_ROUTERS:
        module = import_module(f"transformers.models.{family}.modeling_{family}")
        assert re.search(r"router_logits.sigmoid\(\)|sigmoid\(router_logits", inspect.getsource(module))
        written = readable_config({"model_type": family})
        assert (written["scoring_func"], written["topk_method"]) == ("sigmoid", "noaux_tc")


def test_loading_options_and_secrets_do_not_get_into_the_files(tmp_path: Path) -> None:
    """T3: is_local and local_files_only were published; a hub token or cache folder must never be."""
    base = write_base("qwen2", tmp_path / "base")
    model = ModelOptions(str(base), hf_auth_token="hf_secretsecret", cache_dir=str(tmp_path / "cachefolder"))
    export(model, None, tmp_path / "out")
    texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors"]
    assert len(texts) >= 5
    for trace in ("hf_secretsecret", "cachefolder", str(tmp_path)):
        assert not [text for text in texts if trace in text], trace


def reward_model(family: str, folder: Path) -> Path:
    """A reward model as `--stage rm --finetuning_type full` saves it, with large weights in its head."""
    base = write_base(family, folder / "base")
    arguments = ModelOptions(str(base))
    network = load_model(arguments, dtype="float32", attention=None, kind="reward")
    torch.nn.init.normal_(network.score.weight, std=1.0)  # type: ignore[arg-type]
    network.save_pretrained(folder / "rm")
    load_tokenizer(arguments).save_pretrained(folder / "rm")
    return folder / "rm"


@pytest.mark.parametrize("family", ["llama3", "qwen2", "gpt2", "bloom", "mistral"])
def test_a_reward_model_scores_a_padded_batch_as_it_was_trained(family: str, tmp_path: Path) -> None:
    """T1: with pad token = end token, plain transformers scored the token before the trained one."""
    folder = reward_model(family, tmp_path)
    export(ModelOptions(str(folder)), None, tmp_path / "out")
    trained = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    own = load_tokenizer(ModelOptions(str(folder)))
    encoder, template = GroupEncoder(own), get_template(None, own)
    expected = []
    trained.config.pad_token_id = None  # so that the last token of each is scored
    for messages in conversations():
        ids = [int(token) for part in encoder.encode([template.groups(messages)])[0] for token in part]
        expected.append(trained(input_ids=torch.tensor([ids])).logits[0, 0].item())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    rows = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations()]
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    assert len({int(length) for length in batch["attention_mask"].sum(1)}) == 3
    assert network(**batch).logits[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    for text, score in zip(texts, expected, strict=True):  # vLLM takes the last token of the prompt
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert ids[0, -1] != network.config.pad_token_id == tokenizer.pad_token_id
        states = network.base_model(input_ids=ids)[0]
        assert network.score(states)[0, -1, 0].item() == pytest.approx(score, abs=1e-4)
    again = get_template(None, load_tokenizer(ModelOptions(str(tmp_path / "out"))))  # `--reward_model out`
    for messages, text in zip(conversations(), texts, strict=True):
        assert "".join(group.text for group in again.groups(messages)) == text
    prompt = tokenizer.apply_chat_template(rows[0][:1], tokenize=False, add_generation_prompt=True)
    assert prompt == template.render(conversations()[0][:1], add_generation_prompt=True)
    assert network.config.problem_type == "regression"  # else vLLM squashes the score


def test_a_reward_model_that_a_stranger_reads_otherwise_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T1: the export's own check scored the trained token itself, and saw nothing."""
    from carellama.export import scoring

    monkeypatch.setattr(scoring, "find_pad_token", lambda tokenizer, ends: tokenizer.eos_token)
    folder = reward_model("llama3", tmp_path)
    with pytest.raises(UserError, match="other scores in plain transformers"):
        export(ModelOptions(str(folder)), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
