"""The model's part of an interview: it words a question, and reads an answer into slots. It chooses nothing.

    found = drain(read_answer(engine, "When did it start?", "Tuesday, after a flight", ""))
    found.slots         # {"onset": "Tuesday", "social": "after a flight"}

A reading is JSON of a schema, where the engine can hold the model to one, and only words that the person wrote are
taken from it. A wording is taken where it is one question in the same language that asks about the same slot. Red
flags are asked in our own words: a sign that a model left out would not be asked about.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from carellama.consultation.questions import Questions
from carellama.consultation.state import SLOTS, Slot
from carellama.engine.base import Engine, Piece, Reply, Sampling
from carellama.engine.generate import stream
from carellama.errors import UserError
from carellama.package_data import package_yaml
from carellama.records import Message
from carellama.rules import normalize
from carellama.safety.notices import Language
from carellama.text import HAN_CHARACTER, words

MOST_WORDS = {"en": 40, "zh": 80}  # of a question; a Chinese character is a word
SHOWN_CHARS = 2000  # of an answer, that a model is shown
MOST_SHARING = 2  # fields with the same words; a small model copies the answer into all of them
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {slot: {"type": "string"} for slot in SLOTS},
    "required": list(SLOTS),
    "additionalProperties": False,
}
PROMPTS = "consultation/model.yaml"
_LABEL = re.compile(r"^(?:the )?question: *", re.IGNORECASE)  # of our prompt, which a small model repeats
_NAMES = {"en": "English", "zh": "Chinese"}


def _reading_prompt() -> str:
    """What a model is told that reads an answer."""
    prompts = package_yaml(PROMPTS)
    fields = "\n".join(f"{slot}: {prompts['about'][slot]}" for slot in SLOTS)
    read: str = prompts["read"]
    return read.replace("{fields}", fields)


@dataclass(frozen=True, slots=True)
class ModelReading:
    """What a model read of an answer; `failure` says why it could not be used, "" where it could."""

    slots: Mapping[Slot, str] = field(default_factory=dict)
    failure: str = ""
    may_pass: bool = False  # asking again may help: the engine did not answer
    tokens: tuple[int, int] = (0, 0)  # of the prompt, of the answer


def read_answer(engine: Engine, question: str, answer: str, adapter: str) -> Generator[Piece, None, ModelReading]:
    """Let the model read an answer; the generator yields empty pieces while it does."""
    told = f"Question: {question}\nAnswer: {answer[:SHOWN_CHARS]}"
    sampling = Sampling(max_new_tokens=512, temperature=0.0, json_schema=SCHEMA, adapter=adapter)
    try:
        reply = yield from _ask(engine, (Message("system", _reading_prompt()), Message("user", told)), sampling)
    except UserError as error:
        return ModelReading(failure=str(error), may_pass=True)
    tokens = (reply.prompt_tokens, reply.completion_tokens)
    try:
        read = json.loads(reply.text)
    except ValueError:
        return ModelReading(failure="it is not JSON", tokens=tokens)
    if not isinstance(read, dict) or not all(isinstance(read.get(slot), str) for slot in SLOTS):
        return ModelReading(failure="it does not keep to the schema", tokens=tokens)
    plain = normalize(answer)
    slots: dict[Slot, str] = {}
    for slot in SLOTS:
        at = plain.find(normalize(read[slot].strip()))
        if read[slot].strip() and at >= 0:
            slots[slot] = answer[at : at + len(read[slot].strip())]
    count = max(Counter(map(normalize, slots.values())).values(), default=0)
    if count > MOST_SHARING:
        return ModelReading(failure=f"it writes the same words into {count} fields", tokens=tokens)
    return ModelReading(slots, tokens=tokens)


@dataclass(frozen=True, slots=True)
class Wording:
    """A question as a model words it; `failure` says why the rule's wording stands."""

    text: str
    failure: str = ""
    tokens: tuple[int, int] = (0, 0)


def word_question(
    engine: Engine, slot: Slot, question: str, said: str, language: Language, questions: Questions, adapter: str
) -> Generator[Piece, None, Wording]:
    """Let the model word a question; `said` is what the person said last."""
    system = package_yaml(PROMPTS)["word"].format(language=_NAMES[language])
    told = f"The patient said: {said[:SHOWN_CHARS]}\nThe question: {question}"
    sampling = Sampling(max_new_tokens=160, temperature=0.0, adapter=adapter)
    try:
        reply = yield from _ask(engine, (Message("system", system), Message("user", told)), sampling)
    except UserError as error:
        return Wording(question, str(error))
    text = _LABEL.sub("", reply.text.strip()).strip().strip('"“”').strip()
    failure = wording_fault(text, slot, language, questions)
    return Wording(question if failure else text, failure, (reply.prompt_tokens, reply.completion_tokens))


def wording_fault(text: str, slot: Slot, language: Language, questions: Questions) -> str:
    """Return what is wrong with a model's wording of a question, "" if nothing is."""
    if text.count("?") + text.count("？") != 1 or text[-1] not in "?？" or "\n" in text:
        return "it is not one question"
    if (language == "zh") != bool(HAN_CHARACTER.search(text)):
        return "it is in another language"
    if len(words(text)) > MOST_WORDS[language]:
        return f"it has more than {MOST_WORDS[language]} words"
    if questions.slot_of(text) != slot:
        return f"it does not ask about {slot}"
    return ""


def _ask(engine: Engine, prompt: tuple[Message, ...], sampling: Sampling) -> Generator[Piece, None, Reply]:
    """The engine's reply, with an empty piece for each of its own."""
    with closing(stream(engine, prompt, sampling)) as pieces:
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                reply: Reply = end.value
                return reply
            yield Piece()
