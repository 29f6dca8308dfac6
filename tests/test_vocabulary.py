"""New tokens: learned, added, begun as the mean of their pieces, trained, saved small, and found again."""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from carellama.config.commands import TokenizerOptions
from carellama.config.data import DataOptions
from carellama.config.model import ModelOptions
from carellama.data import vocabulary as pieces
from carellama.engine.transformers.load import load as load_engine
from carellama.errors import UserError
from carellama.model.load import load_model
from carellama.model.tokenizer import load_tokenizer
from carellama.model.vocabulary import add_tokens, begin, grow, pieces_of, put, read_tokens
from carellama.train import run as runs
from carellama.train.options import run_options
from conftest import CORPUS, make_model, make_tokenizer
from exporting import export
from test_variants import config_of

TERMS = ("糖尿病", "高血压", "胰岛素")
ASKED = ("得了糖尿病要注意什么？", "高血压怎么办？", "胰岛素怎么保存？")
ANSWERED = ("糖尿病要控制饮食，定期测血糖。", "高血压要少盐，定期量血压。", "胰岛素要冷藏，不要冷冻。")


@pytest.fixture
def terms(tmp_path) -> Path:
    path = tmp_path / "terms.txt"
    path.write_text("\n".join([*TERMS, "", TERMS[0], "a"]), encoding="utf-8")
    return path


@pytest.fixture
def chinese(tmp_path) -> Path:
    rows = [{"instruction": ASKED[n % 3], "input": "", "output": ANSWERED[n % 3]} for n in range(24)]
    path = tmp_path / "chinese.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def untied(tmp_path_factory, **changes) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(**changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tied_folder(tmp_path_factory) -> Path:
    return untied(tmp_path_factory, tie_word_embeddings=True)


def test_a_file_has_one_token_a_line(terms, tmp_path):
    assert read_tokens(terms) == [*TERMS, "a"]
    for text, said in (("a b\n", ":1 is no token"), ("\n", "has no tokens"), ("x" * 65, ":1 is no token")):
        bad = tmp_path / "bad.txt"
        bad.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            read_tokens(bad)
    with pytest.raises(UserError, match="cannot read"):
        read_tokens(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_begin_as_the_mean_of_their_pieces(terms, tied):
    tokenizer, model = make_tokenizer(), make_model(tie_word_embeddings=tied)
    before = {term: pieces_of(tokenizer, term) for term in TERMS}
    old = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    added = add_tokens(tokenizer, terms)
    assert sorted(added) == [tokenizer.convert_tokens_to_ids(term) for term in TERMS]  # 'a' is one token already
    grow(model, len(tokenizer))
    begin(model, added)
    for weight, earlier in zip(
        (model.get_input_embeddings().weight, model.get_output_embeddings().weight), old, strict=True
    ):
        assert torch.equal(weight[:400], earlier)
        for term in TERMS:
            row = weight[tokenizer.convert_tokens_to_ids(term)]
            torch.testing.assert_close(row, earlier[before[term]].mean(0))
    assert model.config.vocab_size == len(tokenizer) == 403


@pytest.mark.parametrize("tied", [True, False])
def test_they_are_trained_saved_small_and_found_again(tied, terms, chinese, tmp_path, tiny_folder, tied_folder):
    folder = tied_folder if tied else tiny_folder
    trained = runs.run(config_of(tmp_path, folder, dataset=chinese, add_tokens=terms, do_eval=True,
        eval_dataset=chinese, lora_target="q_proj,v_proj"))  # fmt: skip
    stored = load_file(tmp_path / "out/adapter_model.safetensors")
    rows = {key: weight for key, weight in stored.items() if ".lora_" not in key}
    assert {tuple(weight.shape) for weight in rows.values()} == {(3, 64)} and len(rows) == 1 + (not tied)
    arguments = ModelOptions(str(folder), checkpoint_dir=str(tmp_path / "out"))
    tokenizer = load_tokenizer(arguments)
    assert all(len(pieces_of(tokenizer, term)) == 1 for term in TERMS)
    again = runs.run(config_of(tmp_path, folder, "again", dataset=chinese, checkpoint_dir=tmp_path / "out",
        do_train=False, do_eval=True))  # fmt: skip
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=2e-4)

    export(arguments, None, tmp_path / "exported")
    whole = load_model(ModelOptions(str(tmp_path / "exported")), dtype="float32", attention=None)
    base = load_model(ModelOptions(str(folder)), dtype="float32", attention=None)
    weight = whole.get_input_embeddings().weight
    assert weight.shape[0] == 403 and torch.equal(weight[:400], base.get_input_embeddings().weight)  # type: ignore[arg-type]
    assert torch.equal(whole.get_output_embeddings().weight[:400], base.get_output_embeddings().weight)
    start = make_model(tie_word_embeddings=tied)
    fresh = make_tokenizer()
    added = add_tokens(fresh, terms)
    grow(start, len(fresh))
    begin(start, added)
    moved = (weight[400:] - start.get_input_embeddings().weight[400:]).abs().amax(1)
    assert (moved > 1e-3).all()
    engine = load_engine(arguments, DataOptions())
    assert engine.model.get_input_embeddings().weight.shape[0] == 403


