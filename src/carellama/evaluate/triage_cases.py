"""Texts with how urgent they are, from the files that users have: vignettes of this project and of others.

    load_cases(Path("data/triage/test.jsonl"))
    load_cases(Path("vignettes.csv"), scale="esi")        # labels 1 to 5

Read are JSON, JSON lines, CSV and tables. The text stands in `turns`, `messages`, `prompt` (HealthBench) or a column
such as `text`, `vignette`, `question`; the label in `level` or a column such as `label`, `triage`, `urgency`. Labels
are words of the usual scales in English and Chinese; bare numbers need the name of the scale. A label that is not known
is refused: nothing is guessed. Rows of HealthBench that are not about referrals in an emergency are left out and
counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from carellama.data.readers import BadRow, rows
from carellama.errors import UserError
from carellama.package_data import package_yaml
from carellama.records import JSONObject, Message
from carellama.text import counted, language

Label = Literal["emergency", "urgent", "soon", "routine"]
LABELS: tuple[Label, ...] = get_args(Label)
SCALES: dict[str, dict[str, Label]] = {
    # Emergency Severity Index and Canadian Triage and Acuity Scale: 1 resuscitation ... 5 non-urgent
    "esi": {"1": "emergency", "2": "emergency", "3": "urgent", "4": "soon", "5": "routine"},
    "ctas": {"1": "emergency", "2": "emergency", "3": "urgent", "4": "soon", "5": "routine"},
    "manchester": {"1": "emergency", "2": "emergency", "3": "urgent", "4": "soon", "5": "routine"},
    # 急诊患者病情分级: 1 濒危 2 危重 3 急症 4 非急症
    "cn4": {"1": "emergency", "2": "emergency", "3": "urgent", "4": "soon"},
}
YES_OR_NO = {**dict.fromkeys(("yes", "true", "1", "是"), True), **dict.fromkeys(("", "no", "false", "0", "否"), False)}
HEALTHBENCH: dict[str, Label | None] = {
    "emergent": "emergency",
    "conditionally-emergent": None,  # it depends on what the person has not said: neither a miss nor a false alarm
    "non-emergent": "soon",
}
TEXT_KEYS = (
    *("text", "vignette", "case", "question", "input", "presentation", "description", "patient", "content", "query"),
    *("case_vignette", "clinical_vignette", "patient_message", "chief_complaint", "主诉", "文本", "病例", "问题"),
)
SCALE_KEYS = ("esi", "ctas", "esi_level", "ctas_level")  # columns whose numbers are of the scale they name
LABEL_KEYS = (
    *("level", "label", "triage", "urgency", "acuity", "severity", "gold", "triage_level", "correct_triage"),
    *(
        "gold_level",
        "target",
        "answer",
        "category",
        "triage_label",
        "ground_truth",
        "correct_triage_level",
        "分级",
        "标签",
    ),
    *SCALE_KEYS,
)
# as tables write them: "Correct Triage" is no word of a medical dataset's header, but one of ours
HEADER_NAMES = frozenset(
    shape(name.replace("_", space))
    for name in (*TEXT_KEYS, *LABEL_KEYS)
    for space in "_- "
    for shape in (str, str.title, str.capitalize, str.upper)
)


@cache
def _known_levels() -> dict[str, Label]:
    """The level that each known word for one means."""
    words = package_yaml("evaluate/triage_levels.yaml")
    return {word: level for level in LABELS for word in words[level]}


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation, and how soon the person must be seen."""

    id: str
    messages: tuple[Message, ...]
    level: Label
    language: str
    near_miss: bool = False  # it has words of an emergency and is none
    population: str = ""
    system: str = ""
    traits: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of each labeller
    set: str = ""  # texts that were written together

    @property
    def is_emergency(self) -> bool:
        """Whether not to send this person to an emergency department is a miss."""
        return self.level == "emergency"


@dataclass
class Cases:
    """The cases of a file, and what was left out of it, counted by its reason."""

    cases: list[Case] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def load_cases(path: Path, scale: str | None = None) -> Cases:
    """Read a file of cases. Raises `UserError` with the line for a row without text or with an unknown label."""
    found = Cases()
    for number, (place, row) in enumerate(_rows(path), 1):
        tags = row.get("example_tags")
        if isinstance(tags, list):
            reason, label = _healthbench(tags)
            if reason:
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
                continue
        else:
            label = _label(row, place, scale)
        assert label
        messages = _messages(row, place)
        found.cases.append(
            Case(
                id=str(row.get("id") or row.get("prompt_id") or number),
                messages=messages,
                level=label,
                language=str(row.get("language") or language(" ".join(one.content for one in messages))),
                near_miss=_yes_or_no(row, "near_miss", place),
                population=str(row.get("population") or ""),
                system=str(row.get("system") or ""),
                traits=_texts(row, "traits", place),
                labels=_labels(row, place),
                set=str(row.get("set") or path.stem),
            )
        )
    if not found.cases:
        left_out = [left_out_line(reason, count) for reason, count in found.left_out.items()]
        raise UserError("; ".join([f"{path} has no case to measure by", *left_out]))
    return found


def left_out_line(reason: str, count: int) -> str:
    """Return how many rows were left out, and why."""
    return f"{counted(count, 'row')} left out: {reason}"


