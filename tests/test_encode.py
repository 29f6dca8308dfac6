"""Lengths and labels: what is cut or split is cut by rule and counted, and each answer is learned once."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.config.data import DataOptions
from carellama.data.convert import BadRecord
from carellama.data.datasets import Dataset, load_datasets
from carellama.data.encoding.encode import Encoder
from carellama.data.readers import Row
from carellama.errors import UserError
from carellama.records import IGNORED, Chat, Message, Place, Text, Tokens
from carellama.templates.template import get_template
from conftest import make_tokenizer

WIDE = (1 << 20, 1 << 20, 1 << 20)
HEADER = "<|im_start|>assistant\n"
END = "<|im_end|>"


def chat(*contents: str, system: str | None = None) -> Chat:
    turns = [Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(contents)]
    return Chat(((Message("system", system),) if system else ()) + tuple(turns), Place("a.json", 3))


@pytest.fixture
def encode(tiny_tokenizer):
    """Encode one record within these lengths, in ChatML."""

    def encode(record, *lengths: int):
        return Encoder(tiny_tokenizer, get_template("chatml", tiny_tokenizer), lengths or WIDE).encode([record])[0]  # type: ignore[arg-type]

    return encode


@pytest.fixture
def text_of(tiny_tokenizer):
    return lambda ids: tiny_tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)


@pytest.fixture
def learned(text_of):
    """The text that is learned, in runs, of one record's tokens."""

    def learned(tokens: Tokens) -> list[str]:
        runs: list[list[int]] = [[]]
        for label in tokens.labels.tolist():
            if label == IGNORED:
                runs += [[]] if runs[-1] else []
            else:
                runs[-1].append(label)
        return [text_of(run) for run in runs if run]

    return learned


def kinds(encoded) -> Counter:
    return Counter(note.kind for note in encoded.notes)


def test_what_fits_is_left_alone(encode, learned):
    encoded = encode(chat("What is asthma?", "A disease.", "And flu?", "Another."))
    assert not encoded.notes
    assert learned(encoded.tokens[0]) == [f"A disease.{END}", f"Another.{END}"]


def test_a_record_that_just_fits_is_not_cut(encode):
    record = chat("What is asthma?", "A disease.")
    size = len(encode(record).tokens[0])
    assert not encode(record, size, size, size).notes
    assert kinds(encode(record, size, size, size - 1)) == {"shortened": 1}


def test_a_cut_question_keeps_its_markup(encode, text_of, learned):
    record = chat("Where is my cough from? " * 30, "See a doctor.", system="Be kind.")
    encoded = encode(record, 60, 60, 120)
    (tokens,) = encoded.tokens
    prompt = text_of(tokens.input_ids[tokens.labels == IGNORED])
    assert prompt.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhere is my cough")
    assert prompt.endswith(f"{END}\n{HEADER}")
    assert 55 <= (tokens.labels == IGNORED).sum() <= 60
    assert learned(tokens) == [f"See a doctor.{END}"]
    assert [(note.kind, note.reason, str(note.place)) for note in encoded.notes] == [
        ("shortened", "question cut to its length", "a.json:3")
    ]


def test_a_cut_answer_has_no_end_token(encode, learned, tiny_tokenizer):
    record = chat("Q?", "It is a long story. " * 30)
    encoded = encode(record, 100, 25, 125)
    (tokens,) = encoded.tokens
    assert (tokens.labels != IGNORED).sum() == 25
    assert tokens.input_ids[-1] != tiny_tokenizer.eos_token_id
    (said,) = learned(tokens)
    assert END not in said and record.response.startswith(said)
    assert [note.reason for note in encoded.notes] == ["answer cut to its length, without end token"]


def test_an_answer_too_long_by_its_end_token_only_loses_that(encode, learned, tiny_tokenizer):
    record = chat("Q?", "It is a disease.")
    size = len(tiny_tokenizer(record.response).input_ids)
    encoded = encode(record, 100, size, 100 + size)
    assert learned(encoded.tokens[0]) == [record.response] and kinds(encoded) == {"shortened": 1}


