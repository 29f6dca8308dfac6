"""The four tasks: what is asked of the model for one record, and when its replies make none.

A task is a generator. It yields an `Ask`, is sent the `Reply`, and returns a record, or raises `Unusable` with the
reason. It knows neither engine nor file, so that many pieces go on side by side (`carellama.batch.synthesize`).

    qa            passage -> question and answer
    consultation  passage -> a simulated patient and a doctor in turn; ends with the doctor
    rewrite       conversation -> the same with its last question and answer reworded
    preference    conversation -> two new answers, ranked twice by a judge, the second time in the other order
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from carellama.batch.work_items import Piece
from carellama.engine.base import Prompt, Reply
from carellama.package_data import package_yaml
from carellama.records import Chat, JSONObject, Message, Pair, Text
from carellama.text import folded

HOTTER = 0.4  # added to the temperature of the second sample, so that two samples differ
HELD = re.compile(r"\{(\w+)\}")
FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
ROLE = re.compile(
    r"^\s*(?:\*\*)?(?:patient|doctor|user|assistant|患者|病人|家属|医生)(?:\*\*)?\s*[:：](?:\*\*)?\s*",
    re.IGNORECASE | re.MULTILINE,
)
UNITS = {
    "毫克": "mg", "克": "g", "微克": "ug", "毫升": "ml", "升": "l", "国际单位": "iu", "单位": "unit", "units": "unit",
    "mcg": "ug", "μg": "ug", "µg": "ug", "片": "tablet", "粒": "capsule", "滴": "drop", "tablets": "tablet",
    "capsules": "capsule", "drops": "drop", "puffs": "puff", "喷": "puff", "吸": "puff", "milligrams": "mg",
    "milligram": "mg", "grams": "g", "gram": "g", "micrograms": "ug", "microgram": "ug", "millilitres": "ml",
    "milliliters": "ml",
}  # fmt: skip
UNIT = "|".join(sorted({*UNITS, *UNITS.values()}, key=len, reverse=True))
DOSE = re.compile(rf"(\d+(?:[.,]\d+)*)(?:\s*(?:-|–|~|至|到|to)\s*(\d+(?:[.,]\d+)*))?\s*({UNIT})(?![a-z])")


@dataclass(frozen=True)
class Ask:
    """One question to the model or to the judge; `temperature` is added to that of the run."""

    messages: Prompt
    of: Literal["model", "judge"] = "model"
    temperature: float | None = 0.0  # None: the likeliest tokens
    draw: int = 0  # samples of one prompt differ in it


class Unusable(Exception):
    """No record comes of a piece; the text is the reason that it is counted under. It holds no text of a reply."""


Work = Generator[Ask, Reply, Chat | Pair]


def prompts() -> JSONObject:
    """The prompts by language and task, and their version."""
    return package_yaml("batch/prompts.yaml")


def version() -> str:
    """The version of the prompts."""
    return str(prompts()["version"])


def filled(prompt: str, **values: str) -> str:
    """A prompt with its {names} replaced, once: braces in what is put in stay as they are."""
    return HELD.sub(lambda found: values.get(found[1], found[0]), prompt)


def qa(piece: Piece, asked: Sequence[str], _turns: int) -> Work:
    """A question that the passage answers, and its answer."""
    words, passage = prompts()[piece.language]["qa"], _text(piece)
    known = "\n".join(f"- {question}" for question in asked) or "-"
    user = filled(words["user"], passage=passage, asked=known)
    reply = yield Ask((Message("system", words["system"]), Message("user", user)))
    question, answer = question_and_answer(reply)
    no_other_doses(answer, passage)
    return Chat((Message("user", question), Message("assistant", answer)))


def consultation(piece: Piece, _asked: Sequence[str], turns: int) -> Work:
    """So many turns of a patient and a doctor, both played by the model."""
    words, passage = prompts()[piece.language]["consultation"], _text(piece)
    patient = Message("system", filled(words["patient"], passage=passage))
    doctor = Message("system", filled(words["doctor"], passage=passage))
    said: list[Message] = []
    for _ in range(turns):
        turned = [Message("assistant" if one.role == "user" else "user", one.content) for one in said]
        reply = yield Ask((patient, Message("user", words["begin"]), *turned))
        said.append(Message("user", spoken(reply)))
        reply = yield Ask((doctor, *said))
        answer = spoken(reply)
        no_other_doses(answer, "\n".join([passage, *(one.content for one in said if one.role == "user")]))
        said.append(Message("assistant", answer))
    if len({folded(one.content) for one in said}) < len(said):
        raise Unusable("a message that repeats another")
    return Chat(tuple(said))


def rewrite(piece: Piece, _asked: Sequence[str], _turns: int) -> Work:
    """The conversation with its last question and answer in other words."""
    chat = _chat(piece)
    words = prompts()[piece.language]["rewrite"]
    before, question, answer = chat.prompt[:-1], chat.prompt[-1].content, chat.response
    user = filled(words["user"], conversation=as_lines(before) or "-", question=question, answer=answer)
    reply = yield Ask((Message("system", words["system"]), Message("user", user)), draw=piece.number)
    new_question, new_answer = question_and_answer(reply)
    if folded(new_question) == folded(question) and folded(new_answer) == folded(answer):
        raise Unusable("unchanged")
    no_other_doses(new_answer, "\n".join([question, answer]))
    if doses(answer) - doses(new_answer):
        raise Unusable("a dose of the original is missing")
    return Chat((*before, Message("user", new_question), Message("assistant", new_answer)))


def preference(piece: Piece, _asked: Sequence[str], _turns: int) -> Work:
    """Two answers to the conversation, the better one first. Only verdicts that hold in both orders count."""
    chat = _chat(piece)
    words = prompts()[piece.language]["preference"]
    own = chat.prompt[0].role == "system"
    prompt = chat.prompt if own else (Message("system", words["answer"]), *chat.prompt)
    first = yield Ask(prompt)
    second = yield Ask(prompt, temperature=HOTTER, draw=1)
    answers = (whole(first), whole(second))
    if folded(answers[0]) == folded(answers[1]):
        raise Unusable("two equal samples")
    talk = as_lines(chat.prompt)
    verdicts = []
    for order in ((0, 1), (1, 0)):
        judged = filled(
            words["judge"], conversation=talk, first=answers[order[0]], second=answers[order[1]]
        )  # fmt: skip
        reply = yield Ask((Message("user", judged),), of="judge", temperature=None)
        verdict = str(_json(reply).get("better", "")).strip().upper()
        if verdict not in ("A", "B", "TIE"):
            raise Unusable("a verdict other than A, B and tie")
        verdicts.append(None if verdict == "TIE" else order["AB".index(verdict)])
    if verdicts == [None, None]:
        raise Unusable("judged a tie")
    better = verdicts[0]
    if better is None or verdicts[1] != better:
        raise Unusable("verdicts differ with the order")
    no_other_doses(answers[better], "\n".join(one.content for one in chat.messages))
    return Pair(chat.prompt, answers[better], answers[1 - better])


TASKS: dict[str, Callable[[Piece, Sequence[str], int], Work]] = {
    "qa": qa,
    "consultation": consultation,
    "rewrite": rewrite,
    "preference": preference,
}


def whole(reply: Reply) -> str:
    """The text of a reply. `Unusable` for one that is empty or cut off."""
    if reply.finish_reason == "length":
        raise Unusable("cut off at --max_new_tokens")
    if not reply.text.strip():
        raise Unusable("an empty reply")
    return reply.text.strip()


def spoken(reply: Reply) -> str:
    """What one person says, without a label before it. `Unusable` where the model speaks for the other one too."""
    text = ROLE.sub("", whole(reply), count=1) if ROLE.match(whole(reply)) else whole(reply)
    if ROLE.search(text):
        raise Unusable("one reply speaks for both")
    if not text.strip():
        raise Unusable("an empty reply")
    return text.strip()


def question_and_answer(reply: Reply) -> tuple[str, str]:
    """The two texts of a JSON reply. `Unusable` where they are not there."""
    found = _json(reply)
    texts = [found.get("question"), found.get("answer")]
    question, answer = (text.strip() if isinstance(text, str) else "" for text in texts)
    if not question or not answer:
        raise Unusable("JSON without question and answer")
    if folded(question) == folded(answer):
        raise Unusable("the answer repeats the question")
    if set(question + answer) <= set(".… "):
        raise Unusable("the example of the prompt instead of an answer")
    return question, answer


def _json(reply: Reply) -> JSONObject:
    """The JSON object of a reply, alone, in a code fence or between other words."""
    text = whole(reply)
    fenced = FENCE.search(text)
    text = fenced[1] if fenced else text
    begin = text.find("{")
    if begin < 0:
        raise Unusable("no JSON")
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(text[begin:])  # line breaks within texts are common
    except (ValueError, RecursionError):
        raise Unusable("broken JSON") from None
    return found if isinstance(found, dict) else {}


def doses(text: str) -> set[str]:
    """The doses of a text in one spelling: `{"500mg", "2tablet"}`; a range is its two ends."""
    found = set()
    for first, second, unit in DOSE.findall(unicodedata.normalize("NFKC", text).lower()):
        name = UNITS.get(unit, unit)
        found |= {f"{number.replace(',', '')}{name}" for number in (first, second) if number}
    return found


def no_other_doses(answer: str, source: str) -> None:
    """Raise `Unusable` where an answer names a dose that its source does not."""
    if doses(answer) - doses(source):
        raise Unusable("a dose that the source does not have")


def as_lines(messages: Sequence[Message]) -> str:
    """A conversation as `role: content`, for a prompt."""
    return "\n".join(f"{one.role}: {one.content}" for one in messages)


def _text(piece: Piece) -> str:
    assert isinstance(piece.source, Text), "qa and consultation are of passages"
    return piece.source.text


def _chat(piece: Piece) -> Chat:
    assert isinstance(piece.source, Chat), "rewrite and preference are of conversations"
    return piece.source
