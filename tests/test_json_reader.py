"""JSON of any size is read as `json.loads` reads it, wherever the buffer ends (D14)."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carellama.data import json_reader
from carellama.data.json_reader import JsonValue, read_json, read_json_values
from carellama.errors import DataError

TEXTS = st.text(max_size=4)
NUMBERS = st.integers() | st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.just("\u2028\x85\U0001f600")
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
KEYS = TEXTS.filter(lambda key: key not in json_reader.WRAPPERS)
OBJECTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


def read(text: str, reader=read_json_values) -> list[JsonValue]:
    return list(reader(io.StringIO(text, newline=None), "a.json", lambda notice: None))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, max_size=8), buffer=st.integers(1, 40), indent=st.sampled_from([None, 0, 2]),
       ascii_only=st.booleans())  # fmt: skip
def test_an_array_is_what_json_loads_reads_wherever_the_buffer_ends(monkeypatch, values, buffer, indent, ascii_only):
    monkeypatch.setattr(json_reader, "READ_BYTES", buffer)
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    found = read(text)
    assert [one.value for one in found] == json.loads(text)
    assert not any(one.error for one in found)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(OBJECTS, max_size=8), buffer=st.integers(1, 40), indent=st.sampled_from([None, 1]),
       between=st.sampled_from(["\n", "\n\n", "\r\n"]))  # fmt: skip
def test_objects_are_read_a_line_or_several_each(monkeypatch, values, buffer, indent, between):
    monkeypatch.setattr(json_reader, "READ_BYTES", buffer)
    text = between.join(json.dumps(value, indent=indent) for value in values)
    assert [one.value for one in read(text, read_json)] == values


@pytest.mark.parametrize("buffer", range(1, 12))
def test_a_number_that_the_buffer_ends_in_is_one_number(monkeypatch, buffer):
    """D14: `[1000000, 1000001]` was refused at the end of the buffer, "1." and "1e" were read as 1."""
    monkeypatch.setattr(json_reader, "READ_BYTES", buffer)
    assert [one.value for one in read("[1000000, 1.25, -3e+10, 2E-3, 7]")] == [1000000, 1.25, -3e10, 2e-3, 7]
    assert [one.value for one in read("12 3.5\n-1")] == [12, 3.5, -1]


def test_a_large_array_of_numbers_is_whole():
    numbers = list(range(1_000_000, 1_130_000))  # 1.2 MB
    assert [one.value for one in read(json.dumps(numbers))] == numbers


@pytest.mark.parametrize("buffer", [1, 7, 1000])
def test_rows_that_share_a_line_are_numbered(monkeypatch, buffer):
    monkeypatch.setattr(json_reader, "READ_BYTES", buffer)
    places = [str(one.place) for one in read('\n[{"a": 1}, {"a": 2}, {"a": 3}]')]
    assert places == ["a.json, row 1", "a.json, row 2", "a.json, row 3"]
    assert [str(one.place) for one in read('[{"a": 1},\n{"a": 2}]')] == ["a.json:1", "a.json:2"]
    with pytest.raises(DataError, match=r"a\.json, row 3: broken JSON"):
        read('[{"a": 1}, {"a": 2}, {"a" 3}]')


@pytest.mark.parametrize("buffer", [1, 7, 1000])
def test_rows_inside_an_object_keep_their_lines(monkeypatch, buffer):
    monkeypatch.setattr(json_reader, "READ_BYTES", max(buffer, 40))
    found = read('{\n "version": 1,\n "data": [\n  {"a": 1},\n  {"a": 2}\n ],\n "more": {"x": []}\n}', read_json)
    assert [(one.value, one.place.line) for one in found] == [({"a": 1}, 4), ({"a": 2}, 5)]
    turns = '{"data": [{"role": "user"}]}'
    assert [one.value for one in read(f"{turns}\n{turns}", read_json)] == [json.loads(turns)] * 2  # rows, a line each
    with pytest.raises(DataError, match="several lists of objects"):
        read('{"train": [{"a": 1}],\n "test": [{"a": 2}]}', read_json)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 2}}]'])
def test_a_repeated_key_costs_its_row_only(text):
    found = read(text + "\n" + text if text[0] == "{" else text, read_json)
    assert [one.error.partition(",")[0] for one in found] == ["a key occurs twice in one object"] * len(found)
    assert found[0].detail == "the key 'a'"