def test_later_training_keeps_them_and_may_add_more(terms, chinese, tmp_path, tiny_folder):
    def trained(output: str, *before: str, **options: object) -> dict:
        checkpoints = {"checkpoint_dir": ",".join(str(tmp_path / name) for name in before)} if before else {}
        return runs.run(
            config_of(tmp_path, tiny_folder, output, dataset=chinese, max_steps=2, **checkpoints, **options)
        )

    trained("a", add_tokens=terms)
    more = tmp_path / "more.txt"
    more.write_text("血糖\n", encoding="utf-8")
    with pytest.raises(UserError, match="--resume_lora_training false"):
        trained("b", "a", add_tokens=more)
    trained("c", "a")  # goes on with the adapter, tokens included
    stored = load_file(tmp_path / "c/adapter_model.safetensors")
    first = load_file(tmp_path / "a/adapter_model.safetensors")
    assert all((stored[key] != first[key]).any() for key in first if "trainable_tokens" in key)
    learned = trained("d", "a", add_tokens=more, resume_lora_training=False, do_eval=True, eval_dataset=chinese)
    again = trained("e", "a", "d", do_train=False, do_eval=True)
    assert again["eval_loss"] == pytest.approx(learned["eval_loss"], abs=2e-4)
    tokenizer = load_tokenizer(ModelOptions(str(tiny_folder), checkpoint_dir=f"{tmp_path / 'a'},{tmp_path / 'd'}"))
    assert len(tokenizer) == 404
    plain = trained("f", "a", resume_lora_training=False, do_eval=True, eval_dataset=chinese)  # no tokens of its own
    again = trained("g", "a", "f", do_train=False, do_eval=True)
    assert again["eval_loss"] == pytest.approx(plain["eval_loss"], abs=2e-4)


@pytest.mark.parametrize("kind", ["full", "freeze"])
def test_whole_models_keep_their_tokens_too(kind, terms, chinese, tmp_path, tiny_folder):
    options = {"dataset": chinese, "finetuning_type": kind, "num_layer_trainable": 1, "learning_rate": 1e-3}
    trained = runs.run(
        config_of(tmp_path, tiny_folder, add_tokens=terms, do_eval=True, eval_dataset=chinese, **options)
    )
    again = runs.run(config_of(tmp_path, tiny_folder, "again", checkpoint_dir=tmp_path / "out", do_train=False,
        do_eval=True, **options))  # fmt: skip
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=2e-4)
    stored = load_file(tmp_path / "out/model.safetensors")["model.embed_tokens.weight"]
    assert stored.shape[0] == 403


