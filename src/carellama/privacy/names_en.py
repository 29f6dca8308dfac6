"""Checks of the rules for English names behind a label (Name:), a title (Dr), "my name is", at the end of a letter.

    trim_name(Candidate(plain, match, *match.span("value")))   # True; cut to Jane Doe of "Jane Doe today"

The patterns are in `rules/names_en.yaml`; names in running text are detected in `names_en_prose`.
"""

from __future__ import annotations

import re

from carellama.privacy.names_en_prose import is_listed
from carellama.privacy.rules import Candidate, Checks, fragment, fragment_pattern
from carellama.privacy.word_lists import english

_PARTICLES = frozenset("de del da dos di van von der den bin ibn al el la le ter ten".split())


def is_speech(found: Candidate) -> bool:
    """Whether what somebody says begins here, and not a name: Assistant: Hm, I think."""
    plain, start = found.plain, found.start
    first = re.match(r"[^\s,.!?]*", plain[start : start + 40])
    return bool(
        fragment_pattern("names_en", "SPEAKER").search(plain, max(0, start - 16), start)
        and not (first and is_listed(first[0]))
        and not fragment_pattern("names_en", "NAME_LINE").match(plain, start)
    )


def is_lower_case(found: Candidate) -> bool:
    """Whether all letters are in lower case."""
    return found.text.islower()


def has_known_name(found: Candidate) -> bool:
    """Whether one of its words is in the lists of names."""
    return any(map(_is_known_name, found.text.split()))


def is_surname_first(found: Candidate) -> bool:
    """Whether a known surname and a known given name stand there: smith, john."""
    last, first = (word.lower() for word in found.text.split()[:2])
    last, words = last.rstrip(","), english()
    return last in words.last_names and first in words.first_names and not {last, first} & words.not_names


def trim_name(found: Candidate, *, any_case: bool = False, known: bool = False, signed: bool = False) -> bool:
    """Keep the words up to the first that is no name, by default one without a capital, if a name is left."""
    plain, value = found.plain, found.text
    if stop := fragment_pattern("names_en", "STOP").search(value):
        value = value[: stop.start()]
    if fragment_pattern("names_en", "BODY", re.IGNORECASE).search(value):
        return False
    end = _name_length(value, any_case=any_case, known=known)
    if not end or (end == 1 and not value[0].isupper()):
        return False
    name = value[:end].rstrip(" ,")
    name = name[:-2] if name.endswith(("'s", "’s")) else name
    name = name if re.search(r"(?: |^)[A-Z]\.$", name) else name.rstrip(".")
    found.end = found.start + len(name)
    return not (
        len(name.strip(".")) < 2
        or fragment_pattern("names_en", "EPONYM_CONTEXT", re.IGNORECASE).match(plain, found.end)
        or (signed and len(name) < 3)
        or name.lower() in english().phrases
        or plain.startswith("_", found.end)
        or fragment_pattern("names_en", "MACHINE", re.IGNORECASE).match(plain, found.end)
        or (name.isupper() and len(name) < 5 and " " not in name and not _is_known_name(name))
    )


def trim_name_any_case(found: Candidate) -> bool:
    """Like `trim_name`, for names in lower case as well."""
    return trim_name(found, any_case=True)


def trim_known_name(found: Candidate) -> bool:
    """Like `trim_name`, for names of any case whose words are all in the lists."""
    return trim_name(found, any_case=True, known=True)


def trim_stated_name(found: Candidate) -> bool:
    """Cut what stands behind "my name is": in lower case only a known name, but behind "named" any."""
    words = found.match[0].lower()
    named = "name" not in words or "named" in words
    return trim_name(found, any_case=not named or _is_known_name(found.text.split()[0]))


def trim_signature(found: Candidate) -> bool:
    """Cut what stands at the end of a letter: up to three words, the first of which may begin a name."""
    words = found.text.split()
    return len(words) <= 3 and trim_name(found, any_case=_is_known_name(words[0]), signed=True)


def _name_length(value: str, *, any_case: bool, known: bool) -> int:
    """Where the words end that may be a name."""
    end, words = 0, english()
    particle = fragment("names_en", "PARTICLE").replace(r"[ \-]", "")
    for word in re.finditer(r"[^ ,]+", value):
        if not end and word[0] in _PARTICLES:
            continue
        bare = re.sub(r"['’]s$", "", word[0].lower().strip(".,'’"))
        capital = word[0][0].isupper()
        if (
            (bare in words.not_names and not (end and capital and bare in words.last_names))
            or fragment_pattern("names_en", "TRADE").search(bare)
            or (not end and _is_ordinary_word(bare))
            or not bare
            or (not capital and not any_case and not (end and re.match(r"(?:al|el|ul|bin|abu)-[A-Z]", word[0])))
            or (known and len(bare) > 1 and not _is_known_name(bare))
        ):
            if not (end and re.fullmatch(particle, word[0])):
                break
            continue
        end = word.end()
    return end


def _is_known_name(word: str) -> bool:
    word, words = word.lower().strip(".,'’"), english()
    return (word in words.first_names or word in words.last_names) and word not in words.not_names


def _is_ordinary_word(bare: str) -> bool:
    """Whether a word in lower case is an everyday one by the list or its ending, and no known name."""
    words = english()
    if bare in words.ordinary:
        return True
    ending = len(bare) > 4 and fragment_pattern("names_en", "COMMON_ENDING").search(bare)
    return bool(ending) and bare not in words.first_names and bare not in words.last_names


CHECKS: Checks = {
    check.__name__: check
    for check in (
        *(is_speech, is_lower_case, has_known_name, is_surname_first, trim_name, trim_name_any_case, trim_known_name),
        *(trim_stated_name, trim_signature),
    )
}