def test_a_question_as_long_as_the_window_leaves_a_quarter_to_the_answer(encode):
    encoded = encode(chat("Where is my cough from? " * 40, "See a doctor. " * 40), 80, 80, 80)
    (tokens,) = encoded.tokens
    assert len(tokens) <= 80 and (tokens.labels != IGNORED).sum() >= 20
    assert kinds(encoded) == {"shortened": 2}


def test_a_prompt_whose_markup_has_no_room_is_skipped(encode):
    encoded = encode(chat("Where is my cough from?", "See a doctor."), 5, 50, 55)
    assert not encoded.tokens and kinds(encoded) == {"skipped": 1}
    assert "leaves no room" in encoded.notes[0].reason


def test_a_record_without_room_names_the_options(encode):
    """Fault T14: the error of --cutoff_len 24 did not say which option to raise."""
    for lengths, option in (((24, 24, 24), "24 tokens (--cutoff_len)"), ((9, 50, 59), "9 (--max_source_length)")):
        (note,) = encode(chat("What is asthma?", "A disease.", system="You are a careful assistant."), *lengths).notes
        assert note.kind == "skipped" and option in note.reason


def test_each_part_of_a_split_conversation_is_a_conversation(encode, text_of):
    turns = [text for turn in range(8) for text in (f"Question {turn}, is it?", f"Answer {turn}, it is.")]
    encoded = encode(chat(*turns, system="Be kind."), 100, 100, 100)
    assert kinds(encoded) == {"split": 1} and len(encoded.tokens) > 2
    for tokens in encoded.tokens:
        text = text_of(tokens.input_ids)
        assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQuestion")
        assert text.endswith(END) and len(tokens) <= 100
    assert any((tokens.labels[-60:] == IGNORED).any() for tokens in encoded.tokens[1:]), "context stands before"


@settings(max_examples=80)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([(24, 24, 48), (40, 20, 60), (64, 64, 64), (30, 60, 90), (512, 512, 1024)]),
    st.sampled_from(["chatml", "default", "alpaca", "vicuna"]),
)
def test_whatever_the_lengths_each_answer_is_learned_once(sizes, with_system, lengths, name):
    tokenizer = tokenizer_once()
    encoder = Encoder(tokenizer, get_template(name, tokenizer), lengths)
    words = [(f"q{turn} " * size, f"a{turn} " * size) for turn, size in enumerate(sizes)]
    record = chat(*(text for turn in words for text in turn), system="Be kind." if with_system else None)
    encoded = encoder.encode([record])[0]
    if not encoded.tokens:
        assert kinds(encoded) == {"skipped": 1}
        return
    assert all(len(tokens) <= lengths[2] for tokens in encoded.tokens)
    assert (len(encoded.tokens) > 1) == (kinds(encoded)["split"] == 1)
    said = "".join(
        tokenizer.decode([token for token in tokens.labels.tolist() if token != IGNORED], skip_special_tokens=True)
        for tokens in encoded.tokens
    )
    at = -1
    for turn, (_, answer) in enumerate(words):
        assert said.count(answer[:2]) >= 1 and said.index(answer[:2]) > at, f"answer {turn} is learned, in order"
        at = said.index(answer[:2])
        assert said.count(f"a{turn}") <= answer.count(f"a{turn}"), f"answer {turn} is learned once"
    if not kinds(encoded)["shortened"]:
        assert [said.count(f"a{turn}") for turn in range(len(words))] == [
            answer.count(f"a{turn}") for turn, (_, answer) in enumerate(words)
        ]


@cache
def tokenizer_once():
    """The tiny tokenizer, for a test that hypothesis runs many times."""
    return make_tokenizer()


@pytest.mark.parametrize("whole", [2, 3, 7, 40, 1000])
def test_text_is_learned_whole_in_windows(encode, tiny_tokenizer, whole):
    record = Text("Asthma may cause wheezing, cough and shortness of breath. " * 3)
    encoded = encode(record, whole, whole, whole)
    ids = [*tiny_tokenizer(record.text).input_ids, tiny_tokenizer.eos_token_id]
    said = [label for tokens in encoded.tokens for label in tokens.labels[1:].tolist()]
    assert said == ids[1:], "each token but the first is learned, once"
    assert all(len(tokens) <= whole for tokens in encoded.tokens)
    assert kinds(encoded) == ({"split": 1} if whole < len(ids) else {})


