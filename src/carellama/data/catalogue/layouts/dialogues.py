"""Layouts of conversations of several turns between patients and doctors, and of the tasks made from them.

    LAYOUTS["meddialog-blocks"].convert(Path("2020.txt"))

Turns are merged by `spoken`: the names of the speakers are taken off, a greeting before the first question and a
question without an answer at the end are left out. A dialogue that has no answer at all is a counted skip.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from carellama.data.catalogue.layout import Layout, first_row, make_chat, meta_of, spoken, text_of
from carellama.data.catalogue.layouts.blocks import is_blocks, sessions, without_notes
from carellama.data.convert import BadRecord
from carellama.data.readers import Row, keyed, kind_of, values
from carellama.errors import DataError, UserError
from carellama.records import Chat

Who = Literal["user", "assistant"]
Turns = list[tuple[Who, str]]
SPEAKERS: dict[str, Who] = {
    "病人": "user", "患者": "user", "patient": "user", "patients": "user", "user": "user", "human": "user",
    "医生": "assistant", "大夫": "assistant", "doctor": "assistant", "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
HUB_SPEAKERS = {"0": "病人", "1": "医生"}  # the labels of the script's feature `speaker`
PREFIX = re.compile(r"\s*(病人|患者|医生|大夫|patients?|doctor)\s*[：:]\s*", re.IGNORECASE)
ASKED = re.compile(r"^\s*[问答]\s*[：:]")
SITE_GREETING = re.compile(
    r"^Hi, may I answer your health queries right now \?\s*(?:Please type(?: your query(?: here)?)?)?[\s.]*"
)
PICKLES = (".pk", ".pkl", ".pickle", ".p")
REPORT = ("主诉", "现病史", "辅助检查", "既往史", "即往史", "诊断", "建议")
PAIR_ASKED = ("instruction", "prompt", "input", "query", "question", "dialogue", "conversation", "text", "content")
PAIR_REPORT = ("output", "report", "response", "target", "answer")
PAIR_TURNS = (("speaker", "sentence"), ("from", "value"), ("role", "content"))
REPORT_TASK = "根据对话生成诊疗报告："
MDCFNPC = ("dialog_id", "dialog_info")
LABELS_TASK = "判断下列对话中每个临床发现的阴阳性："


def _chat(row: Row, turns: Turns, **about: object) -> Chat:
    return Chat(spoken(row.place, turns), row.place, meta_of(**about))


def _who(row: Row, speaker: object) -> Who:
    found = SPEAKERS.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if found is None:
        raise BadRecord(row.place, "unknown speaker", f"known: {', '.join(SPEAKERS)}")
    return found


def _list(row: Row, column: str) -> list[object]:
    value = row.fields.get(column)
    if not isinstance(value, list) or not value:
        raise BadRecord(row.place, f"column {column!r} is not a list of turns", f"found {type(value).__name__}")
    return value


def _text(row: Row, value: object) -> str:
    if not isinstance(value, str):
        raise BadRecord(row.place, "a turn is not text", f"found {type(value).__name__}")
    return value


def _prefixed(row: Row, lines: Sequence[object]) -> Turns:
    """["病人：…", "医生：…"] to turns; one prefix is taken off each."""
    turns: Turns = []
    for line in lines:
        text = _text(row, line)
        prefix = PREFIX.match(text)
        if prefix is None:
            raise BadRecord(row.place, "a turn does not say who speaks", f"turn {len(turns) + 1}")
        turns.append((_who(row, prefix[1]), without_notes(text[prefix.end() :])))
    return turns


def _turns_of_objects(row: Row, turns: Sequence[object], speaker: str, text: str) -> Turns:
    """[{speaker: "医生", text: "…"}, ...] to turns."""
    fields = [turn for turn in turns if isinstance(turn, dict)]
    if len(fields) < len(turns):
        raise BadRecord(row.place, "a turn is not an object")
    return [(_who(row, turn.get(speaker)), _text(row, turn.get(text) or "")) for turn in fields]


def _block(row: Row) -> Chat:
    """A dialogue of MedDialog's raw files, see `blocks.py`.

    Chinese: the description is what the patient wrote first. English: it repeats the patient's first turn, and only
    stands for it where the doctor speaks first.
    """
    turns: Turns = [(_who(row, speaker), SITE_GREETING.sub("", text)) for speaker, text in row.fields["turns"]]
    english = any(speaker in ("Patient", "Doctor") for speaker, _ in row.fields["turns"])
    description = row.fields["description"]
    if description and turns and not (english and turns[0][0] == "user"):
        if turns[0][0] == "user" and turns[0][1].strip() in description:  # said again at once
            del turns[0]
        turns.insert(0, ("user", description))
    number = f"{Path(row.place.file).stem}-{row.fields['id']}"  # each file counts from the first id
    return _chat(row, turns, id=number, department=row.fields["faculty"])


def _line_layout(column: str, number: str = "id") -> Callable[[Row], Chat]:
    """A conversation of a column ["病人：…", "医生：…", ...]; `number` is the column of its id."""
    return lambda row: _chat(row, _prefixed(row, _list(row, column)), id=row.fields.get(number))


def _object_layout(column: str, speaker: str, text: str, number: str = "id") -> Callable[[Row], Chat]:
    """A conversation of a column [{speaker: "医生", text: "…"}, ...]; `number` is the column of its id."""
    return lambda row: _chat(row, _turns_of_objects(row, _list(row, column), speaker, text), id=row.fields.get(number))


def _utterances(row: Row) -> Chat:
    """{description, utterances ["patient: …", ...]}: MedDialog on the hub, processed. The description is repeated."""
    turns = _prefixed(row, _list(row, "utterances"))
    description = text_of(row, "description", required=False)
    if description and turns[0][0] == "assistant":
        turns.insert(0, ("user", description))
    return _chat(row, turns)


def _hub_turns(row: Row) -> Chat:
    """{dialogue_id, dialogue_turns [{speaker, utterance}] or {speaker [], utterance []}}: the hub's script."""
    turns = row.fields.get("dialogue_turns")
    match turns:
        case {"speaker": [*speakers], "utterance": [*utterances]}:
            if len(speakers) != len(utterances):
                raise BadRecord(row.place, "as many speakers as utterances are needed")
            turns = [{"speaker": who, "utterance": text} for who, text in zip(speakers, utterances, strict=True)]
        case [{}, *_]:
            pass
        case _:
            raise BadRecord(row.place, "column 'dialogue_turns' is not a list of turns", type(turns).__name__)
    named = [
        turn | {"speaker": HUB_SPEAKERS.get(str(turn.get("speaker")), turn.get("speaker"))}
        if isinstance(turn, dict)
        else turn
        for turn in turns
    ]
    return _chat(row, _turns_of_objects(row, named, "speaker", "utterance"), id=row.fields.get("dialogue_id"))