def test_a_stopped_training_goes_on_with_its_tokens(terms, chinese, tmp_path, tiny_folder):
    settings = {"dataset": chinese, "add_tokens": terms, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    runs.run(config_of(tmp_path, tiny_folder, "whole", **settings))
    checkpoint = tmp_path / "whole/checkpoint-2"
    runs.run(config_of(tmp_path, tiny_folder, "resumed", resume_from_checkpoint=checkpoint, **settings))
    one, other = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "resumed"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("stage", ["rm", "dpo"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_next_stage_begins_with_them(stage, tied, terms, chinese, tmp_path, tiny_folder, tied_folder):
    folder = tied_folder if tied else tiny_folder
    runs.run(config_of(tmp_path, folder, "sft", dataset=chinese, add_tokens=terms, max_steps=1))
    pairs = tmp_path / "pairs.json"
    rows = [{"instruction": ASKED[n % 3], "input": "", "output": [ANSWERED[n % 3], "不用管。"]} for n in range(16)]
    pairs.write_text(json.dumps(rows), encoding="utf-8")
    options = {"dataset": pairs, "stage": stage, "checkpoint_dir": tmp_path / "sft", "max_steps": 1}
    found = runs.run(config_of(tmp_path, folder, stage, **options, do_eval=True, eval_dataset=pairs))
    assert 0 < found["eval_loss"] < 2
    options["checkpoint_dir"] = f"{tmp_path / 'sft'},{tmp_path / stage}"
    again = runs.run(config_of(tmp_path, folder, "again", **options, do_train=False, do_eval=True))
    if stage == "rm":
        assert again["eval_loss"] == pytest.approx(found["eval_loss"], abs=1e-3)
        with_tokens = ModelOptions(str(folder), checkpoint_dir=options["checkpoint_dir"])
        assert len(load_tokenizer(with_tokens)) == 403


@pytest.mark.slow
def test_a_quantised_base_takes_new_tokens(terms, chinese, tmp_path, tiny_folder):
    pytest.importorskip("bitsandbytes")
    options = {"dataset": chinese, "quantization_bit": 4, "max_steps": 2}
    trained = runs.run(
        config_of(tmp_path, tiny_folder, add_tokens=terms, do_eval=True, eval_dataset=chinese, **options)
    )
    again = runs.run(config_of(tmp_path, tiny_folder, "again", checkpoint_dir=tmp_path / "out", do_train=False,
        do_eval=True, **options))  # fmt: skip
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=2e-3)


def test_new_tokens_are_for_training(terms, tmp_path, tiny_folder):
    with pytest.raises(UserError, match="--add_tokens is for --do_train"):
        config_of(tmp_path, tiny_folder, do_train=False, do_eval=True, add_tokens=terms)


@pytest.mark.parametrize("legacy", [True, False])
def test_text_comes_back_from_tokenizers_that_put_a_space_first(legacy, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, LlamaTokenizer

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    tokenizer = LlamaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], legacy=legacy)
    text = "患者糖尿病患者 a高血压。"
    put(tokenizer, list(TERMS))
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = one(text, add_special_tokens=False)["input_ids"]
        assert one.decode(ids) == text and {"糖尿病", "高血压"} <= set(one.convert_ids_to_tokens(ids))


def corpus(folder: Path, sentences: int = 300) -> Path:
    """Lines of words in any order: a piece is what stays together."""
    numbers = random.Random(0)
    words = [
        *TERMS,
        "口渴",
        "头晕",
        "乏力",
        "心慌",
        "失眠",
        "和",
        "有",
        "时",
        "就医",
        "复查",
        "多喝水",
        "量血压",
        "也",
        "请",
    ]
    lines = ["".join(numbers.choices(words, k=8)) + "。" for _ in range(sentences)]
    path = folder / "corpus.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_learned_pieces_save_tokens_on_texts_held_out(tmp_path, tiny_folder, capsys):
    output = tmp_path / "pieces.txt"
    argv = ["train", str(corpus(tmp_path)), "--model_name_or_path", str(tiny_folder), "--output", str(output)]
    pieces.run([*argv, "--pieces", "20", "--longest", "3"])
    learned = read_tokens(output)
    account = json.loads((tmp_path / "pieces.txt.json").read_text(encoding="utf-8"))
    assert set(TERMS) <= set(learned) and len(learned) <= 20
    assert all(2 <= len(piece) <= 3 for piece in learned) and account["pieces"] == learned
    assert account["measured_on"] == "held out" and account["tokens_after"] < 0.7 * account["tokens_before"]
    told = capsys.readouterr().out
    assert f"{account['per_1000'][0]:.1f} -> {account['per_1000'][1]:.1f}" in told
    command = shlex.split(told.splitlines()[-1].removeprefix("next: "))
    assert command[:4] == ["carellama", "train", "--stage", "pt"] and "--add_tokens" in command
    assert run_options([*command[2:], "--do_train", "--bf16", "false"]).data.datasets
    tokenizer = make_tokenizer()
    put(tokenizer, learned)
    text = "有糖尿病和高血压，头晕时请多喝水，量血压也请复查。"
    found = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert Counter(token for token in found if token in learned) == pieces._uses(Counter([text]), learned)
    with pytest.raises(UserError, match="give --overwrite"):
        pieces.run(argv)


def test_what_can_not_be_learned_from_is_said(tmp_path, tiny_folder):
    english = tmp_path / "english.txt"
    english.write_text("Asthma may cause wheezing.\n" * 3, encoding="utf-8")
    model = ["--model_name_or_path", str(tiny_folder), "--output", str(tmp_path / "x.txt")]
    with pytest.raises(UserError, match="no Chinese characters"):
        pieces.run(["train", str(english), *model])
    with pytest.raises(UserError, match="lower --min_count"):
        pieces.run(["train", str(corpus(tmp_path, 5)), *model, "--min_count", "50"])
    with pytest.raises(UserError, match="tokenizer train"):
        pieces.run(["learn", str(english)])
    with pytest.raises(UserError, match="--longest is 1"):
        TokenizerOptions(names=["a"], model_name_or_path="b", longest=1)
