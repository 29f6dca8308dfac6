"""JSON values with the line where each begins: an array, JSON Lines, or values one after the other, of any size.

    for found in read_json(text, "consult.json"): found.value, found.place, found.error

One value is held at a time, so memory does not grow with the file. An array of rows inside one object, such as
`{"data": [...]}`, is read as these rows. A broken line of JSON Lines costs that line only.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TextIO

from carellama.data.file_bytes import READ_BYTES
from carellama.data.rows import texts_in
from carellama.errors import DataError
from carellama.records import Place

MAX_RECORD_CHARS = 1 << 26  # an unclosed string or bracket is not searched further
WHITE_SPACE = re.compile(r"[ \t\r\n]*")
COLON, COMMA = re.compile(r"[ \t\r\n]*:[ \t\r\n]*"), re.compile(r"[ \t\r\n]*,")
OBJECTS = re.compile(r"\[[ \t\r\n]*\{")  # the beginning of an array of objects
NUMBER_GOES_ON = re.compile(r"[0-9.eE+-]*\Z")  # what may follow a number at the end of the buffer
# Keys under which files keep their rows; lists under other keys may be the turns of one record.
WRAPPERS = frozenset(
    "data rows records items examples samples instances dataset train training documents articles results qas".split()
)
SEVERAL_LISTS = "the object holds several lists of objects; save the rows to train on as a file with one array"
NUL_ESCAPE = "\\u0000"
NUL_NOTICE = "has NUL characters in texts; they are kept, and carellama data check names the lines"
NAN_NOTICE = "has NaN in place of some values, which JSON does not have; it is read as a missing value"
COMMA_NOTICE = "has commas between its objects and no brackets around them, and is read so"
TRAILING_NOTICE = "has a comma behind the last row, and is read so"
ARRAYS_NOTICE = "holds several arrays one after the other, and all are read"
END = "broken JSON: the file ends inside this record; copy or download it again"

Notice = Callable[[str], None]  # takes what differs from standard JSON


@dataclass(frozen=True, slots=True)
class JsonValue:
    """One value and where it begins; `error` says why it could not be read, "" when it was."""

    value: Any
    place: Place
    error: str = ""
    detail: str = ""  # may name a key


class _Decoder:
    """A JSON decoder that remembers what of the last value is no standard JSON."""

    def __init__(self) -> None:
        self.repeated: str | None = None  # a key that an object has twice
        self.nan = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        self.raw_decode = self._decoder.raw_decode

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs) and self.repeated is None:
            seen = set[str]()
            self.repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return made

    def _constant(self, name: str) -> float | None:
        if name == "NaN":
            self.nan = True
            return None
        return float(name.replace("Infinity", "inf"))


def json_error(error: Exception, *, at_end: bool = False) -> tuple[str, str]:
    """Return what is wrong with a JSON text, and the decoder's word for it; neither quotes the text."""
    if isinstance(error, RecursionError):
        return "nested too deeply: brackets within brackets, a thousand and more", ""
    if not isinstance(error, json.JSONDecodeError):
        return "broken JSON", "a number of more than 4,300 digits"
    if error.doc[error.pos : error.pos + 1] in ("}", "]") and error.doc[
        max(0, error.pos - 64) : error.pos
    ].rstrip().endswith(","):
        return "a comma before the closing bracket of a list or an object, which JSON does not take; remove it", ""
    detail = error.msg.removesuffix(" starting at").removesuffix(" at")
    if at_end:
        return END, detail
    if error.doc[error.pos : error.pos + 1] == "'":
        return "single quotes, as Python prints values; JSON takes double quotes: write the file with json.dumps", ""
    return "broken JSON", detail


def _data_error(place: Place, error: Exception, *, at_end: bool = False) -> DataError:
    reason, detail = json_error(error, at_end=at_end)
    return DataError(f"{place}: {reason} ({detail})" if detail else f"{place}: {reason}")