def _flagged(row: Row) -> Chat:
    """[[text, flag], ...], flag "p" for the patient, otherwise the doctor: CMCQA."""
    turns: Turns = []
    for turn in _list(row, "value"):
        if not isinstance(turn, list) or len(turn) != 2 or not isinstance(turn[1], str):
            raise BadRecord(row.place, "a turn is not [text, flag]", f"turn {len(turns) + 1}")
        turns.append(("user" if turn[1].strip().lower() == "p" else "assistant", _text(row, turn[0])))
    return _chat(row, turns)


def _imcs_turns(row: Row) -> Turns:
    """What the patient reported first (once), then the dialogue."""
    turns = _turns_of_objects(row, _list(row, "dialogue"), "speaker", "sentence")
    column = "self-report" if "self-report" in row.fields else "self_report"
    report = text_of(row, column, required=False)
    return [("user", report), *turns] if report and turns[0] != ("user", report) else turns


def _imcs(row: Row) -> Chat:
    """id -> {self-report, dialogue [{speaker, sentence, ...}], report [...], diagnosis}: IMCS-V2."""
    return _chat(row, _imcs_turns(row), id=row.fields["key"], diagnosis=row.fields.get("diagnosis"))


def _transcript(turns: Turns) -> str:
    return "\n".join(f"{'患者' if who == 'user' else '医生'}：{text.strip()}" for who, text in turns if text.strip())


