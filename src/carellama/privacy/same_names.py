"""The same name in one record is treated alike: found once with confidence, it is found in all its texts.

    treat_alike(["您好马医生", "又来麻烦马医生"], found)   # adds 马 in the second text to found[1]

A name also counts in part (Jane, after Jane Doe; 小明, after 王小明; 黄教授, after 黄建安教授).
A word that only looked like a name is dropped everywhere if one of its mentions is a medicine (易坦静口服液).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from carellama.privacy.kinds import Span
from carellama.privacy.medical_context import evidence, within_word
from carellama.privacy.names_en_prose import is_part_of_thing
from carellama.privacy.names_en_prose import is_thing as is_thing_en
from carellama.privacy.names_zh import surname_of, title_pattern
from carellama.privacy.names_zh_prose import is_token, load_word_frequencies
from carellama.privacy.rules import fragment
from carellama.privacy.word_lists import chinese, english, medical_terms
from carellama.text import HAN_CHARACTER

_SURE = 0.6  # score from which something says that it is a name: a label, a title, a form
_BEHIND = frozenset("应需须宜要能可会已未曾将仍又也都")  # begin what is said of a person
_THING = -8.0  # evidence from which a mention is a medicine


def treat_alike(plains: Sequence[str], found: Sequence[set[Span]]) -> None:
    """Add further mentions of the names in `found`, and drop what is a medicine in another mention."""
    names: dict[str, float] = {}
    for plain, spans in zip(plains, found, strict=True):
        for kind, start, end, score in spans:
            if kind == "NAME":
                name = plain[start:end]
                names[name] = max(score, names.get(name, 0.0))
    if not names:
        return
    things = {
        name
        for name, score in names.items()
        if score < _SURE and (_is_thing(name, plains) or (name.isascii() and is_thing_en(name, plains)))
    }
    for plain, spans in zip(plains, found, strict=True):
        if things:
            dropped = [span for span in spans if span[0] == "NAME" and plain[span[1] : span[2]] in things]
            spans.difference_update(dropped)
        longer = [span for span in spans if span[0] == "NAME" and _runs_on(plain[span[1] : span[2]], names)]
        spans.difference_update(longer)
        spans.update((kind, start, end - 1, score) for kind, start, end, score in longer)
        for mention in _mentions(plain, {name for name in names.keys() - things if not _runs_on(name, names)}):
            spans.add(mention)


def _runs_on(name: str, names: Collection[str]) -> bool:
    """Whether a name is another one of the record with the verb behind it: 孙浩应 of 孙浩应复查."""
    return len(name) > 2 and name[-1] in _BEHIND and name[:-1] in names


def _is_thing(name: str, plains: Sequence[str]) -> bool:
    """Whether a mention of these Chinese characters, found as a name or not, is a medicine or the like."""
    return (
        len(name) > 1
        and bool(HAN_CHARACTER.search(name))
        and any(
            evidence(plain, match.start(), match.end()) <= _THING
            for plain in plains
            for match in re.finditer(re.escape(name), plain)
        )
    )


def _mentions(plain: str, names: set[str]) -> Iterator[Span]:
    chinese = {name for name in names if HAN_CHARACTER.search(name)}
    for name in sorted(chinese, key=len, reverse=True):
        for part in {name, name.replace(" ", "")} | _given(name):
            if len(part) > 1:
                for match in re.finditer(re.escape(part), plain):
                    if not within_word(plain, *match.span()) and not _is_titled(plain, match.end()):
                        yield "NAME", *match.span(), 0.6
    surnames = {surname for name in chinese if (surname := surname_of(name))}
    if surnames:
        yield from _titled(plain, surnames)
    for word in _english(names - chinese):
        eponym = fragment("prose_en", "EPONYM_CONTEXT")
        pattern = re.compile(rf"(?<![A-Za-z\-]){re.escape(word)}(?![A-Za-z])(?!{eponym})")
        for match in pattern.finditer(plain):
            if not is_part_of_thing(plain, *match.span()):
                yield "NAME", *match.span(), 0.6


def _is_titled(plain: str, end: int) -> bool:
    """Whether the last character begins a title: 陈主 of 陈主任."""
    title = title_pattern().match(plain, end - 1)
    return bool(title) and title.end() > end  # type: ignore[union-attr]


def _given(name: str) -> set[str]:
    """The given name of two characters alone, unless it is a word: 小明 of 王小明."""
    given = name[-2:]
    size = len(name) - 2
    if (
        (size != 1 and name[:-2] not in chinese().compound_surnames)
        or not surname_of(name)
        or given in medical_terms().words
    ):
        return set()
    known = load_word_frequencies()
    return {given} if given not in known.words or given in known.people else set()


def _titled(plain: str, surnames: set[str]) -> Iterator[Span]:
    """The surnames before a title: 马 in 又来麻烦马医生."""
    for match in title_pattern().finditer(plain):
        end = match.start() - (plain[match.start() - 1 : match.start()] == "姓")
        for size in (2, 1):
            start = end - size
            if start >= 0 and plain[start:end] in surnames and is_token(plain, start, end):
                yield "NAME", start, end, 0.6
                break


def _english(names: set[str]) -> set[str]:
    """Whole English names, and their words that begin with a capital."""
    parts = {
        word
        for name in names
        for word in re.findall(r"[A-Za-z'’\-]{3,}", name)
        if word[0].isupper() and word.lower() not in english().not_names
    }
    return names | parts
