"""Numbers survive: what goes through files, cleaning, chat formats and the API is the text that went in.

The page and the terminal are in test_gradio_markdown.py and test_terminal.py, documents in test_document_numbers.py,
de-identification in test_privacy.py.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_server import echo, running
from carellama.config.data_commands import CleanOptions
from carellama.data.clean.clean import clean
from carellama.data.convert import convert
from carellama.data.documents.extract import documents
from carellama.data.readers import Row, rows
from carellama.data.write import COLUMNS, row_of, writer
from carellama.records import Chat, Message, Place, Text
from carellama.templates.template import get_template
from carellama.templates.tokenize import GroupEncoder
from medical_numbers import BETWEEN, NUMBERS
from test_documents import docx, run

TEXTS = st.builds(
    lambda between, items: between.join(items),
    st.sampled_from(BETWEEN),
    st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=8),
)


def chat_of(text: str, number: int) -> Chat:
    messages = (Message("user", f"第{number}问：{text}"), Message("assistant", f"回答{number}。{text}。"))
    return Chat(messages, Place("x", number))


@settings(max_examples=60)
@given(TEXTS)
def test_a_record_written_and_read_is_the_record(tmp_path_factory, text: str) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    record = chat_of(text, 1)
    with writer(folder / "a.jsonl") as write:
        write(record)
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerows([["instruction", "input", "output"], [record.prompt[0].content, "", record.response]])
    for name in ("a.jsonl", "a.csv"):
        (row,) = rows(folder / name)
        assert isinstance(row, Row)
        found = convert(row, COLUMNS, "alpaca")
        assert isinstance(found, Chat), name
        assert (found.prompt, found.response) == (record.prompt, record.response), name


def test_cleaning_changes_no_number(tmp_path: Path) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "clean.jsonl"
    records = [chat_of(one, number) for number, one in enumerate(NUMBERS)]
    source.write_text("".join(json.dumps(row_of(one)) + "\n" for one in records), encoding="utf-8")
    clean(CleanOptions(names=[str(source)], output=str(output), deidentify="mask", threshold=0, repetition=False))
    written = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    kept = {(row["instruction"], row["output"]) for row in written}
    assert kept == {(one.prompt[0].content, one.response) for one in records}


@settings(max_examples=60)
@given(TEXTS)
def test_encoded_and_decoded_is_the_text(tiny_tokenizer, text: str) -> None:
    groups = get_template(None, tiny_tokenizer).groups((Message("user", text), Message("assistant", text)))
    (encoded,) = GroupEncoder(tiny_tokenizer).encode([groups])
    decoded = "".join(tiny_tokenizer.decode(ids) for ids in encoded)
    assert decoded.count(text) == 2


@settings(max_examples=30)
@given(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=6))
def test_documents_keep_their_numbers(tmp_path_factory, items: list[str]) -> None:
    folder = tmp_path_factory.mktemp("documents")
    escaped = [item.replace("&", "&amp;").replace("<", "&lt;") for item in items]
    docx(folder / "a.docx", "".join(f"<w:p>{run(item)}</w:p>" for item in escaped))
    (folder / "a.html").write_text("".join(f"<p>{item}</p>" for item in escaped), encoding="utf-8")
    (folder / "a.md").write_text("\n\n".join(items), encoding="utf-8")
    found = list(documents(folder))
    assert len(found) == 3
    for one in found:
        assert isinstance(one, Text) and one.text == "\n".join(items), one


@pytest.fixture(scope="module")
def server():
    with running(echo()) as one:
        yield one


def test_the_api_answers_with_the_numbers_that_it_was_given(server) -> None:
    httpx = pytest.importorskip("httpx")
    text = "\n".join(NUMBERS)
    body = {"model": "carellama", "messages": [{"role": "user", "content": text}], "max_tokens": 4000}
    whole = httpx.post(f"{server.v1}/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] == text
    streamed = httpx.post(f"{server.v1}/chat/completions", json={**body, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    assert lines
    deltas = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines]
    assert "".join(deltas) == text