class _JsonBuffer:
    """The part of a JSON text that is being parsed, knowing the line it is at."""

    def __init__(self, start: str, text: TextIO, name: str, line: int, notice: Notice) -> None:
        self.buffer, self.at, self.text, self.name, self.line = start, 0, text, name, line
        self.decoder, self.notice = _Decoder(), notice
        self.row: int | None = None  # of an array on one line: the number of the value
        self.ended = False

    def peek(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while True:
            found = WHITE_SPACE.match(self.buffer, self.at)
            end = found.end() if found else self.at
            self.line += self.buffer.count("\n", self.at, end)
            self.at = end
            if self.at < len(self.buffer) or not self._read_more():
                return self.buffer[self.at : self.at + 1]

    def value(self) -> JsonValue:
        """Parse the value that begins here. `DataError` when it is broken or never ends."""
        place = self.place
        while True:
            self.decoder.repeated = None
            try:
                found, end = self.decoder.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                if self._may_be_incomplete(error):
                    if len(self.buffer) - self.at >= MAX_RECORD_CHARS:
                        raise DataError(
                            f"{place}: a record of more than {MAX_RECORD_CHARS:,} characters, or a string or bracket "
                            "that is not closed; split the record, or correct that line"
                        ) from error
                    if self._read_more():
                        continue
                    raise _data_error(place, error, at_end=True) from error
                raise _data_error(place, error) from error
            if isinstance(found, (int, float)) and NUMBER_GOES_ON.match(self.buffer, end) and self._read_more():
                continue  # the buffer may end inside the number
            escaped = self.buffer.find(NUL_ESCAPE, self.at, end) >= 0
            self.line += self.buffer.count("\n", self.at, end)
            self.at = end
            return _checked(found, place, self.decoder, self.notice, may_hold_nul=escaped)

    @property
    def place(self) -> Place:
        """Where the next value begins."""
        return Place(self.name, self.line) if self.row is None else Place(self.name, self.row, "row")

    def head(self) -> str:
        """Return the text from here on, `READ_BYTES` characters of it if there are so many."""
        while len(self.buffer) - self.at < READ_BYTES and self._read_more():
            pass
        return self.buffer[self.at : self.at + READ_BYTES]

    def skip(self, expected: str) -> None:
        """Pass over one character, after white space. `DataError` where another one is found."""
        found = self.peek()
        if found != expected:
            raise DataError(f"{self.place}: found {found!r} where {expected!r} must follow; correct that line")
        self.at += 1

    def _read_more(self) -> bool:
        """Read on, dropping what was parsed."""
        read = "" if self.ended else self.text.read(max(READ_BYTES, len(self.buffer) - self.at))
        if not read:
            self.ended = True
            return False
        self.buffer, self.at = self.buffer[self.at :] + read, 0
        return True

    def _may_be_incomplete(self, error: Exception) -> bool:
        """Whether the value may have failed to parse only because the buffer ends in it."""
        near_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(self.buffer) - 16
        return near_end or "Unterminated string" in str(error)


def _checked(value: object, place: Place, decoder: _Decoder, notice: Notice, *, may_hold_nul: bool) -> JsonValue:
    if decoder.nan:
        decoder.nan = False
        notice(NAN_NOTICE)
    if decoder.repeated is not None:
        key = decoder.repeated
        shown = f"the key {key!r}" if key.isascii() and key.isidentifier() and len(key) <= 40 else ""
        return JsonValue(value, place, "a key occurs twice in one object, so its value is not certain", shown)
    if may_hold_nul and any("\0" in text for text in texts_in(value)):
        notice(NUL_NOTICE)
    return JsonValue(value, place)


def read_json(text: TextIO, name: str, notice: Notice) -> Iterator[JsonValue]:
    """Yield the values of JSON Lines if the first or the second line is an object; else as `read_json_values`.

    `notice` is called with what differs from standard JSON and is read nevertheless.
    """
    start, line = _first_line(text)
    if not start:
        return
    second = ""
    if start.lstrip()[0] == "{" and (start.endswith("\n") or len(start) < READ_BYTES):
        second = text.readline()
        if _is_line(second) or (_is_line(start) and _wrapped_at(start, name) is None):
            yield from _json_lines(itertools.chain((start, second), text), name, line, notice)
            return
    if start.lstrip()[0] == "[" and start.endswith("\n") and _is_line(start, list):
        second = text.readline(READ_BYTES)
        if second.lstrip().startswith("[") and not _is_list_of_objects(json.loads(start)):  # no rows: an array a line
            yield from _json_lines(itertools.chain((start, second), text), name, line, notice)
            return
    yield from _json_values(_JsonBuffer(start + second, text, name, line, notice))


def read_json_values(text: TextIO, name: str, notice: Notice) -> Iterator[JsonValue]:
    """Yield the values of an array, values one after the other, or one a line, whatever they are."""
    start, line = _first_line(text)
    ahead = text.readline(READ_BYTES) if start.endswith("\n") else ""
    if ahead.lstrip().startswith("[") and _is_line(start, list):  # an array a line, not one array
        yield from _json_lines(itertools.chain((start, ahead), text), name, line, notice)
        return
    yield from _json_values(_JsonBuffer(start + ahead, text, name, line, notice))


def read_json_members(text: TextIO, name: str, notice: Notice) -> Iterator[tuple[str, JsonValue]]:
    """Yield the members of one object, key and value. Raises `DataError` with the line."""
    buffer = _JsonBuffer("", text, name, 1, notice)
    buffer.skip("{")
    while buffer.peek() != "}":
        place = buffer.place
        key = buffer.value().value
        buffer.skip(":")
        buffer.peek()
        found = buffer.value()
        yield str(key), JsonValue(found.value, place, found.error, found.detail)
        if buffer.peek() != "}":
            buffer.skip(",")
    buffer.at += 1
    if buffer.peek():
        raise DataError(f"{buffer.place}: text after the end of the object")


def _first_line(text: TextIO) -> tuple[str, int]:
    """The first line that is not blank (its beginning, where it is long), and its number."""
    start, line = text.readline(READ_BYTES), 1
    while start and not start.strip():
        line += start.endswith("\n")
        start = text.readline(READ_BYTES)
    return start, line


def _is_line(line: str, kind: type = dict) -> bool:
    """Whether a line is a whole value of this kind, as far as it can be told of one that is nested too deeply."""
    stripped = line.strip().removesuffix(",")
    try:
        return isinstance(json.loads(stripped), kind)
    except RecursionError:
        return kind is dict and stripped.startswith("{") and stripped.endswith("}")
    except ValueError:
        return False


def _json_lines(lines: Iterator[str], name: str, first: int, notice: Notice) -> Iterator[JsonValue]:
    decoder = _Decoder()
    for number, line in enumerate(lines, first):
        text = line.strip().lstrip("\ufeff")  # a mark in the middle, where files were put one after the other
        if not text:
            continue
        if text.endswith(",") and text[0] in "{[":
            text = text[:-1].rstrip()
            notice(COMMA_NOTICE)
        yield _json_line(text, Place(name, number), decoder, notice, ended=line.endswith("\n"))


def _json_line(text: str, place: Place, decoder: _Decoder, notice: Notice, *, ended: bool) -> JsonValue:
    decoder.repeated = None
    try:
        value, end = decoder.raw_decode(text)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        unfinished = isinstance(error, json.JSONDecodeError) and (
            error.pos >= len(text) or error.msg.startswith("Unterminated")
        )
        return JsonValue(None, place, *json_error(error, at_end=unfinished and not ended))
    return _checked(value, place, decoder, notice, may_hold_nul=NUL_ESCAPE in text)


def _wrapped_at(head: str, name: str) -> tuple[str, int] | None:
    """Return the key and the start of the array of rows in `{"data": [{...`, None where the text is no such object."""
    decoder, at = json.JSONDecoder(), head.find("{") + 1
    lists = 0
    while True:
        try:
            key, at = decoder.raw_decode(head, _after(WHITE_SPACE, head, at))
            at = _after(COLON, head, at)
            if str(key).lower() in WRAPPERS and OBJECTS.match(head, at):
                if lists:
                    raise DataError(f"{name}:1: {SEVERAL_LISTS}")
                return str(key), at
            value, at = decoder.raw_decode(head, at)
            lists += _is_list_of_objects(value)
            at = _after(COMMA, head, at)
        except (ValueError, RecursionError):
            return None


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where the pattern ends that begins here. `ValueError` where it does not."""
    found = pattern.match(text, at)
    if found is None:
        raise ValueError
    return found.end()


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _json_values(buffer: _JsonBuffer) -> Iterator[JsonValue]:
    """The values of an array, or values one after the other; of a wrapper the rows in it."""
    first = buffer.peek()
    if first == "{":
        wrapped = _wrapped_at(buffer.head(), buffer.name)
        if wrapped is not None:
            yield from _wrapped_values(buffer, *wrapped)
            return
    if first == "[":
        yield from _array_values(buffer)
        while buffer.peek() == "[":
            buffer.notice(ARRAYS_NOTICE)
            yield from _array_values(buffer)
        if buffer.peek():
            raise DataError(f"{buffer.place}: text after the end of the array; remove it, or write one array")
        return
    while found := buffer.peek():
        if found == ",":
            buffer.notice(COMMA_NOTICE)
            buffer.at += 1
            continue
        yield buffer.value()


def _wrapped_values(buffer: _JsonBuffer, key: str, start: int) -> Iterator[JsonValue]:
    """The rows of `{"data": [...]}`, whose array begins `start` characters after here."""
    buffer.notice(f'holds its rows in a list under the key "{key}", and they are read')
    buffer.line += buffer.buffer.count("\n", buffer.at, buffer.at + start)
    buffer.at += start
    yield from _array_values(buffer)
    while buffer.peek() == ",":
        buffer.at += 1
        buffer.peek()
        buffer.value()
        buffer.skip(":")
        buffer.peek()
        place = buffer.place
        if _is_list_of_objects(buffer.value().value):
            raise DataError(f"{place}: {SEVERAL_LISTS}")
    buffer.skip("}")
    if buffer.peek():
        raise DataError(f"{buffer.place}: text after the end of the object; write one object a line, or an array")


def _array_values(buffer: _JsonBuffer) -> Iterator[JsonValue]:
    """The values of the array that begins here. Where they share a line, they are numbered in place of lines."""
    line, count = buffer.line, 0
    buffer.row = None
    buffer.at += 1
    while (found := buffer.peek()) != "]":
        if not found:
            raise DataError(f"{buffer.place}: the array is not closed: the file ends in the middle; copy it again")
        count += 1
        if buffer.row is not None:
            buffer.row = count
        value = buffer.value()
        found = buffer.peek()
        if found == ",":
            buffer.at += 1
            if buffer.peek() == "]":
                buffer.notice(TRAILING_NOTICE)
            elif count == 1 and buffer.line == line:
                buffer.row = 1
                value = replace(value, place=buffer.place)
        yield value
        if found and found not in ",]":
            raise DataError(f"{buffer.place}: found {found!r} where a comma or ] must follow a record")
    buffer.at += 1
    buffer.row = None
