"""A Modelfile is read as Ollama reads it (ollama/parser/parser.go)."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from carellama.errors import UserError
from carellama.export.modelfile import _quoted
from carellama.templates.modelfile import Modelfile, read_modelfile


def read(path: Path, text: str | bytes, *, start: str = "FROM ./m.gguf\n") -> Modelfile:
    raw = text if isinstance(text, bytes) else (start + text).encode()
    path.write_bytes(raw)
    return read_modelfile(path)


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("TEMPLATE a b \n", "a b"),
        ('template "a\nb"\n', "a\nb"),
        ('TEMPLATE """a "b"\n\nc"""\n', 'a "b"\n\nc'),
        ('  TEMPLATE """\n a """', "\n a "),
        ('TEMPLATE "a\\n\\"b"\n', 'a\\n\\"b'),  # no escapes
        ('TEMPLATE """a""" b"""\n', 'a""" b'),  # a value ends where a line ends with its quotes
        ("TEMPLATE 'a'\n", "'a'"),
        ("TEMPLATE a # b\n", "a # b"),
        ("TEMPLATE a\n# TEMPLATE b\n", "a"),
        ("TEMPLATE a\nTEMPLATE b\n", "b"),  # the last one counts
        ('SYSTEM """\nTEMPLATE a\n"""\n', None),  # what stands in a value is no instruction
        ('TEMPLATE """a\r\nb"""\r\nSYSTEM x\r\n', "a\r\nb"),
        ("TEMPLATE a\u200bb\n", "ab"),  # what is not printed is dropped
        ("TEMPLATE\ta\n", "a"),
        ("LICENSE x\n", None),
    ],
)
def test_a_value_is_what_ollama_takes(text: str, template: str | None, tmp_path: Path) -> None:
    assert read(tmp_path / "Modelfile", text).last("template") == template


def test_stops_and_messages_are_all_there(tmp_path: Path) -> None:
    """The reader took the first line of a text for an instruction, and knew neither quotes nor MESSAGE."""
    found = read(
        tmp_path / "Modelfile",
        'PARAMETER stop "<a>"\nparameter stop <b>\nPARAMETER num_ctx 9\nPARAMETER stop """<c>"""\n'
        'MESSAGE user "Hi\nyou"\nMESSAGE assistant Hello.\nADAPTER ./a.gguf\n',
    )
    assert found.stops == ["<a>", "<b>", "<c>"] and found.last("adapter") == "./a.gguf"
    assert found.messages == [("user", "Hi\nyou"), ("assistant", "Hello.")]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    text = "FROM x\nTEMPLATE 咳\n"
    for raw in (codecs.BOM_UTF8 + text.encode(), codecs.BOM_UTF16_LE + text.encode("utf-16-le")):
        assert read(tmp_path / "Modelfile", raw).last("template") == "咳"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FROM x\nTEMPLATE caf\xe9\n".encode("latin-1"), "cannot read .*Modelfile: it is not UTF-8 text"),
        ("TEMPLATE a\nNOTHING b\n", "line 3: 'NOTHING b' is no instruction"),
        ("\nTEMPLATE\n", "line 3: 'TEMPLATE' is no instruction"),
        ("MESSAGE doctor Hi\n", "line 2: 'MESSAGE doctor Hi' is no instruction"),
        ('TEMPLATE """a\nb\n', "line 2: the quotes of this TEMPLATE are not closed"),
        (b"TEMPLATE a\n", "has no FROM"),
        (b"", "has no FROM"),
        (b"GGUF\x03\x00\x00\x00", "is no instruction"),
    ],
)
def test_what_ollama_refuses_is_refused_with_its_line(text: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path / "Modelfile", text)
    with pytest.raises(UserError, match=r"cannot read .*: is a directory"):
        read_modelfile(tmp_path)


@pytest.mark.parametrize("text", ['He said "no"', '"', '""', '"a"\n""', '""\nSYSTEM b', 'a\n"b" c', " a\n"])
def test_a_text_with_quotes_is_read_as_it_was_written(text: str, tmp_path: Path) -> None:
    """A text that ends in a quote was refused, though the last three of a line close the value."""
    written = f"FROM x\nSYSTEM {_quoted(text, 'it')}\nPARAMETER stop a\n"
    found = read(tmp_path / "Modelfile", written.removeprefix("FROM x\n"))
    assert found.last("system") == text and found.stops == ["a"]
    with pytest.raises(UserError, match="three quotes in a row"):
        _quoted('a"""b', "it")
