"""A tokenizer that llama.cpp's converter does not know: which pre-tokenizer has its ids, offered and checked."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.model.gguf import pre_tokenizers
from carellama.model.gguf.converter import NotConvertible
from carellama.model.gguf.pre_tokenizers import (
    CANDIDATES,
    TEXTS,
    Trial,
    advice,
    check_pre_tokenizer,
    try_pre_tokenizers,
)
from carellama.model.gguf.read import read_header
from carellama.model.gguf.write import convert_folder, gguf_of
from conftest import CHATML, SPECIALS, make_model
from exporting import export
from hub_bases import write_base
from tiny_gguf import write_tiny_gguf

pytest.importorskip("xllamacpp")

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = r"[^。]+|。"  # words, spaces and numbers are merged across, which none of llama.cpp's patterns allows
TRAINED_ON = [*TEXTS, "患者发烧三天，服用阿莫西林500mg，一日三次。", "Take 500 mg twice a day; don't stop."] * 3


def write_bpe(folder: Path, pattern: str, vocabulary: int = 1500) -> Path:
    """A tiny model with a byte-level BPE that is trained on words of this pattern."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytewise])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TRAINED_ON, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def like_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bpe(tmp_path_factory.mktemp("bpe") / "like-qwen2", QWEN2)


def trials_of(folder: Path) -> list[Trial]:
    """What `try_pre_tokenizers` finds, its vocabulary written without the converter."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return try_pre_tokenizers(write_tiny_gguf(folder / "vocabulary.gguf", model, tokenizer), folder, CANDIDATES)


@pytest.fixture(scope="module")
def trials(like_qwen2: Path) -> list[Trial]:
    return trials_of(like_qwen2)


def test_the_nearest_comes_first(trials: list[Trial]) -> None:
    assert {trial.name for trial in trials} == {*CANDIDATES}  # llama.cpp knows them all
    assert trials[0].name == "qwen2" and trials[0].differing == 0 < trials[-1].differing
    assert advice(trials).startswith(f"with --gguf_pre qwen2 it gives the same ids on all {len(TEXTS)} texts")


def test_where_none_has_equal_ids_the_nearest_is_named(tmp_path: Path) -> None:
    nearest = r"of the \d+ that llama.cpp has none gives the same ids \(nearest: \S+ has other ids on \d+ of \d+ texts"
    said = advice(trials_of(write_bpe(tmp_path / "like-none", SENTENCES)))
    assert re.match(nearest + ", first on '.*--engine transformers", said)


@pytest.mark.slow
def test_pre_tokenizers_with_equal_ids_are_offered(like_qwen2: Path, tmp_path: Path) -> None:
    offered = rf"chkhsh [0-9a-f]{{64}}\); with --gguf_pre qwen2 it gives the same ids on all {len(TEXTS)} texts"
    with pytest.raises(NotConvertible, match=offered) as error:
        convert_folder(like_qwen2, {"f16": tmp_path / "made" / "model.gguf"})
    assert "\n" not in str(error.value)
    with pytest.MonkeyPatch.context() as patch:  # before the trained model is asked, and by its name
        patch.setattr("carellama.export.command._measure", lambda *_, **__: pytest.fail("the model was asked"))
        with pytest.raises(NotConvertible, match=rf"^{like_qwen2} .*{offered}"):
            export(ModelOptions(str(like_qwen2)), None, tmp_path / "out", to="gguf")
    assert "llama-bpe" not in str(error.value)  # same words, but a mark before each prompt
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.slow
def test_an_accepted_offer_is_written(like_qwen2: Path, tmp_path: Path) -> None:
    convert_folder(like_qwen2, {"f16": tmp_path / "model.gguf"}, pre="qwen2")
    assert read_header(tmp_path / "model.gguf").facts["tokenizer.ggml.pre"] == "qwen2"


@pytest.mark.slow
def test_a_folder_with_its_gguf_needs_no_second_word(like_qwen2: Path, tmp_path: Path) -> None:
    """An export with --gguf_pre was refused by `carellama api` until it was told again."""
    folder = tmp_path / "exported"
    shutil.copytree(like_qwen2, folder)
    convert_folder(like_qwen2, {"q8_0": folder / "exported.q8_0.gguf"}, pre="qwen2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carellama.model.gguf.write.model_home", lambda: tmp_path / "cache")
        made = gguf_of(ModelOptions(str(folder)), "f16")
    assert read_header(made).facts["tokenizer.ggml.pre"] == "qwen2"


def test_a_pre_tokenizer_with_other_ids_is_refused(
    trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pre_tokenizers, "_try", lambda folder, names, what: [one for one in trials if one.name in names]
    )
    with pytest.raises(UserError, match=r"--gguf_pre gpt-2 has other ids on .* texts, first on '.*leave it out"):
        check_pre_tokenizer(tmp_path, "gpt-2", "the model")


def test_a_name_that_llama_cpp_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pre_tokenizers, "_try", lambda folder, names, what: [])
    with pytest.raises(UserError, match=r"--gguf_pre qwen99: .* no pre-tokenizer of that name; it has qwen2"):
        check_pre_tokenizer(tmp_path, "qwen99", "the model")


@pytest.mark.slow
def test_another_kind_of_tokenizer_takes_no_pre_tokenizer(tmp_path: Path) -> None:
    base = write_base("mistral", tmp_path / "base")
    with pytest.raises(UserError, match="--gguf_pre is for byte-level BPE"):
        check_pre_tokenizer(base, "qwen2", "the model")


def test_a_gguf_says_itself_how_words_are_split(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="--gguf_pre qwen2 is for a model's folder"):
        gguf_of(ModelOptions(str(tmp_path / "model.gguf")), "f16", "qwen2")
