"""Identifiers out of records: out of all their texts and out of what is said beside them, numbered together.

    deidentified(record, Deidentifier(), counts)   # the record with [NAME_1] and the like; counts by kind

Fields of `meta` whose key names an identifier (patient, name, phone, 姓名, ...) are taken out whole, and a name that
stands there is removed from the texts as well; all other values of `meta` pass the same search as a text. The id of an
exam question and the letters of its options stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from carellama.data.convert import BadRecord, texts_of
from carellama.privacy.deidentify import Deidentifier
from carellama.privacy.fields import kind_of_key
from carellama.records import Chat, Message, Pair, Question, Record, Text
from carellama.text import HAN_CHARACTER

# Keys that say so of a field but not of a line of text, where "name: ..." may be that of a drug.
KEYS = {
    "NAME": "name nickname user doctor 昵称 用户 用户名 医生姓名",
    "ADDRESS": "address homeaddress 地址 住址 家庭住址 现住址 户籍地址",
    "BIRTH_DATE": "birth birthday birthdate dateofbirth dob 生日 出生日期 出生年月",
}
KIND = {key: kind for kind, keys in KEYS.items() for key in keys.split()}
NO_PATIENT = frozenset({"author"})  # of a book


def deidentified(record: Record, deidentifier: Deidentifier, counts: Counter[str]) -> Record:
    """The record without identifiers; what was replaced or taken out is added to `counts` by kind.

    Raises `BadRecord` for a pair whose answers differ in identifiers alone.
    """
    kinds = {key: kind_of_field(key) for key in record.meta}
    kept = [key for key, kind in kinds.items() if kind is None]
    names = [_introduced(record.meta[key]) for key, kind in kinds.items() if kind == "NAME"]
    own = texts_of(record)
    texts, found = deidentifier.deidentify_texts([*own, *(record.meta[key] for key in kept), *names])
    taken = Counter(kind for kind in kinds.values() if kind is not None)
    for name, after in zip(names, texts[len(texts) - len(names) :], strict=True):
        taken["NAME"] -= name != after  # counted by the search
    if not found and not +taken:
        return record
    changed = _with_texts(record, texts[: len(own)])
    counts.update(found)
    counts.update(+taken)
    return replace(changed, meta=dict(zip(kept, texts[len(own) :], strict=False)))


def kind_of_field(key: str) -> str | None:
    """The kind of identifier that a field of `meta` holds by its key, if any."""
    whole = re.sub(r"[\W_]+", "", key).lower()
    return None if whole in NO_PATIENT else KIND.get(whole) or kind_of_key(whole)


def _introduced(name: str) -> str:
    return f"姓名：{name}" if HAN_CHARACTER.search(name) else f"Name: {name}"


def _with_texts(record: Record, texts: Sequence[str]) -> Record:
    """The record with these in place of its `texts_of`."""
    if isinstance(record, Text):
        return replace(record, text=texts[0])
    if isinstance(record, Question):
        options = dict(zip(record.options, texts[1:], strict=False))
        return replace(record, stem=texts[0], options=options, explanation=texts[-1] if record.explanation else "")
    if isinstance(record, Chat):
        return replace(record, messages=_messages(record.messages, texts))
    assert isinstance(record, Pair)
    if texts[-1] == texts[-2]:
        raise BadRecord(record.place, "ranked answers differ in identifiers alone")
    return replace(record, prompt=_messages(record.prompt, texts), chosen=texts[-2], rejected=texts[-1])


def _messages(messages: Sequence[Message], texts: Sequence[str]) -> tuple[Message, ...]:
    """The messages with these in place of their contents and of the arguments of their calls."""
    new = iter(texts)
    return tuple(
        replace(
            message,
            content=next(new),
            calls=tuple(replace(call, arguments=next(new)) for call in message.calls),
        )
        for message in messages
    )
