"""English names that stand in a sentence: words that are known names, weighed with what stands around them.

    list(detect_names_in_prose("Please tell Maria that Bjorn Hallgren phoned"))   # Maria, and Bjorn Hallgren

Words with a capital that follow one another are a candidate; each adds to its weight by what it is (a given name, a
surname, unknown, an everyday word), and so do the words before and behind it. Given names in lower case need more of
their surroundings, more still if they are words (rose, dawn); those that are mostly things (aura, ginger) need it
always. A place, a drug or an eponym is told by the lists and by the word behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from carellama.privacy.kinds import Span
from carellama.privacy.rules import fragment, fragment_pattern, load_clues
from carellama.privacy.word_lists import english, groups, scowl

_THRESHOLD = 4.5
_THING = -3.0
_PARTICLES = frozenset("de del la da dos di van von der den bin bint ibn al el le ter ten du st st. abu ben".split())
_FORMS = (
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
    ("ied", "y"),
    ("ed", ""),
    ("ed", "e"),
    ("ing", ""),
    ("ing", "e"),
    ("ly", ""),
)


class NameFrequencies(NamedTuple):
    """What words are, in lower case."""

    first: frozenset[str]
    last: frozenset[str]
    words: frozenset[str]


@cache
def load_name_lists() -> NameFrequencies:
    """Read the lists: given names, surnames, everyday words."""
    listed = groups("names_en.txt")
    places = english().places
    first = (listed["first"] | listed["both"] | english().first_names | english().world_names) - places
    last = (listed["last"] | listed["both"] | english().last_names) - places
    words = listed["words"] | english().ordinary | scowl()
    return NameFrequencies(frozenset(first), frozenset(last), frozenset(words))


def _is_form(bare: str) -> bool:
    """Whether a word in lower case is a form of an everyday word: leukocytes, dizzily."""
    words = load_name_lists().words
    return any(
        bare.endswith(ending) and len(bare) - len(ending) > 2 and bare[: len(bare) - len(ending)] + rest in words
        for ending, rest in _FORMS
    )


def _word_score(word: str) -> float | None:
    """How much a capitalised word adds to a name; None for one that is none."""
    lists_ = load_name_lists()
    bare = word.lower().rstrip(".'")
    bare = bare[:-2] if bare.endswith("'s") else bare
    if len(bare.replace(".", "")) == 1 or re.fullmatch(r"(?:[A-Z]\.){2,}", word):
        return 0.5
    first, last = bare in lists_.first, bare in lists_.last
    capitals = word.isupper()
    if fragment_pattern("prose_en", "NO_WORD").search(word) and not fragment_pattern("prose_en", "CAMEL_CASE").match(
        word
    ):
        return None
    words = english()
    if bare in words.places and bare in english().first_names and not capitals:
        return 1.5
    if bare in english().not_names or bare in words.places or bare in words.drugs:
        return None
    if bare in lists_.words:
        return 1.5 if first and bare in english().first_names and not capitals else None
    if bare in words.things:
        return 1.5
    if bare in words.surname_words and not first:
        return 1.0
    if first or last:
        if capitals and len(bare) < 4 and bare not in english().first_names and bare not in english().last_names:
            return None
        worth = 4.0 if first else 3.0
        return worth - 1.5 if capitals else worth
    if _is_form(bare):
        return None
    if "-" in bare:
        if capitals:  # AL-RASHID, but not HTLV-II or NEO-FFI
            known = any(len(part) > 3 and part in lists_.first | lists_.last for part in bare.split("-"))
            return 2.5 if known else None
        parts = [_word_score(part.capitalize()) for part in bare.split("-") if part]
        return None if None in parts or not parts else max(parts, default=0.0)  # type: ignore[type-var]
    if len(bare) == 2 and not capitals:
        return 0.5
    if fragment_pattern("prose_en", "ENDINGS").search(bare) or len(bare) < 3 or (capitals and len(bare) < 4):
        return None
    return 1.0 if capitals else 1.5


def detect_names_in_prose(plain: str) -> Iterator[Span]:
    """Yield the names in a normalized text with Latin letters: (kind, start, end, score)."""
    tokens = list(fragment_pattern("prose_en", "WORD").finditer(plain))
    index, last = 0, -9
    while index < len(tokens):
        run = _candidate_run(plain, tokens, index)
        if not run:
            index += 1
            continue
        start, end = run[0].start(), run[-1].end()
        worth = _run_score(run) + (1.0 if "," in plain[start:end] else 0.0) + _context_score(plain, start, end)
        if plain[last:start] in (" and ", " & ", "/", ", ", " or ", ", and ") and _run_score(run) >= 2.0:
            worth += 2.5  # one of several: Drs. Feldman and Osei
        if _shouted(plain, start, end):
            worth -= 3.0
        if worth >= _THRESHOLD and plain[start:end].lower() not in english().phrases:
            last = end
            yield "NAME", start, end - (2 if plain[start:end].endswith("'s") else 0), 0.5
        index += len(run)
    yield from _detect_lower_case(plain, tokens)


def _leads(token: re.Match[str]) -> bool:
    """Whether a word begins a line or sentence and a word in lower case follows: Keycare only covers ..."""
    before, behind = token.string[: token.start()].rstrip(" "), token.string[token.end() : token.end() + 3]
    return (not before or before[-1] in "\n.!?:") and bool(re.match(r" (?:a |[a-z]{2})", behind))


def _leads_as_a_word(token: re.Match[str]) -> bool:
    """Whether a word begins a line or sentence, and what follows is nothing that only a person does."""
    return _leads(token) and not fragment_pattern("prose_en", "PERSON_DOES").match(token.string, token.end())


def is_listed(word: str) -> bool:
    """Whether a word is in a list of names."""
    known, bare = load_name_lists(), re.sub(r"['’]s$|\.$", "", word.lower())
    return bare in known.first or bare in known.last or bare in english().first_names


def _shouted(plain: str, start: int, end: int) -> bool:
    """Whether all letters around are capitals, so that those of a word say nothing: THIS IS A MIRACLE DRUG."""
    around = plain[max(0, start - 24) : start] + plain[end : end + 24]
    letters = [character for character in around if character.isascii() and character.isalpha()]
    return len(letters) > 11 and all(map(str.isupper, letters))


def _candidate_run(plain: str, tokens: list[re.Match[str]], index: int) -> list[re.Match[str]]:
    """The words from one on that may be a name together."""
    run: list[re.Match[str]] = []
    for token in tokens[index : index + 6]:
        gap = plain[run[-1].end() : token.start()] if run else ""
        if (
            run
            and gap not in (" ", ". ", "  ")
            and not (
                gap == ", "
                and sum(one[0].lower() not in _PARTICLES for one in run) == 1
                and _surname_first(plain, run[0].start(), run[-1][0], token[0])
            )
        ):
            break
        if gap == ". " and len(run[-1][0]) > 1:
            break
        word = token[0]
        if (
            word.lower() in _PARTICLES
            and len(word) > 1
            and (run or word[0].islower() or word not in ("St", "Al", "Ben"))
        ):
            run.append(token)
            continue
        if not word[0].isupper() or (word.isupper() and len(word.rstrip(".")) > 1 and run and not run[-1][0].isupper()):
            break
        weight = _word_score(word)
        if weight is None:
            if (
                run
                and (_word_score(run[0][0]) or 0.0) > 1.0
                and word[1:].islower()
                and len(run) < 3
                and not fragment_pattern("prose_en", "ENDINGS").search(word.lower())
            ):
                after = tokens[index + len(run) + 1 : index + len(run) + 2]
                if (
                    after
                    and after[0][0][0].isupper()
                    and plain[token.end() : after[0].start()] == " "
                    and (_word_score(after[0][0]) or 0.0) >= 1.5
                ):
                    run += [token, after[0]]  # Mehmet Can Aksoy
                elif _may_be_surname(word):
                    run.append(token)
            break
        run.append(token)
        if plain.startswith("'s", token.end() - 2):
            break
    while run and (run[-1][0].lower() in _PARTICLES or (len(run) == 1 and len(run[-1][0].rstrip(".")) == 1)):
        run.pop()
    return run if any(token[0][0].isupper() for token in run) else []


def _surname_first(plain: str, at: int, last: str, first: str) -> bool:
    """Whether two words with a comma between are a surname and a given name: known ones, or in a field or a row."""
    known, weights = load_name_lists(), (_word_score(last.capitalize()), _word_score(first.capitalize()))
    if None in weights or weights[0] == 0.5 or len(first.rstrip(".")) < 2:
        return False
    if last.lower() in known.last and (first.lower() in known.first or last.isupper()):
        return True
    return bool(
        fragment_pattern("prose_en", "FIELD", re.IGNORECASE | re.MULTILINE).search(plain, max(0, at - 28), at)
    ) or (last.isupper() and len(last) > 2 and first[1:].islower())


def _may_be_surname(word: str) -> bool:
    """Whether an everyday word may be a surname behind a given name: Emily Price."""
    bare = word.lower()
    if fragment_pattern("prose_en", "BODY_NAMES", re.IGNORECASE).fullmatch(word) or bare in english().not_names:
        return False
    return (
        bare in load_name_lists().last
        or bare in english().last_names
        or (len(bare) > 3 and not fragment_pattern("prose_en", "ENDINGS").search(bare))
    )


def _run_score(run: list[re.Match[str]]) -> float:
    words = [token[0] for token in run if token[0].lower() not in _PARTICLES]
    weights = [_word_score(word) or 0.0 for word in words]
    if max(weights) <= 1.0 and any(len(word) > 1 and word.isupper() for word in words):
        return -9.0  # PCWP, RVSP: no name is known in these capitals
    if len(words) == 1 and (words[0].isupper() or len(words[0]) < 3):
        weights[0] -= 1.5 if words[0].isupper() else 3.0  # GERD, ANCA and ELISA are names as well
    if len(words) == 1 and not is_listed(words[0]):  # Rhineton, Observatn: what stands around has to say more
        weights[0] -= 1.0 if words[0].isupper() or not _leads(run[0]) else 3.0
    if len(words) == 1 and words[0].lower() in english().given_words and _leads_as_a_word(run[0]):
        weights[0] -= 2.0  # Rosemary is, Amber urine may: but Rosemary phoned
    long = sum(weight > 0.5 for weight in weights)
    return sum(weights) + (1.5 if long > 1 else 0.5 if len(words) > 1 else 0.0)


def _context_score(plain: str, start: int, end: int) -> float:
    """What stands around says."""
    before, behind = plain[max(0, start - 28) : start], plain[end : end + 24]
    if plain[end - 2 : end] == "'s":
        behind = "'s" + behind
    left = next((clue.worth for clue in load_clues("prose_en", "before") if clue.pattern.search(before)), 0.0)
    right = next((clue.worth for clue in load_clues("prose_en", "behind") if clue.pattern.match(behind)), 0.0)
    return left + right


def is_part_of_thing(plain: str, start: int, end: int) -> bool:
    """Whether what stands around says that it is a thing: Langerhans cells."""
    return _context_score(plain, start, end) <= _THING


def is_thing(name: str, plains: Iterable[str]) -> bool:
    """Whether half of the mentions of one word stand as a thing does: in the Sami language, the Sami."""
    if " " in name:
        return False
    letter = fragment("prose_en", "LETTER")
    form = re.compile(rf"(?<![{letter}\-]){re.escape(name)}(?![{letter}])")
    worths = [_context_score(plain, *match.span()) for plain in plains for match in form.finditer(plain)]
    return 2 * sum(worth < 0.0 for worth in worths) >= len(worths) > 0


def _detect_lower_case(plain: str, tokens: list[re.Match[str]]) -> Iterator[Span]:
    """Given names in lower case, and a surname behind them."""
    known, words = load_name_lists(), english()
    for index, token in enumerate(tokens):
        word = token[0]
        bare = word[:-2] if word.endswith("'s") else word
        if (
            not word.islower()
            or len(bare) < 4
            or not all(part in known.first for part in bare.split("-"))
            or bare in known.words
            or bare in words.not_names
            or bare in words.things
        ):
            continue
        end = token.start() + len(bare)
        worth = 1.0 if bare in words.given_words else 2.5
        if index + 1 < len(tokens) and plain[token.end() : tokens[index + 1].start()] == " ":
            after = tokens[index + 1][0]
            if (
                after.islower()
                and len(after) > 2
                and after not in known.words
                and after not in words.not_names
                and after not in words.surname_words
                and after in known.last
            ):
                worth, end = worth + 2.0, tokens[index + 1].end()
        if worth + _context_score(plain, token.start(), end) >= _THRESHOLD:
            yield "NAME", token.start(), end, 0.45
    for match in fragment_pattern("prose_en", "TITLED").finditer(plain):
        bare = match["value"]
        if not (
            bare in known.words
            or bare in words.not_names
            or bare in words.drugs
            or fragment_pattern("prose_en", "ENDINGS").search(bare)
        ):
            yield "NAME", *match.span("value"), 0.45
