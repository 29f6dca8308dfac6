"""Facts of a .gguf of a wrong type or past their range: named in one line before anything uses them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from carellama.errors import UserError
from carellama.model.gguf.facts import KINDS, TOKENS, check_facts
from carellama.model.gguf.layout import ARRAY, Layout, string_value, uint32_value, write_head
from carellama.model.gguf.read import read_model_header


def numbers(*given: int) -> bytes:
    return struct.pack(f"<IIQ{len(given)}I", ARRAY, 4, len(given), *given)


def number(given: float) -> bytes:
    return struct.pack("<If", 6, given)


WORDS = struct.pack("<IIQ", ARRAY, 8, 2) + (struct.pack("<Q", 1) + b"a") * 2
RIGHT = {
    "general.architecture": string_value("llama"),
    TOKENS: WORDS,
    KINDS: numbers(1, 1),
    "llama.context_length": uint32_value(64),
    "llama.attention.head_count_kv": numbers(1, 0),
    "llama.rope.freq_base": number(1e4),
    "tokenizer.ggml.eos_token_id": uint32_value(1),
    "tokenizer.ggml.padding_token_id": uint32_value(2**32 - 1),  # as some files say that there is none
    "tokenizer.ggml.add_bos_token": struct.pack("<I?", 7, False),
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokenizer.ggml.eos_token_id", uint32_value(2), "is 2; it has to be the number of one of its 2 tokens"),
        ("tokenizer.ggml.bos_token_id", uint32_value(2), "is 2; it has to be the number of one of its 2 tokens"),
        ("tokenizer.ggml.eos_token_id", numbers(1, 0), "is a list of 2; it has to be a whole number"),
        ("tokenizer.ggml.padding_token_id", string_value("1"), "is '1'; it has to be a whole number"),
        ("tokenizer.ggml.add_bos_token", string_value("false"), "is 'false'; it has to be true or false"),
        ("llama.context_length", string_value("64"), "is '64'; it has to be a whole number from 1 on"),
        ("llama.context_length", uint32_value(0), "is 0; it has to be a whole number from 1 on"),
        ("llama.attention.head_count_kv", WORDS, "is a list of 2; it has to be a whole number"),
        ("llama.rope.freq_base", number(float("nan")), "is nan; it has to be a number from 0 on"),
        ("general.architecture", uint32_value(1), "is 1; it has to be a text"),
        ("tokenizer.chat_template", uint32_value(5), "is 5; it has to be a text"),
        (TOKENS, numbers(1, 2), "is a list of 2; it has to be a list of texts"),
        (KINDS, numbers(1), "has 1 numbers for 2 tokens"),
    ],
)
def test_a_fact_of_another_kind_is_named(name: str, value: bytes, said: str) -> None:
    """Each was a traceback, an abort of llama.cpp, or another value without a word."""
    check_facts(Path("a.gguf"), Layout(RIGHT, ()))
    with pytest.raises(UserError) as error:
        check_facts(Path("a.gguf"), Layout(RIGHT | {name: value}, ()))
    assert str(error.value).startswith(f"a.gguf: {name} {said}") and "\n" not in str(error.value)


def test_they_are_checked_where_a_head_is_read(tmp_path: Path) -> None:
    for context in (64, 0):
        with (tmp_path / "a.gguf").open("wb") as file:
            write_head(file, Layout(RIGHT | {"llama.context_length": uint32_value(context)}, ()), {})
        if context:
            assert read_model_header(tmp_path / "a.gguf").of_architecture("context_length") == context
            continue
        with pytest.raises(UserError, match=r"llama\.context_length is 0"):
            read_model_header(tmp_path / "a.gguf")
