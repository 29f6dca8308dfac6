"""The pieces of work of a run: which passage or conversation, for the how manieth time, under which key.

    for piece in pieces(arguments, account): ...    # a Piece

The first round takes each passage once, in the order of the sources, the next one once more, until there are enough.
The same text is taken once a round; a conversation is taken once in all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from carellama.config.data import DataOptions
from carellama.config.data_commands import SynthesizeOptions
from carellama.data.convert import BadRecord, texts_of
from carellama.data.datasets import load_datasets
from carellama.data.documents.extract import SUFFIXES, documents
from carellama.errors import UserError
from carellama.records import Chat, Message, Pair, Place, Record, Text
from carellama.text import language

OF_PASSAGES = ("qa", "consultation")  # the other tasks are of conversations
SHORTEST = 40  # characters of a passage that is worth a question
FRONT_MATTER = re.compile(r"\A---\n(?:.*\n)*?.*---\n")  # the settings before a Markdown article
Skip = Callable[[str, Place], None]  # told the reason and the place of what is left out


@dataclass(frozen=True)
class Piece:
    """One record to be made. `sha1` is that of the passage or conversation; `number` counts its rounds from 0."""

    key: str
    source: Text | Chat
    sha1: str
    number: int
    language: str  # zh or en


def pieces(arguments: SynthesizeOptions, skip: Skip) -> list[Piece]:
    """The first `arguments.records` pieces. Memory: the passages. Raises `UserError` where there is none."""
    sources: dict[str, Text | Chat] = {}
    for source in _sources(arguments, skip):
        sha1 = sha1_of("\n".join(texts_of(source)))
        if sha1 in sources:
            skip("source: the same text again", source.place)
            continue
        sources[sha1] = source
        if len(sources) == arguments.records:
            break
    if not sources:
        wanted = "passage" if arguments.task in OF_PASSAGES else "conversation"
        raise UserError(
            f"{', '.join(arguments.sources)}: no usable {wanted}; "
            "qa and consultation take documents, rewrite and preference take conversations"
        )
    rounds = -(-arguments.records // len(sources)) if arguments.task != "preference" else 1
    found = [
        Piece(sha1_of(f"{arguments.task} {sha1} {number}"), source, sha1, number, _language(source, arguments.language))
        for number in range(rounds)
        for sha1, source in sources.items()
    ]
    return found[: arguments.records]


def sha1_of(text: str) -> str:
    """The SHA-1 of a text, in hexadecimal."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _language(source: Text | Chat, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "en" if language("\n".join(texts_of(source))) in ("en", "other") else "zh"


def _sources(arguments: SynthesizeOptions, skip: Skip) -> Iterator[Text | Chat]:
    if arguments.task in OF_PASSAGES:
        yield from _passages(arguments, skip)
        return
    for record in _records(arguments.sources, arguments.dataset_dir, skip):
        if isinstance(record, Pair):
            answer = Message("assistant", record.chosen)
            yield Chat((*record.prompt, answer), record.place, record.meta, tools=record.tools)
        elif isinstance(record, Chat):
            yield record
        else:
            skip("source: not a conversation", record.place)


def _passages(arguments: SynthesizeOptions, skip: Skip) -> Iterator[Text]:
    for name in arguments.sources:
        path = Path(name)
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            found: Iterator[Record | BadRecord] = iter(documents(path, chunk_chars=arguments.passage_chars))
        else:
            found = _records([name], arguments.dataset_dir, skip)
        for one in found:
            if isinstance(one, BadRecord):
                skip(f"source: {one.reason}", one.place)
            elif not isinstance(one, Text):
                skip("source: not a text", one.place)
            elif len(text := FRONT_MATTER.sub("", one.text).strip()) < SHORTEST:
                skip(f"source: under {SHORTEST} characters", one.place)
            else:
                yield Text(text, one.place, one.meta)


def _records(names: list[str], dataset_dir: str, skip: Skip) -> Iterator[Record]:
    """The usable records of datasets or files; the others are told to `skip`."""
    for dataset in load_datasets(names, DataOptions(dataset_dir=dataset_dir)):
        for row in dataset.rows():
            try:
                yield dataset.record(row)
            except BadRecord as error:
                skip(f"source: {error.reason}", error.place)


def questions_of(names: list[str], dataset_dir: str, skip: Skip) -> Iterator[Chat | Pair]:
    """The conversations whose questions are not to be written again."""
    for record in _records(names, dataset_dir, skip):
        if isinstance(record, (Chat, Pair)):
            yield record