@pytest.mark.parametrize("spaces", [True, False])
def test_a_very_long_text_is_tokenised_in_stretches(encode, tiny_tokenizer, monkeypatch, spaces):
    from carellama.data.encoding import encode as module

    monkeypatch.setattr(module, "STRETCH", 50)
    monkeypatch.setattr("carellama.templates.tokenize.CALL_CHARS", 120)
    text = "Asthma may cause wheezing, cough\nand  shortness of breath. 发烧三天了怎么办？" * 40
    text = text if spaces else text.replace(" ", "")
    (tokens,) = encode(Text(text)).tokens
    assert tiny_tokenizer.decode(tokens.input_ids.tolist(), skip_special_tokens=True) == text
    if spaces:
        assert tokens.input_ids[:-1].tolist() == tiny_tokenizer(text).input_ids


def test_text_that_predicts_nothing_is_counted(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer, get_template("chatml", tiny_tokenizer), (9, 9, 9))
    encoder.eos = encoder.eos[:0]
    assert kinds(encoder.encode([Text("a")])[0]) == {"skipped": 1}
    with pytest.raises(UserError, match="--cutoff_len"):
        Encoder(tiny_tokenizer, get_template("chatml", tiny_tokenizer), (1, 1, 1))


def test_a_batch_is_encoded_as_its_records_are(tiny_tokenizer):
    records: list[Any] = [chat("Q?", "A."), chat("long " * 99, "A."), Text("x y"), chat("1", "2", "3", "4", system="s")]
    encoder = Encoder(tiny_tokenizer, get_template("chatml", tiny_tokenizer), (30, 30, 30))
    assert sum(bool(one.tokens) for one in encoder.encode(records)) == 2
    for together, alone in zip(
        encoder.encode(records), [encoder.encode([record])[0] for record in records], strict=True
    ):
        assert together.notes == alone.notes and len(together.tokens) == len(alone.tokens)
        for one, other in zip(together.tokens, alone.tokens, strict=True):
            assert one.input_ids.tolist() == other.input_ids.tolist()
            assert one.labels.tolist() == other.labels.tolist()


def test_a_conversation_that_the_template_refuses_is_counted(tiny_tokenizer):
    from carellama.templates.template import Template

    cutting = tiny_tokenizer.chat_template.replace("message['content']", "message['content'].split('Note:')[0]")
    encoder = Encoder(tiny_tokenizer, Template("cutting", cutting, tiny_tokenizer, [END]), WIDE)
    encoded = encoder.encode([chat("q", "y Note: x"), chat("q", "a")])
    assert [len(one.tokens) for one in encoded] == [0, 1] and kinds(encoded[0]) == {"skipped": 1}


REAL = [
    "medicalgpt-finetune/medical_sft_1K_format.jsonl",
    "medalpaca/medical_meadow_small.json",
    "genmedgpt-5k/chatdoctor5k.json",
]


@pytest.mark.parametrize("name", REAL)
def test_every_record_of_a_real_file_is_used_or_skipped_for_a_reason(real_data, tiny_tokenizer, name):
    (dataset,) = load_datasets([str(real_data / name)], DataOptions())
    encoder = Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), (512, 512, 1024))
    records, refused = usable(dataset)
    encoded = encoder.encode(records)
    skipped = sum(note.kind == "skipped" for one in encoded for note in one.notes)
    used = sum(bool(one.tokens) for one in encoded)
    assert used + skipped == len(records) and used > 0.9 * len(records)
    assert len(records) + refused == sum(1 for _ in dataset.rows())


def usable(dataset: Dataset) -> tuple[list, int]:
    """The records of a dataset, and how many rows had none."""
    records, refused = [], 0
    for row in dataset.rows():
        assert isinstance(row, Row)
        try:
            records.append(dataset.record(row))
        except BadRecord:
            refused += 1
    return records, refused
