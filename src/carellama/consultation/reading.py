"""What a person says, read into slots by rules: words, numbers and the clause that they stand in.

    said = read_text("I'm 34, on the pill, started Tuesday")
    said.slots          # {"age_sex": "I'm 34", "drugs": "on the pill", "onset": "started Tuesday"}
    said.age            # 34.0

A clause goes to the slot whose words it has; one without goes with the clause before. Questions fill nothing: "is
paracetamol safe?" does not say that it is taken. Takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal

from carellama.consultation.complaints import load_guide
from carellama.consultation.persons import has_own_trouble, is_bystander
from carellama.consultation.questions import slots_data
from carellama.consultation.state import SLOTS, Reader, Slot
from carellama.package_data import Patterns, flat_terms
from carellama.rules import SENTENCE_END, Lexicon, Mention, Mentions, normalize, words_between
from carellama.safety.medication.conflicts import person_facts
from carellama.safety.rules.measures import NUMBER, find_measures, read_number

PATTERNS = Patterns("consultation/reading.yaml")

Answer = Literal["yes", "no", "unknown", "nothing", "text"]
Sex = Literal["female", "male"]
_MARKS = re.compile(r"^[\s\W_]+|[\s\W_]+$")
_WORDED = re.compile(r"[^\W_]")
_LETTER_AGE = re.compile(
    r"(?<![\d.])(\d{1,3}) ?(?:岁|y/?o?)?[ ,/，]*(f|m)(?![a-z])|(?<![a-z])(f|m)[ ,/，]*(\d{1,3})(?!\d)"
)
# slots whose answers name what the person has had for long, not the trouble of now
BACKGROUND: frozenset[Slot] = frozenset({"age_sex", "history", "drugs", "allergies", "family", "social"})
SHORT = 12  # words of a clause that says one thing
HOURS_PER_DAY = 24
OLDEST = 120  # years
MONTHS_PER_YEAR, MOST_MONTHS = 12, 36  # of the age of a baby
LONGEST_WORDS = 20  # characters before an age that are looked at
LONGEST = 600  # characters of a slot; a longer one ends with "…"
SOMEBODY = 40  # characters from the beginning of a message within which it says that somebody else is ill


@dataclass(frozen=True, slots=True)
class MessageReading:
    """What one message tells of; `readers` says who read a slot where it was not the rules; `other`: who is ill is
    not who writes.
    """

    slots: Mapping[Slot, str] = field(default_factory=dict)
    age: float | None = None
    sex: Sex | None = None
    other: bool = False
    signals: frozenset[str] = frozenset()
    now: bool = False  # it has words for now
    readers: Mapping[Slot, Reader] = field(default_factory=dict)

    @property
    def is_stop(self) -> bool:
        """Whether the person wants no more questions."""
        return "stop" in self.signals


@cache
def _lexicon() -> Lexicon:
    data = slots_data()
    concepts = {
        f"slot {slot}": flat_terms(data["slots"][slot]["said"]) for slot in SLOTS if "said" in data["slots"][slot]
    }
    concepts |= {f"signal {name}": flat_terms(groups) for name, groups in data["signals"].items()}
    return Lexicon({**concepts, "_now": load_guide().concepts["_now"]})


@cache
def _answers() -> Mapping[str, Answer]:
    """Whole answers and what they are."""
    kinds: Mapping[Answer, Sequence[str]] = slots_data()["answers"]
    return {normalize(one): kind for kind, given in kinds.items() for one in given}


def kind_of(text: str) -> Answer:
    """Return what an answer is as a whole: a bare yes or no, not known, nothing, or text to be read."""
    plain = _MARKS.sub("", normalize(text))
    if not _WORDED.search(plain):
        return "nothing"
    return _answers().get(plain, "text")


def is_time(text: str) -> bool:
    """Return whether an answer names a time or a stretch of it."""
    return bool(PATTERNS["time"].search(normalize(text)))


def is_denial(text: str) -> bool:
    """Return whether an answer denies all that it was asked about: it begins with no, and takes nothing back."""
    plain = normalize(text)
    return bool(PATTERNS["denial"].match(plain)) and not PATTERNS["but"].search(plain)


def is_ongoing(text: str) -> bool:
    """Return whether an answer tells of something that goes on as it is written."""
    return bool(PATTERNS["ongoing"].search(normalize(text)))


def is_question(text: str) -> bool:
    """Return whether a message asks something."""
    return bool(PATTERNS["asks"].search(normalize(text)))


def only_asks(text: str) -> bool:
    """Return whether a message is one question and tells nothing before it."""
    plain = normalize(text)
    return len(_sentences(plain)) == 1 and bool(
        PATTERNS["whole_question"].search(_MARKS.sub("", plain)) or plain.endswith("?")
    )


def is_age_sex(text: str) -> bool:
    """Return whether a message is an age and a sex and nothing else: "34 f", 男，62."""
    return bool(PATTERNS["only_age_sex"].fullmatch(_MARKS.sub("", normalize(text))))


def is_clause(text: str) -> bool:
    """Return whether an answer is one short clause."""
    plain = _MARKS.sub("", normalize(text))
    return not re.search("[,.;:!?，。；！？、\n]", plain) and words_between(plain, 0, len(plain)) <= SHORT


def clip(text: str) -> str:
    """Return the text without white space at its ends, at most `LONGEST` characters of it."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def read_text(text: str, asked: Slot | None = None) -> MessageReading:
    """Return what a message tells of by itself. `asked` is the slot that it answers: bare numbers are read by it."""
    plain = normalize(text)
    asked = "age_sex" if is_age_sex(text) else asked
    measures = find_measures(plain)
    mentions = _lexicon().find(plain, measures)
    signals = frozenset(name[7:] for name in mentions if name.startswith("signal "))
    other, sex = _person(plain, mentions, asked)
    age = next((one.value for one in mentions.get("age", ()) if one.value is not None), None)
    relative = PATTERNS["age_of_relative"].search(plain)
    relative = None if relative and is_bystander(plain, relative.start(), relative.end()) else relative
    if age is None and (bare := PATTERNS["age_this_year"].search(plain) or relative):
        age = read_number(bare[1])
    if asked == "age_sex":
        age, sex = _bare_age_sex(plain, age, sex)
    slots = _clauses(text, plain, mentions, _medical_marks(text, asked))
    if asked == "age_sex" and (age is not None or sex):
        slots.setdefault("age_sex", clip(text))
    return MessageReading(slots, age, sex, other, signals, "_now" in mentions)


