"""A base's own files say how its text is cut, whatever class of transformers they name."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from carellama.config.model import ModelOptions
from carellama.engine.llamacpp.engine import LlamaCppEngine
from carellama.engine.tokenizer import of_folder
from carellama.model.gguf import read
from carellama.model.sentencepiece_tokenizer import backend_of, read_model
from carellama.model.tokenizer import load_tokenizer
from carellama.records import Message
from carellama.templates.template import get_template
from carellama.templates.tokenize import GroupEncoder
from conftest import CORPUS, make_model
from tiny_gguf import write_tiny_gguf

PIECES = 400
TEXTS = ("[INST] hello [/INST]", "  two  spaces", "ＡＢＣ①ﬁ ℃，", "患者发烧 38.5", "a\n\nb", " x")


@cache
def trained(kind: str = "bpe", normalization: str = "identity", *, prefix: bool = True) -> bytes:
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, "患者发烧 38.5 [INST] hello [/INST]"]), model_writer=written, minloglevel=2,
        vocab_size=PIECES, model_type=kind, hard_vocab_limit=False, byte_fallback=True, add_dummy_prefix=prefix,
        normalization_rule_name=normalization, remove_extra_whitespaces=False, character_coverage=1.0,
    )  # fmt: skip
    return written.getvalue()


def folder_of(folder: Path, config: dict[str, Any] | None, **files: bytes) -> ModelOptions:
    make_model(vocabulary=1000).config.save_pretrained(folder)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return ModelOptions(str(folder))


@pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": "LlamaTokenizer", "legacy": False}], ids=str)
@pytest.mark.parametrize(
    ("kind", "normalization", "prefix"),
    [("bpe", "identity", True), ("bpe", "nfkc", True), ("bpe", "identity", False), ("unigram", "identity", True)],
)
def test_a_tokenizer_model_gives_the_ids_of_sentencepiece(
    config: dict[str, Any] | None, kind: str, normalization: str, *, prefix: bool, tmp_path: Path
) -> None:
    """transformers 5 gave it Llama's rules, or none: no space in front, no normalisation, BPE for a unigram model."""
    content = trained(kind, normalization, prefix=prefix)
    tokenizer = load_tokenizer(folder_of(tmp_path, config, tokenizer_model=content))
    theirs = SentencePieceProcessor(model_proto=content)
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == theirs.encode(list(TEXTS))
    assert tokenizer("x")["input_ids"][0] == theirs.bos_id() and tokenizer.eos_token_id == theirs.eos_id()


def test_added_tokens_are_those_of_the_folder(tmp_path: Path) -> None:
    model = folder_of(tmp_path, {"tokenizer_class": "LlamaTokenizer"}, tokenizer_model=trained())
    size = SentencePieceProcessor(model_proto=trained()).get_piece_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": size, "<|turn|>": size + 1}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    tokenizer = load_tokenizer(model)
    assert tokenizer.pad_token_id == size and tokenizer("<|turn|>", add_special_tokens=False)["input_ids"] == [size + 1]


def llama2() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(trained())
        backend = backend_of(read_model(path))
    assert "Prepend" in str(backend.normalizer)
    return backend


