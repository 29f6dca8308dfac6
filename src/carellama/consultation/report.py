"""The report of a consultation: what was said, how urgent it is and why, where to go, and what is not known.

    report = make_report(state)
    report.urgency, report.departments[0].name      # "soon", "dermatology"
    print(to_markdown(report))

What a person said is quoted as it was said. How urgent it is, the departments and the advice come from the rules of
`safety.triage` and the guide of `consultation.complaints`, never from a model. The report states no diagnosis.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date

from carellama.consultation.complaints import Assessment, assess, load_guide
from carellama.consultation.guide_files import URGENCIES
from carellama.consultation.questions import load_questions
from carellama.consultation.reading import kind_of
from carellama.consultation.report_pdf import Section, draw
from carellama.consultation.state import FERTILE, SLOTS, ConsultState, Slot, Urgency
from carellama.package_data import package_text, package_yaml
from carellama.records import JSONObject
from carellama.safety.notices import Language, disclaimer, emergency_notice
from carellama.safety.triage.triage import BY_CLASSIFIER, Finding

ADVISED = 2  # complaints whose advice is given
RULES_SHOWN = 2  # rules of triage that are written out; of the others there are the ids
# What tells of the trouble, and what it is weighed by. The illness of the family and allergies are in neither.
_TROUBLE: tuple[Slot, ...] = ("complaint", "red_flag", "associated", "onset", "location", "course", "severity")
_BACKGROUND: tuple[Slot, ...] = ("age_sex", "history", "drugs", "pregnancy")
# Complaints of which an emergency has a line of its own that helps: see safety.notices.
_SYSTEMS = {
    **dict.fromkeys(
        ("low_mood", "insomnia", "anxiety", "substance_use", "hallucinations", "after_birth_trouble"), "mind"
    ),
    "poisoning": "poisoning",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A slot and what the person said about it, in their words; `question`: what a bare yes or no answered."""

    slot: Slot
    text: str
    question: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A department: id, its name in the language of the report, and what it treats."""

    id: str
    name: str
    treats: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a consultation came to. `notice` has the action and the numbers to call where it is an emergency."""

    language: Language
    date: str  # ISO 8601
    complaint: str  # the person's words, "" where none were said
    complaints: tuple[str, ...]  # ids of complaints/*.yaml, the most important first
    summary: tuple[Statement, ...]
    urgency: Urgency
    why: tuple[str, ...]
    rules: tuple[str, ...]  # ids of the rules of triage that fired, at any level
    notice: str
    medicines: tuple[str, ...]  # of those taken or asked about: what they do not go with
    departments: tuple[Place, ...]  # the first is the one to go to
    tests: tuple[str, ...]
    self_care: tuple[str, ...]
    return_if: tuple[str, ...]
    unknown: tuple[Slot, ...]  # not asked, or asked and not told
    ended: str  # why the interview ended
    sources: tuple[str, ...]
    disclaimer: str

    def as_json(self) -> JSONObject:
        """Return it as `report_schema.json` describes it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def report_schema() -> JSONObject:
    """Return the JSON schema of a report."""
    schema: JSONObject = json.loads(package_text("consultation/report_schema.json"))
    return schema


def make_report(state: ConsultState, country: str | None = None, today: date | None = None) -> Report:
    """Return the report of a consultation, also of one that has not ended.

    `country` chooses the numbers to call (by default that of the language). Raises `UserError` for an unknown one.
    """
    words, language = report_words(), state.language
    found = assess(
        _texts_of(state, _TROUBLE),
        state.age,
        state.sex,
        background=_texts_of(state, _BACKGROUND),
        complaint_ids=state.complaints,
    )
    affirmed: Urgency = "urgent" if kind_of(state.slots.get("red_flag", "")) == "yes" else "routine"
    urgency = min(state.level, found.urgency, affirmed, key=URGENCIES.index)
    trouble = [one for one in found.main if one.id != "drug_question"]  # the trouble has tests, a question has none
    advised = (trouble or found.main)[:ADVISED]
    findings = [one for one in state.findings if one.level == urgency][:RULES_SHOWN]
    # of a complaint that is mostly harmless, what helps at home has no place beside an ambulance
    grave = advised and all(one.urgency in ("emergency", "urgent") for one in advised)
    otherwise: Mapping[str, Mapping[str, str]] = words["otherwise"]

    def advice(kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(getattr(one, kind)[language] for one in advised)) or (otherwise[kind][language],)

    return Report(
        language=language,
        date=(today or date.today()).isoformat(),
        complaint=state.slots.get("complaint", ""),
        complaints=tuple(one.id for one in found.complaints),
        summary=tuple(_summary(state, slot) for slot in SLOTS if slot != "complaint" and _has_answer(state, slot)),
        urgency=urgency,
        why=tuple(_why(state, found, urgency)),
        rules=tuple(one.rule.id for one in state.findings),
        notice=_notice(state, found, urgency, country),
        medicines=tuple(dict.fromkeys(one.texts[language] for one in state.conflicts)),
        departments=_departments(found, language),
        tests=advice("tests"),
        self_care=() if urgency == "emergency" and not grave else advice("self_care"),
        return_if=advice("return_if"),
        unknown=tuple(slot for slot in SLOTS if not _is_known(state, slot)),
        ended=state.reason,
        sources=tuple(
            dict.fromkeys(
                [
                    *(one.rule.source for one in findings[:RULES_SHOWN] if one.rule.id != BY_CLASSIFIER.id),
                    *(one.source for one in state.conflicts),
                    *(one.source for one in advised),
                ]
            )
        ),
        disclaimer=disclaimer(language),
    )


def _summary(state: ConsultState, slot: Slot) -> Statement:
    said, question = state.slots[slot], ""
    if kind_of(said) in ("yes", "no"):
        question = load_questions().text(slot, state.language, complaints=state.complaints)
    return Statement(slot, said, question)


def _texts_of(state: ConsultState, slots: Sequence[Slot]) -> str:
    """What was said, a line a slot; where the answer was a bare yes, the question that it affirms."""
    lines = []
    for slot in slots:
        said = state.full_slots.get(slot) or state.slots.get(slot, "")
        if said and kind_of(said) == "yes":
            said = load_questions().text(slot, state.language, complaints=state.complaints)
        lines.append(said.replace("\n", " ").replace("?", ".").replace("？", "。"))
    return "\n".join(lines)


def _why(state: ConsultState, found: Assessment, urgency: Urgency) -> list[str]:
    words, language = report_words(), state.language
    findings = [one for one in state.findings if one.level == urgency]
    why = [_reason(one, language) for one in findings[:RULES_SHOWN]]
    if more := [one.rule.id for one in findings[RULES_SHOWN:]]:
        why.append(words["more_rules"][language].format(ids=", ".join(more)))
    if found.urgency == urgency:
        why += [words["raised"][language].format(why=one.why[language].rstrip(".。")) for one in found.raised]
    if kind_of(state.slots.get("red_flag", "")) == "yes":
        why.append(words["affirmed"][language])
    return list(dict.fromkeys(why)) or [words["usual" if found.complaints else "no_complaint"][language]]


def _reason(finding: Finding, language: Language) -> str:
    """Why a finding counts. The action of an emergency is not told again: it is the notice."""
    words, rule = report_words(), finding.rule
    if rule.id == BY_CLASSIFIER.id:
        text: str = words["by_classifier"][language]
        return text
    bare = finding.overruled or finding.level == "emergency"
    kind = words["fired" if bare else "rule"][language]
    reason: str = kind.format(id=rule.id, do=rule.do[language], source=rule.source)
    return reason


def _notice(state: ConsultState, found: Assessment, urgency: Urgency, country: str | None) -> str:
    """The action and the numbers where it is an emergency, those of triage where it found it."""
    if urgency != "emergency":
        return ""
    findings = [one for one in state.findings if one.level == "emergency"]
    if not findings:
        system = next((_SYSTEMS[one.id] for one in found.complaints if one.id in _SYSTEMS), "")
        rule = replace(BY_CLASSIFIER, id="complaints", system=system, source="consultation/complaints")
        findings = [Finding(rule, (), "emergency")]
    return emergency_notice(findings, state.language, country).replace("**", "")


def _departments(found: Assessment, language: Language) -> tuple[Place, ...]:
    departments = found.departments
    if not departments:
        guide = load_guide().departments
        people = found.people
        name = "neonatology" if "newborn" in people else "paediatrics" if "child" in people else "general_practice"
        departments = (guide["obstetrics" if "pregnant" in people else name],)
    return tuple(Place(one.id, one.names[language][0], one.treats[language]) for one in departments)


def _has_answer(state: ConsultState, slot: Slot) -> bool:
    return bool(state.slots.get(slot)) and kind_of(state.slots[slot]) != "unknown"


def _is_known(state: ConsultState, slot: Slot) -> bool:
    of_age = state.age is None or FERTILE[0] <= state.age <= FERTILE[1]
    if slot == "pregnancy" and (state.sex == "male" or not of_age):
        return True
    return kind_of(state.slots.get(slot, "")) not in ("nothing", "unknown")


def report_words() -> JSONObject:
    """Return the words of a report."""
    return package_yaml("consultation/report.yaml")


def sections(report: Report) -> list[Section]:
    """Return the report as a person reads it: in an emergency the action first, always what is not known last."""
    words, language = report_words(), report.language

    def section(kind: str, lines: Sequence[str], *, is_list: bool = False) -> Section:
        return Section(kind, words["headings"][kind][language], tuple(lines), is_list)

    colon = "：" if language == "zh" else ": "
    places = [f"{one.name}{colon}{one.treats}" for one in report.departments]
    if report.urgency == "emergency":
        places = [words["emergency_department"][language], *places]
    said = [f"{words['slots'][one.slot][language]}{colon}{_answer(one, language)}" for one in report.summary]
    complaint = _quoted(report.complaint) if report.complaint else words["nothing_said"][language]
    comma = "、" if language == "zh" else ", "
    unknown = [comma.join(words["slots"][slot][language] for slot in report.unknown)] if report.unknown else []
    ended = [words["ended"][report.ended][language]] if report.ended in words["ended"] else []
    sources = "；".join(report.sources) if language == "zh" else "; ".join(report.sources)
    notes = [words["quoted"][language], report.disclaimer]
    notes += [words["sources"][language].format(sources=sources)] if sources else []
    parts = [
        section("action", [report.notice] if report.notice else []),
        section("urgency", [words["urgency"][report.urgency][language], *report.why]),
        section("medicines", report.medicines, is_list=True),
        section("departments", places, is_list=True),
        section("complaint", [complaint]),
        section("summary", said, is_list=True),
        section("tests", report.tests, is_list=True),
        section("self_care", report.self_care, is_list=True),
        section("return_if", report.return_if, is_list=True),
        section("unknown", [*unknown, *ended]),
        section("notes", notes),
    ]
    return [one for one in parts if one.lines]


def to_markdown(report: Report) -> str:
    """Return the report as Markdown."""
    parts = [f"# {_title(report)}"]
    for one in sections(report):
        lines = [_escaped(line) for line in one.lines]
        parts += [f"## {one.title}", "\n".join(f"- {line}" for line in lines) if one.is_list else "\n\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def to_html(report: Report) -> str:
    """Return the report as one page of HTML that needs nothing else: no script, no picture, no font."""
    language = {"en": "en", "zh": "zh-CN"}[report.language]
    style = "".join(package_text("consultation/report.css").splitlines())
    body = [f"<h1>{html.escape(_title(report))}</h1>"]
    for one in sections(report):
        lines = [html.escape(line) for line in one.lines]
        inner = (
            "".join(f"<li>{line}</li>" for line in lines)
            if one.is_list
            else "".join(f"<p>{line}</p>" for line in lines)
        )
        inner = f"<ul>{inner}</ul>" if one.is_list else inner
        title = f'<h2 id="{one.kind}">{html.escape(one.title)}</h2>'
        body.append(f'<section class="{one.kind}" aria-labelledby="{one.kind}">{title}{inner}</section>')
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(_title(report))}</title>\n<style>{style}</style>\n</head>\n"
        f'<body class="{report.urgency}">\n<main>\n' + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def to_pdf(report: Report) -> bytes:
    """Return the report as a PDF, of one page where it fits. Raises `UserError` where the extra `report` is missing."""
    return draw(_title(report), sections(report), report.language)


def _title(report: Report) -> str:
    return f"{report_words()['title'][report.language]} · {report.date}"


def _answer(told: Statement, language: Language) -> str:
    """What was said, quoted, with the question where the answer alone says nothing."""
    said: str = _quoted(told.text)
    return report_words()["answer"][language].format(said=said, question=told.question) if told.question else said


def _quoted(text: str) -> str:
    return "“" + " ".join(text.splitlines()) + "”"


def _escaped(text: str) -> str:
    """A line of Markdown that shows the text as it is."""
    text = re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
    return re.sub(r"^(\s*)([#+-]|\d+[.)])(?=\s|$)", r"\1\\\2", text)
