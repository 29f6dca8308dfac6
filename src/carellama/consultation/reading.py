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
from carellama.rules import SENTENCE_END, Lexicon, Mention, Mentions, flat_terms, normalize, words_between
from carellama.safety.medication.conflicts import person_facts
from carellama.safety.rules.measures import NUMBER, find_measures, read_number

Answer = Literal["yes", "no", "unknown", "nothing", "text"]
Sex = Literal["female", "male"]
_CLAUSE_END = re.compile(
    r"[,，:：] ?|\s(?=(?:and|but|so) (?:i|i'm|my|it|he|she|we|the|now|no|on)\b)|(?<=.)(?=但|而且|另外|还有)"
)
_MARKS = re.compile(r"^[\s\W_]+|[\s\W_]+$")
_WORDED = re.compile(r"[^\W_]")
_LETTER_AGE = re.compile(
    r"(?<![\d.])(\d{1,3}) ?(?:岁|y/?o?)?[ ,/，]*(f|m)(?![a-z])|(?<![a-z])(f|m)[ ,/，]*(\d{1,3})(?!\d)"
)
# A bare number is an age only between words that go with one: "turned 40 today", but not "2 kids" or "3 days ago".
_BEFORE_AGE = re.compile(
    r"(?:^|[,.;:!，。；：、(]|(?<![a-z])(?:age|aged|i'm|im|i am|he's|she's|is|are|turn|turns|turned|just|about"
    r"|around|nearly|almost|only|was|early|mid|late|female|male|woman|man|girl|boy|lady"
    r"|(?:man|woman|girl|boy|child) of|and|f|m)"
    r"|[女男性士年我岁快刚满才约妈爸娘爷奶婆公姥舅姨姑叔伯哥姐弟妹儿娃孩他她])[ ,，]*$"
)
_AFTER_AGE = re.compile(
    r"\s*(?:$|[,.;:!，。；、)]|多?(?:周?岁|左右|了|$)|[女男]|s(?![a-z])|(?:years?|yrs?|y/?o|y|old|and|female|male|woman|man|girl|boy|lady|she|he|next"
    r"|today|this|last|now|or so|in (?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)(?![a-z])(?! ago))"
)
_MONTHS = re.compile(r" ?(?:个月|months?|mos?)(?![a-z])(?! ?(?:ago|前|了))")
_AGE_THIS_YEAR = re.compile(r"今年(?:都|快|已经|刚|刚刚|整)?(\d{1,3}|[一二三四五六七八九十百]{1,4})(?=了|[,，。.啊]|$)")
_AGE_OF_RELATIVE = re.compile(
    r"(?<![a-z])(?:son|daughter|boy|girl|child|baby|toddler|husband|wife|mother|mum|mom|father|dad|grandson|granddaughter)"
    r",? \(?(?:who is |is |aged? )?(\d{1,3})(?=[,)]| and | has |$)"
)
_PRONOUN = re.compile(r"he|she|he's|she's|他|她")
_ONLY_AGE_SEX = re.compile(
    r"\d{1,3} ?(?:岁|y/?o?)?[ ,，、/]*(?:f|m|female|male|女性?|男性?|女士|男士|女的|男的)"
    r"|(?:f|m|female|male|女性?|男性?|女士|男士|女的|男的)[ ,，、/]*\d{1,3} ?(?:岁|y/?o?)?"
)
_TIME = re.compile(
    r"秒|分钟|钟头|小时|[天日周月年号点]|星期|礼拜|早上|中午|下午|晚上|夜里|刚|小时候|生下来|一直|好久|很久|多久|从"
    r"|second|minute|hour|\bday|week|month|year|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day|morning|noon|evening|night"
    r"|yesterday|today|\bago\b|since|always|just now|o'clock|\b[ap]m\b|christmas|easter|summer|winter|spring|autumn"
    r"|long time|age[ds]?\b|school|birth|overnight|all my life"
)
_DENIAL = re.compile(
    r"\s*(?:no|nope|none|never|nothing|neither)(?![a-z])|\s*(?:都)?(?:没有?|无|不(?!太?清楚|知道|确定|记得|晓得|好说|一定))"
)
_ASKS = re.compile(
    r"[?？吗呢]|什么|怎么|怎样|如何|多少|多久|为何|为啥|哪|能不能|可不可以|要不要|是不是|解释"
    r"|(?:^|[.!;,] ?)(?:and |so |but )?(?:what|how|why|when|where|which|who|can|could|should|may|do|does|is|are|will"
    r"|would|explain|tell me)(?![a-z])"
)
_WHOLE_QUESTION = re.compile(
    r"(?:吗|呢|怎么办|怎么治|怎么回事|怎么控制|怎么样)$|^(?:对了|另外|还有|顺便)?,?(?:我)?(?:还)?(?:想问|请问|问一下|问下)"
    r"|^(?:actually,? |by the way,? |also,? |and )?(?:can|could|will|would) you "
    r"|^(?:actually,? |and )?what (?:about|is|are) "
)
_ONGOING = re.compile(
    r"(?<![a-z])(?:now|just|(?:is|are|i'm|im|i am|keeps?|started|starts) [a-z]+ing|can't|cannot|cant|ago)(?![a-z])"
    r"|正在|正|刚|现在|越来越|喘不|不停|一直在|开始|分钟前|小时前"
)
_BUT = re.compile(
    r"(?<![a-z])(?:but|though|although|except|only|just|apart|sometimes|bit|little|well|some|yes)(?![a-z])"
    r"|但|不过|就是|只是|只有|除了|有时|偶尔|一点|有些|倒是|可是|还是"
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
class Said:
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
    return bool(_TIME.search(normalize(text)))


def is_denial(text: str) -> bool:
    """Return whether an answer denies all that it was asked about: it begins with no, and takes nothing back."""
    plain = normalize(text)
    return bool(_DENIAL.match(plain)) and not _BUT.search(plain)


def is_ongoing(text: str) -> bool:
    """Return whether an answer tells of something that goes on as it is written."""
    return bool(_ONGOING.search(normalize(text)))


def is_question(text: str) -> bool:
    """Return whether a message asks something."""
    return bool(_ASKS.search(normalize(text)))


def only_asks(text: str) -> bool:
    """Return whether a message is one question and tells nothing before it."""
    plain = normalize(text)
    return len(_sentences(plain)) == 1 and bool(_WHOLE_QUESTION.search(_MARKS.sub("", plain)) or plain.endswith("?"))


def is_age_sex(text: str) -> bool:
    """Return whether a message is an age and a sex and nothing else: "34 f", 男，62."""
    return bool(_ONLY_AGE_SEX.fullmatch(_MARKS.sub("", normalize(text))))


def is_clause(text: str) -> bool:
    """Return whether an answer is one short clause."""
    plain = _MARKS.sub("", normalize(text))
    return not re.search("[,.;:!?，。；！？、\n]", plain) and words_between(plain, 0, len(plain)) <= SHORT


def clip(text: str) -> str:
    """Return the text without white space at its ends, at most `LONGEST` characters of it."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def read_text(text: str, asked: Slot | None = None) -> Said:
    """Return what a message tells of by itself. `asked` is the slot that it answers: bare numbers are read by it."""
    plain = normalize(text)
    asked = "age_sex" if is_age_sex(text) else asked
    measures = find_measures(plain)
    mentions = _lexicon().find(plain, measures)
    signals = frozenset(name[7:] for name in mentions if name.startswith("signal "))
    other, sex = _person(plain, mentions, asked)
    age = next((one.value for one in mentions.get("age", ()) if one.value is not None), None)
    relative = _AGE_OF_RELATIVE.search(plain)
    relative = None if relative and is_bystander(plain, relative.start(), relative.end()) else relative
    if age is None and (bare := _AGE_THIS_YEAR.search(plain) or relative):
        age = read_number(bare[1])
    if asked == "age_sex":
        age, sex = _bare_age_sex(plain, age, sex)
    slots = _clauses(text, plain, mentions, _medical_marks(text, asked))
    if asked == "age_sex" and (age is not None or sex):
        slots.setdefault("age_sex", clip(text))
    return Said(slots, age, sex, other, signals, "_now" in mentions)


def _person(plain: str, mentions: Mentions, asked: Slot | None) -> tuple[bool, Sex | None]:
    """Whether somebody else is ill, and the sex of who is ill.

    A relative who only came along, or has it too, is not ill here, nor who "he" is behind one.
    """
    kinds: tuple[tuple[str, Sex | None], ...] = (("other_female", "female"), ("other_male", "male"), ("other", None))
    named = [(one, sex) for kind, sex in kinds for one in mentions.get(f"signal {kind}", ()) if one.start < SOMEBODY]
    relatives = [pair for pair in named if not _PRONOUN.fullmatch(plain, pair[0].start, pair[0].end)]
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
    if not _BEFORE_AGE.search(plain, max(0, number.start() - LONGEST_WORDS), number.start()):
        return None
    if _MONTHS.match(plain, number.end()):
        value = read_number(number[0])
        return value / MONTHS_PER_YEAR if value <= MOST_MONTHS else None
    if "." in number[0]:  # a temperature
        return None
    return read_number(number[0]) if _AFTER_AGE.match(plain, number.end()) else None


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
    cuts = [begin, *(match.end() for match in _CLAUSE_END.finditer(plain, begin, end)), end]
    parts: list[tuple[tuple[Slot, ...], tuple[int, int]]] = []
    at = 0
    for start, stop in pairwise(cuts):
        slots: list[Slot] = []
        while at < len(marks) and marks[at][0] < stop:
            slots.append(marks[at][1])
            at += 1
        here = _settled(slots)
        if here or not parts:
            parts.append((here, (start, stop)))
        else:
            parts[-1] = (parts[-1][0], (parts[-1][1][0], stop))
    return parts


def _settled(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """The slots of one clause: a duration there is that of an illness, a medicine or a pregnancy if it names one."""
    found = dict.fromkeys(slots)
    if found.keys() & {"history", "drugs", "family", "pregnancy"}:
        found.pop("onset", None)
    return tuple(found)


def _sentences(plain: str) -> list[tuple[int, int]]:
    ends = [match.end() for match in SENTENCE_END.finditer(plain)]
    starts = [0, *ends]
    return [(start, end) for start, end in zip(starts, [*ends, len(plain)], strict=True) if plain[start:end].strip()]