def _rows(path: Path) -> Iterator[tuple[str, JSONObject]]:
    if not path.is_file():
        raise UserError(f"there is no file {path}; the vignettes of this project are in data/triage")
    for row in rows(path, HEADER_NAMES):
        if isinstance(row, BadRow):
            raise UserError(f"{row.place}: {row.reason}")
        given = row.fields
        yield str(row.place), {name if _column(name) in given else _column(name): given[name] for name in given}


def _column(name: object) -> str:
    """The name of a column as this module writes it: "Gold Level" is gold_level."""
    return re.sub(r"[\s_-]+", "_", str(name).strip().lower())


def _healthbench(tags: Sequence[str]) -> tuple[str, Label | None]:
    """Why a row of HealthBench is left out, or its level."""
    if "theme:emergency_referrals" not in tags:
        return "not about referrals in an emergency", None
    for tag in tags:
        category = tag.removeprefix("physician_agreed_category:")
        if category in HEALTHBENCH:
            label = HEALTHBENCH[category]
            return ("" if label else f"{category}: it depends on what was not said"), label
    return "no category agreed by physicians", None


def _label(row: JSONObject, place: str, scale: str | None) -> Label:
    key = next((name for name in LABEL_KEYS if row.get(name) not in (None, "")), None)
    if key is None:
        columns = ", ".join((*LABEL_KEYS[:6], *SCALE_KEYS[:2]))
        raise UserError(
            f"{place}: no label; one of the columns {columns} says how urgent it is. {_names(row)}: rename yours"
        )
    given = str(row[key]).strip().lower()
    number = re.fullmatch(
        r"(esi|ctas|mts|manchester)?[\s:_-]*(?:level|triage|等级|级别)?[\s:_-]*([1-5])(?:\.0)?级?", given
    )
    if number:
        prefix = number[1] or (key.partition("_")[0] if key in SCALE_KEYS else None)
        return _by_number(f"{place}: {key} is {row[key]!r}", prefix, number[2], scale)
    level = _known_levels().get(re.sub(r"[\s_]+", " ", given))
    if level is None:
        raise UserError(
            f"{place}: {key} is {str(row[key])[:40]!r}, which is no level that is known; levels: {', '.join(LABELS)}, "
            "or words of ESI, CTAS, Manchester, NHS 111 and 急诊四级"
        )
    return level


def _by_number(what: str, prefix: str | None, number: str, asked: str | None) -> Label:
    """The level of a number by its scale: that which the label names, or that which was asked for."""
    named = {"esi": "esi", "ctas": "ctas", "mts": "manchester", "manchester": "manchester"}.get(prefix or "")
    if named and asked and named != asked:
        raise UserError(f"{what}, and --scale says {asked}")
    scale = named or asked
    if scale is None:
        raise UserError(f"{what}; say which scale it is: --scale {' | '.join(SCALES)}")
    if number not in SCALES[scale]:
        raise UserError(f"{what}; {scale} goes to {max(SCALES[scale])}")
    return SCALES[scale][number]


def _texts(row: JSONObject, key: str, place: str) -> tuple[str, ...]:
    """The texts of a list, or of one text with commas."""
    given = row.get(key) or ()
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
        raise UserError(f"{place}: {key} is no list of texts")
    return tuple(given)


def _yes_or_no(row: JSONObject, key: str, place: str) -> bool:
    """What a table says with a word: bool("no") is true."""
    word = str(row.get(key) or "").strip().lower()
    if word not in YES_OR_NO:
        raise UserError(f"{place}: {key} is {row[key]!r}; allowed: yes, no, true, false, 1, 0, or nothing")
    return YES_OR_NO[word]


def _labels(row: JSONObject, place: str) -> tuple[str, ...]:
    labels = _texts(row, "labels", place)
    if unknown := set(labels) - set(LABELS):
        raise UserError(f"{place}: labels has {', '.join(sorted(unknown))}; known: {', '.join(LABELS)}")
    return labels


def _messages(row: JSONObject, place: str) -> tuple[Message, ...]:
    for key in ("turns", "messages", "prompt", "conversation", "conversations"):
        if isinstance(row.get(key), list):
            made = tuple(_message(turn, place) for turn in row[key])
            if made and made[-1].role != "user":
                raise UserError(f"{place}: the last turn is the {made[-1].role}'s; it must be the person's")
            if made:
                return made
    for key in (*TEXT_KEYS, "prompt"):
        if isinstance(row.get(key), str) and row[key].strip():
            return (Message("user", row[key]),)
    raise UserError(
        f"{place}: no text; one of the columns {', '.join(TEXT_KEYS[:6])} holds it. {_names(row)}: rename yours"
    )


def _names(row: JSONObject) -> str:
    return f"The file has {', '.join(row) or 'none'}"


def _message(turn: object, place: str) -> Message:
    if isinstance(turn, Mapping):
        role, content = turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")
    elif isinstance(turn, list) and len(turn) == 2:
        role, content = turn
    else:
        role, content = None, None
    role = {"human": "user", "gpt": "assistant", "patient": "user", "doctor": "assistant"}.get(str(role), role)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise UserError(f"{place}: a turn is neither a role and a text nor a pair of them")
    return Message(role, content)  # type: ignore[arg-type]


def as_label(level: Label | None) -> Label:
    """Return the label of what was found; nothing found is `routine`."""
    return level or "routine"