def _person(plain: str, mentions: Mentions, asked: Slot | None) -> tuple[bool, Sex | None]:
    """Whether somebody else is ill, and the sex of who is ill.

    A relative who only came along, or has it too, is not ill here, nor who "he" is behind one.
    """
    kinds: tuple[tuple[str, Sex | None], ...] = (("other_female", "female"), ("other_male", "male"), ("other", None))
    named = [(one, sex) for kind, sex in kinds for one in mentions.get(f"signal {kind}", ()) if one.start < SOMEBODY]
    relatives = [pair for pair in named if not PATTERNS["pronoun"].fullmatch(plain, pair[0].start, pair[0].end)]
    ill = [(one.start, sex) for one, sex in relatives if not is_bystander(plain, one.start, one.end)]
    if not relatives and not has_own_trouble(plain[: min((one.start for one, _ in named), default=0)]):
        ill = [(one.start, sex) for one, sex in named if plain[max(0, one.start - 1) : one.start] != "其"]
    bare = ("", "bare_") if asked == "age_sex" else ("",)
    sexes: tuple[Sex, Sex] = ("female", "male")
    own = [(one.start, sex) for sex in sexes for how in bare for one in mentions.get(f"signal {how}{sex}", ())]
    if own:
        return bool(ill), min(own)[1]
    found = sorted(ill, key=lambda one: (one[1] is None, one[0]))
    return bool(ill), found[0][1] if found else None


def _bare_age_sex(plain: str, age: float | None, sex: Sex | None) -> tuple[float | None, Sex | None]:
    """Age and sex of an answer that was asked for them: "34 f", "thirty-four", 三十四, "18 months, boy"."""
    if letter := _LETTER_AGE.search(plain):
        age = float(letter[1] or letter[4]) if age is None else age
        sex = sex or ("female" if (letter[2] or letter[3]) == "f" else "male")
    if age is None:
        age = next((found for one in NUMBER.finditer(plain) if (found := _age_of(plain, one)) is not None), None)
    return (age if age is not None and 0 <= age <= OLDEST else None), sex