def _imcs_report(row: Row) -> tuple[Chat, ...]:
    """The same rows as a task: write the report. Each of the (two) reports is an answer of its own."""
    reports = row.fields.get("report")
    reports = [reports] if isinstance(reports, dict) else reports
    if not isinstance(reports, list) or not reports:
        raise BadRecord(row.place, "no report", "as in test_input.json")
    task = f"{REPORT_TASK}\n{_transcript(_imcs_turns(row))}"
    answers = dict.fromkeys(_report_text(row, report) for report in reports)
    return tuple(make_chat(row.place, task, answer, id=row.fields["key"]) for answer in answers)


def _report_text(row: Row, report: object) -> str:
    if not isinstance(report, dict) or not any(isinstance(report.get(name), str) for name in REPORT):
        raise BadRecord(row.place, "the report has no sections", f"known: {', '.join(REPORT)}")
    sections = [(name, report[name].strip()) for name in REPORT if isinstance(report.get(name), str)]
    return "\n".join(f"{name}：{text}" for name, text in sections if text)


def _pair_columns(fields: Mapping[str, object]) -> tuple[list[str], str | None]:
    """The columns of the dialogue (with what is asked), and the column of the report."""
    asked = [name for name in PAIR_ASKED if fields.get(name)]
    return asked, next((name for name in PAIR_REPORT if name in fields and name not in asked), None)


def _is_report_pair(path: Path) -> bool:
    first = first_row(path) if kind_of(path) in ("json", "csv", "parquet") else None
    asked, column = _pair_columns(first.fields) if first is not None else ([], None)
    if first is None or not asked or column is None:
        return False
    return any(section in json.dumps(first.fields[column], ensure_ascii=False, default=str) for section in REPORT[:2])


def _report_pair(row: Row) -> Chat:
    """{instruction, input, output}, {dialogue, report}, ...: reports of IMCS-V2 as others hand them on."""
    asked, column = _pair_columns(row.fields)
    if not asked or column is None:
        raise BadRecord(row.place, "no dialogue with a report", f"the row has {', '.join(map(repr, row.fields))}")
    report = row.fields[column]
    if isinstance(report, list) and report:
        report = report[0]
    answer = _report_text(row, report) if isinstance(report, dict) else _text(row, report or "")
    question = "\n".join(_dialogue_text(row, row.fields[name]) for name in asked)
    return _chat(row, [("user", question), ("assistant", answer)], id=row.fields.get("id"))


def _dialogue_text(row: Row, value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        keys = next((keys for keys in PAIR_TURNS if keys[0] in value[0]), PAIR_TURNS[0])
        return _transcript(_turns_of_objects(row, value, *keys))
    if isinstance(value, list):
        return "\n".join(_text(row, line).strip() for line in value)
    return _text(row, value).strip()


def _mdcfnpc_labels(row: Row) -> Chat:
    """{dialog_id, dialog_info [{sender, text, ner}]} as a task: whether each finding is present: CHIP-MDCFNPC.

    `range` is half-open; 不标注 has no label.
    """
    labels: dict[str, None] = {}
    for turn in _list(row, "dialog_info"):
        fields = turn if isinstance(turn, dict) else {}
        findings = fields.get("ner")
        for finding in findings if isinstance(findings, list) else ():
            match finding:
                case {"attr": None | "" | "不标注"}:
                    continue
                case {"mention": str(mention), "attr": str(attr), "range": [int(start), int(end)]}:
                    if _text(row, fields.get("text"))[start:end] != mention:
                        raise BadRecord(row.place, "the range of a finding does not hold it", f"[{start}, {end})")
                    labels[f"{mention}：{attr}"] = None
                case _:
                    raise BadRecord(row.place, "a finding has no mention, range and attr")
    if not labels:
        raise BadRecord(row.place, "no finding with a label")
    transcript = _transcript(_turns_of_objects(row, _list(row, "dialog_info"), "sender", "text"))
    task = f"{LABELS_TASK}\n{transcript}"
    return make_chat(row.place, task, "\n".join(labels), id=row.fields.get("dialog_id"))


def _meddg_test(row: Row) -> Chat:
    """{history ["患者：…", "医生：…"], response}: MedDG's test file, whose answers are not published."""
    turns = _prefixed(row, _list(row, "history"))
    answer = next((row.fields[name] for name in ("response", "answer", "target") if row.fields.get(name)), None)
    if answer is not None:
        turns.append(("assistant", PREFIX.sub("", _text(row, answer), count=1)))
    if turns[-1][0] == "user":
        raise BadRecord(row.place, "no answer", "as in the test split, whose answers are not published")
    return _chat(row, turns)


def _prompt_cblue(row: Row) -> Chat:
    """{input, target, task_dataset, task_type, sample_id}: PromptCBLUE, any of its tasks."""
    target = text_of(row, "target", required=False)
    if not target:
        raise BadRecord(row.place, "no answer", "as in the test split, whose answers are not published")
    about = {"id": row.fields.get("sample_id"), "task": row.fields.get("task_dataset")}
    return make_chat(row.place, text_of(row, "input"), target, **about)


def _huatuogpt(row: Row) -> Chat:
    """{data ["问：…", "答：…", ...]}: HuatuoGPT. The place in the list says who speaks."""
    turns: Turns = []
    for index, text in enumerate(_list(row, "data")):
        turns.append(("assistant" if index % 2 else "user", ASKED.sub("", _text(row, text), count=1)))
    return _chat(row, turns)


def _is_array(path: Path, of: Callable[[object], bool]) -> bool:
    """Whether the first value of a JSON file is a list of such turns. A pickle is refused with the reason."""
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run any program when it is read: only the JSON form is (CBLUE has it)"
        )
    if kind_of(path) != "json":
        return False
    first = first_row(path, values)
    value = first.fields.get("value") if first is not None else None
    return isinstance(value, list) and bool(value) and of(value[0])


