"""What a row of `carellama task` asks the model, and what comes of it; an engine is not known here.

A row is a generator: it yields requests, is sent the replies, and returns its outcome, so that many rows go on side by
side (`carellama.batch.clinical_run`).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from carellama.batch.clinical_tasks import BadReply, ClinicalTask, read_json_reply
from carellama.batch.code_table import CodeTable, Entry, contrast, split_diagnoses
from carellama.batch.text_checks import SourceText, check_result
from carellama.config.commands import TaskOptions
from carellama.engine.base import Reply
from carellama.records import JSONObject, Message

READING_LENGTH = 150  # words, or characters in Chinese
MIN_CANDIDATE = 0.2  # cosine below which an entry is not shown to a model
NONE = "none"
AGAIN = {
    "en": "This reply cannot be used: {reason}. Reply again with the JSON object and nothing else.",
    "zh": "这个回复无法使用：{reason}。请重新回复，只写 JSON 对象。",
}
Value = TypeVar("Value")


class RowError(Exception):
    """No result comes of a row; the text is the reason, `kind: detail`."""


@dataclass(frozen=True)
class Request:
    """One question to the model, and the schema of its answer."""

    messages: tuple[Message, ...]
    schema: JSONObject


@dataclass(frozen=True)
class Outcome:
    """What a row is given: the result, and what the text does not bear out."""

    result: Any
    issues: list[dict[str, str]]


Asking = Generator[Request, Reply, Value]
Work = Asking[Outcome]


def extract(task: ClinicalTask, text: str, language: str, options: TaskOptions) -> Work:
    """The result of a task on a text, with what its checks flag."""
    length = str(options.reading_length or READING_LENGTH)
    messages = task.messages(text, language, reading_length=length)
    result = yield from _ask(messages, task.schema, task.parse, language, options.retries)
    return Outcome(result, check_result(result, SourceText(text), task.checks))


def normalize(task: ClinicalTask, text: str, language: str, options: TaskOptions, table: CodeTable) -> Work:
    """The codes of the diagnoses of a text: exact names by the table alone, others by rules or by the model."""
    found: list[JSONObject] = []
    issues: list[dict[str, str]] = []
    for at, diagnosis in enumerate(split_diagnoses(text, table)):
        exact = table.exact(diagnosis)
        if exact:
            found.append(_match(diagnosis, exact, 1.0, "exact"))
            continue
        near = table.search(diagnosis, options.candidates)
        if options.by == "rules":
            found.append(_near_match(diagnosis, near, options.min_score))
            continue
        found.append((yield from _picked(task, diagnosis, language, options, near)))
        if found[-1]["code"] and (difference := contrast(diagnosis, found[-1]["name"])):
            field = f"diagnoses[{at}].code"
            issues.append({"field": field, "value": found[-1]["name"], "issue": f"differs from the text: {difference}"})
    if not found:
        raise RowError("empty text: no diagnosis in it")
    return Outcome({"diagnoses": found}, issues)


def _match(text: str, entry: Entry, score: float, how: str) -> dict[str, object]:
    return {"text": text, "code": entry.code, "name": entry.name, "score": score, "how": how, "reason": None}


def _no_match(text: str, near: list[tuple[float, Entry]], reason: str) -> dict[str, object]:
    score = near[0][0] if near else 0.0
    return {"text": text, "code": None, "name": None, "score": score, "how": None, "reason": reason}


def _near_match(text: str, near: list[tuple[float, Entry]], min_score: float) -> dict[str, object]:
    """The nearest entry, if it is near enough, alone there, and differs in no word that makes another disease."""
    close = [(score, entry) for score, entry in near if score >= min_score]
    if not close:
        return _no_match(text, near, f"no entry of the table is as near as {min_score:g}")
    same = [(score, entry) for score, entry in close if not contrast(text, entry.name)]
    if not same:
        difference = contrast(text, close[0][1].name)
        return _no_match(text, near, f"the nearest entry, {close[0][1].code}, differs: {difference}")
    best = [entry for score, entry in same if score == same[0][0]]
    if len({entry.code for entry in best}) > 1:
        return _no_match(text, near, f"entries are equally near: {', '.join(entry.code for entry in best)}")
    return _match(text, same[0][1], same[0][0], "near")


def _picked(
    task: ClinicalTask, text: str, language: str, options: TaskOptions, near: list[tuple[float, Entry]]
) -> Asking[dict[str, object]]:
    """The entry that the model picks; it names a letter of the list, so that no other code can come of it."""
    near = [(score, entry) for score, entry in near if score >= MIN_CANDIDATE]
    if not near:
        return _no_match(text, near, "no entry of the table is near")
    letters = string.ascii_uppercase[: len(near)]
    schema = dict(task.schema) | {"properties": {"entry": {"type": "string", "enum": [*letters, NONE]}}}
    listed = "\n".join(f"{letter}. {entry.name}" for letter, (_, entry) in zip(letters, near, strict=True))
    messages = task.messages(text, language, candidates=listed)

    def parse(reply: str) -> str:
        value = read_json_reply(reply)
        entry = str(value.get("entry", "")).strip().rstrip(".") if isinstance(value, dict) else ""
        entry = NONE if entry.lower() == NONE else entry.upper()
        if entry not in (*letters, NONE):
            raise BadReply(f"entry must be one of {', '.join(letters)}, {NONE}")
        return entry

    picked = yield from _ask(messages, schema, parse, language, options.retries)
    if picked == NONE:
        return _no_match(text, near, "the model found no entry that means the same")
    score, entry = near[letters.index(picked)]
    return _match(text, entry, score, "model")


def _ask(
    messages: tuple[Message, ...],
    schema: JSONObject,
    parse: Callable[[str], Value],
    language: str,
    retries: int,
) -> Asking[Value]:
    """Ask until a reply can be used. Raises `RowError` with what is wrong with the last one."""
    asked, reason = messages, ""
    for _ in range(retries + 1):
        reply = yield Request(asked, schema)
        try:
            if reply.finish_reason == "length":
                raise BadReply(f"the reply was cut off after {reply.completion_tokens} tokens; it must be shorter")
            return parse(reply.text)
        except BadReply as error:
            reason = str(error)
        again = AGAIN[language].replace("{reason}", reason)
        asked = (*messages, Message("assistant", reply.text.strip() or "-"), Message("user", again))
    if reply.finish_reason == "length":  # what the model was told is no help to who runs the task
        raise RowError(
            f"unusable reply: it was cut off after {reply.completion_tokens} tokens; --max_new_tokens takes more"
        )
    raise RowError(f"unusable reply: {reason}")