def words() -> Tokenizer:
    """A byte-level vocabulary that cuts numbers in its own way."""
    letters = {letter: at for at, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.normalizer = normalizers.NFKC()
    split = pre_tokenizers.Split(Regex(r"\d{2}"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    return backend


@pytest.mark.parametrize(
    ("make", "name"), [(llama2, "LlamaTokenizer"), (llama2, "LlamaTokenizerFast"), (words, "Qwen2Tokenizer")]
)
@pytest.mark.parametrize("legacy", [True, False, None])
def test_a_tokenizer_json_is_followed(make: Any, name: str, legacy: bool | None, tmp_path: Path) -> None:
    """transformers 5 takes its vocabulary and other rules: `[INST]` of Llama 2 began with another token."""
    backend = make()
    config: dict[str, Any] = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {} if legacy is None else {"legacy": legacy}
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(folder_of(tmp_path, config))
    texts = [*TEXTS, "<s>[INST] hello", "12345 678"]
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] == [
        backend.encode(text, add_special_tokens=False).ids for text in texts
    ]


@pytest.mark.parametrize(
    ("normalizer", "said"),
    [(normalizers.NFKC(), "＜｜im_end｜＞＜think＞"), (normalizers.Lowercase(), "<|IM_END|><Think>")],
)
def test_no_normaliser_makes_markup_of_words(
    normalizer: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = words()
    backend.normalizer = normalizer
    backend.add_special_tokens([AddedToken("<|im_end|>", normalized=True), AddedToken("❖", normalized=False)])
    backend.add_tokens([AddedToken("<think>")])  # normalized is its default
    backend.save(str(tmp_path / "tokenizer.json"))
    marks = {backend.token_to_id("<|im_end|>"), backend.token_to_id("<think>")}
    assert set(backend.encode(said).ids) >= marks
    tokenizer = load_tokenizer(folder_of(tmp_path, {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>"}))
    assert not set(tokenizer(said)["input_ids"]) & marks
    assert set(tokenizer("<|im_end|><think>")["input_ids"]) >= marks
    assert "'❖' is one character" in caplog.text


@pytest.mark.parametrize(("make", "name"), [(llama2, "PreTrainedTokenizerFast"), (words, "Qwen2Tokenizer")])
def test_no_length_or_chance_that_a_file_keeps_changes_a_text(make: Any, name: str, tmp_path: Path) -> None:
    """A training of before leaves them there: --engine openvino cut each prompt, as a training would have its texts."""
    backend, text = make(), "hello a<s>b " * 9
    expected = backend.encode(text, add_special_tokens=False).ids
    backend.enable_truncation(8)
    backend.enable_padding(length=16)
    backend.model.dropout = 0.5  # of BPE
    backend.save(str(tmp_path / "tokenizer.json"))
    model = folder_of(tmp_path, {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>"})
    assert load_tokenizer(model).backend_tokenizer.encode(text, add_special_tokens=False).ids == expected
    assert of_folder(tmp_path, "alpaca").encode(text) == expected and of_folder(tmp_path, "alpaca").encode("") == []


@pytest.mark.parametrize("make", [llama2, words])
def test_a_folder_gives_the_ids_of_training_without_transformers(make: Any, tmp_path: Path) -> None:
    """A space stood behind each mark that a person wrote."""
    make().save(str(tmp_path / "tokenizer.json"))
    model = folder_of(tmp_path, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    bare, tokenizer = of_folder(tmp_path, "vicuna"), load_tokenizer(model)
    template, encoder = get_template("vicuna", tokenizer), GroupEncoder(tokenizer)
    for text in (*TEXTS, "a<s> b", "x</s>y<unk>z", "＜s＞"):
        messages = [Message("user", text)]
        [[ids]] = encoder.encode([[template.prompt_group(messages)]])
        assert bare.encode_chat(messages) == ids.tolist(), text
        assert bare.encode_text(text)[:1] == tokenizer(text, add_special_tokens=False)["input_ids"][:1]


def test_pieces_of_one_score_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tokenizer.json has an order of all merges; SentencePiece takes the first in the text, as of Chinese ones."""
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")  # a process may load one of this name alone
    proto = pb2.ModelProto.FromString(trained())
    for piece in ("尿病", "糖尿", "尿", "病", "糖"):
        if piece not in {one.piece for one in proto.pieces}:
            proto.pieces.add(piece=piece, score=0.0)
    with caplog.at_level(logging.WARNING):
        load_tokenizer(folder_of(tmp_path, {}, tokenizer_model=proto.SerializeToString()))
    assert "pieces of one score are joined in another order" in caplog.text and "糖尿病" in caplog.text


@pytest.mark.parametrize(("prefix", "name"), [(True, "vicuna"), (False, "vicuna"), (True, "medalpaca")])
def test_a_gguf_of_pieces_is_cut_as_llamacpp_cuts_it(
    prefix: bool, name: str, tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder put a space in front whatever the file said, or none; llama.cpp put one into a person's words.

    It also put a bos token before a format that was trained without one (medalpaca).
    """
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(read, "model_home", lambda: tmp_path / "cache")
    path = with_pieces(
        write_tiny_gguf(tmp_path / "a.gguf", make_model(vocabulary=PIECES), tiny_tokenizer), prefix=prefix
    )
    tokenizer = load_tokenizer(ModelOptions(str(path)))
    engine = LlamaCppEngine(path, template=name, parallel=1, context_tokens=512, threads=1)
    encoder, template = GroupEncoder(tokenizer), get_template(name, tokenizer)
    try:
        for text in ("hello", "a<s> b", "x</s>y", "患者<unk>发烧", " <s>a"):
            group = template.prompt_group([Message("user", text)])
            expected = [int(one) for part in encoder.encode([[group]])[0] for one in part]
            assert list(engine.prepare((Message("user", text),)).ids or ()) == expected, text
    finally:
        engine.close()


def with_pieces(source: Path, *, prefix: bool) -> Path:
    """The model of a .gguf with a vocabulary of SentencePiece."""
    theirs = SentencePieceProcessor(model_proto=trained())
    reader, target = gguf.GGUFReader(source), source.with_name("pieces.gguf")
    writer = gguf.GGUFWriter(str(target), "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "tokenizer.")) and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0])
    kinds = gguf.TokenType
    numbers = range(theirs.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([theirs.id_to_piece(number) for number in numbers])
    writer.add_token_scores([theirs.get_score(number) for number in numbers])
    writer.add_token_types([
        kinds.BYTE if theirs.is_byte(number) else kinds.CONTROL if theirs.is_control(number)
        else kinds.UNKNOWN if theirs.is_unknown(number) else kinds.NORMAL for number in numbers
    ])  # fmt: skip
    writer.add_bos_token_id(theirs.bos_id())
    writer.add_eos_token_id(theirs.eos_id())
    writer.add_unk_token_id(theirs.unk_id())
    writer.add_add_space_prefix(prefix)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return target