def _is_imcs(path: Path) -> bool:
    """Whether a JSON file is an object of objects that have a dialogue; no more than the first is read."""
    if kind_of(path) != "json":
        return False
    try:
        first = first_row(path, keyed)
    except DataError:  # no object, or several
        return False
    return first is not None and "dialogue" in first.fields


def _is_line(turn: object) -> bool:
    return isinstance(turn, str) and PREFIX.match(turn) is not None


def _is_flagged(turn: object) -> bool:
    return isinstance(turn, list) and len(turn) == 2


def _is_sentence(turn: object) -> bool:
    return isinstance(turn, dict) and {"id", "Sentence"} <= set(turn)


LAYOUTS: dict[str, Layout] = {
    "meddialog-blocks": Layout("sft", record=_block, rows=sessions, recognises=is_blocks),
    # MedDialog, processed
    "dialogue-lines": Layout(
        "sft", record=_line_layout("value"), rows=values, recognises=partial(_is_array, of=_is_line)
    ),
    # COVID-Dialogue
    "dialogue-numbered": Layout("sft", ("Dialogue", "Id"), _line_layout("Dialogue", "Id")),
    "dialogue-utterances": Layout("sft", ("utterances",), _utterances),
    "dialogue-turns": Layout("sft", ("dialogue_turns",), _hub_turns),
    "dialogue-flagged": Layout("sft", record=_flagged, rows=values, recognises=partial(_is_array, of=_is_flagged)),
    # CMCQA's dialogues with the turns of each side joined, as others hand them on
    "dialogue-joined": Layout(
        "sft",
        ("question", "answer"),
        lambda row: make_chat(row.place, text_of(row, "question"), text_of(row, "answer")),
    ),
    "imcs": Layout("sft", record=_imcs, rows=keyed, recognises=_is_imcs),
    "imcs-report": Layout("sft", record=_imcs_report, rows=keyed, recognises=_is_imcs),
    # IMCS-V2's dialogues as others hand them on
    "imcs-conversations": Layout("sft", ("conversations",), _object_layout("conversations", "from", "value")),
    "imcs-report-pairs": Layout("sft", record=_report_pair, recognises=_is_report_pair),
    "mdcfnpc": Layout("sft", MDCFNPC, _object_layout("dialog_info", "sender", "text", "dialog_id")),
    "mdcfnpc-labels": Layout("sft", MDCFNPC, _mdcfnpc_labels),
    # [{id "Patients" | "Doctor", Sentence, Symptom, ...}, ...]: MedDG as CBLUE has it
    "meddg": Layout(
        "sft",
        record=_object_layout("value", "id", "Sentence"),
        rows=values,
        recognises=partial(_is_array, of=_is_sentence),
    ),
    "meddg-test": Layout("sft", ("history",), _meddg_test),
    "prompt-cblue": Layout("sft", ("input", "target", "task_dataset"), _prompt_cblue),
    "huatuogpt": Layout("sft", ("data",), _huatuogpt),
}