def _age_of(plain: str, number: re.Match[str]) -> float | None:
    """The age in years that a bare number tells of; None: it counts something else."""
    if not PATTERNS["before_age"].search(plain, max(0, number.start() - LONGEST_WORDS), number.start()):
        return None
    if PATTERNS["months"].match(plain, number.end()):
        value = read_number(number[0])
        return value / MONTHS_PER_YEAR if value <= MOST_MONTHS else None
    if "." in number[0]:  # a temperature
        return None
    return read_number(number[0]) if PATTERNS["after_age"].match(plain, number.end()) else None


def _medical_marks(text: str, asked: Slot | None) -> list[tuple[int, Slot]]:
    """Where a medicine that is taken and an allergy are named, and in answers about other things an illness."""
    facts = person_facts(text)
    named: list[tuple[int, Slot]] = [(one.start, "drugs") for one in facts.drugs]
    named += [(one.start, "allergies") for one in facts.allergies]
    if asked in BACKGROUND:
        named += [(one.start, "history") for one in facts.diseases]
    return named


def _clauses(text: str, plain: str, mentions: Mentions, named: Sequence[tuple[int, Slot]]) -> dict[Slot, str]:
    """The clauses that tell of each slot, verbatim."""
    found: dict[Slot, list[str]] = {}
    marks = [(one.start, slot) for slot in SLOTS for one in mentions.get(f"slot {slot}", ())]
    marks += [(one.start, slot) for slot in SLOTS for one in _numbers(slot, mentions)]
    marks = sorted({*marks, *named})
    at = 0
    for begin, end in _sentences(plain):
        while at < len(marks) and marks[at][0] < begin:
            at += 1
        inside = []
        while at < len(marks) and marks[at][0] < end:
            inside.append(marks[at])
            at += 1
        asks = plain[end - 1] in "?？"
        for slots, part in _parts(plain, begin, end, inside) if inside else ():
            if asks and is_question(plain[part[0] : part[1]]):
                continue
            for slot in slots:
                said = _MARKS.sub("", text[part[0] : part[1]]) if part[1] - part[0] < end - begin else text[begin:end]
                found.setdefault(slot, []).append(said.strip())
    return {slot: clip("; ".join(dict.fromkeys(said))) for slot, said in found.items()}


def _numbers(slot: Slot, mentions: Mentions) -> Sequence[Mention]:
    """Numbers that tell of a slot; of stretches of time those of a day or more, as people sleep and wait for hours."""
    if slot == "onset":
        return [one for one in mentions.get("hours", ()) if one.value is not None and one.value >= HOURS_PER_DAY]
    names = {"age_sex": "age", "pregnancy": "pregnancy_weeks", "severity": "temperature"}
    return mentions.get(names.get(slot, ""), ())


def _parts(
    plain: str, begin: int, end: int, marks: Sequence[tuple[int, Slot]]
) -> list[tuple[tuple[Slot, ...], tuple[int, int]]]:
    """The stretches of a sentence, each with the slots that it tells of."""
    cuts = [begin, *(match.end() for match in PATTERNS["clause_end"].finditer(plain, begin, end)), end]
    parts: list[tuple[tuple[Slot, ...], tuple[int, int]]] = []
    at = 0
    for start, stop in pairwise(cuts):
        slots: list[Slot] = []
        while at < len(marks) and marks[at][0] < stop:
            slots.append(marks[at][1])
            at += 1
        here = _slots_of_clause(slots)
        if here or not parts:
            parts.append((here, (start, stop)))
        else:
            parts[-1] = (parts[-1][0], (parts[-1][1][0], stop))
    return parts


def _slots_of_clause(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """The slots of one clause: a duration there is that of an illness, a medicine or a pregnancy if it names one."""
    found = dict.fromkeys(slots)
    if found.keys() & {"history", "drugs", "family", "pregnancy"}:
        found.pop("onset", None)
    return tuple(found)


def _sentences(plain: str) -> list[tuple[int, int]]:
    ends = [match.end() for match in SENTENCE_END.finditer(plain)]
    starts = [0, *ends]
    return [(start, end) for start, end in zip(starts, [*ends, len(plain)], strict=True) if plain[start:end].strip()]
