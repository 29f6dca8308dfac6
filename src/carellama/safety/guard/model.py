"""A guard model beside the rules: Llama Guard, Qwen3Guard or ShieldGemma, on any engine.

    model = GuardModel(engine, guard_format("meta-llama/Llama-Guard-3-8B"))
    model.judge(messages)        # Verdict(outcome="refuse", category="self_harm_method", label="S11")

How each is asked and what it answers, from their model cards:

    llama_guard   the conversation as it is (the prompt is in its chat template); `safe`, or `unsafe` and S1, S2, ...
    qwen3guard    the conversation as it is; `Safety: Safe | Controversial | Unsafe` and `Categories: ...`
    shieldgemma   a policy as a system message, and the request (the frame is in its chat template, since August 2024);
                  an answer that begins with Yes or No

What they call unsafe is wider than the guard's task: advice of a profession, defamation, copyright and politics are
answered here. An answer in another form is an error, never a "safe".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from carellama.engine.base import Engine, Sampling
from carellama.engine.generate import generate
from carellama.errors import UserError, lookup
from carellama.package_data import package_yaml
from carellama.records import JSONObject, Message
from carellama.safety.guard.rules import GENERAL, Outcome

ANSWER_TOKENS = 64  # a verdict is a few words
PROBE = "zebra 4711"  # words that a prompt must still have when the chat template has framed it
_QWEN = re.compile(r"Safety:\s*(Safe|Controversial|Unsafe)\b", re.IGNORECASE)
_QWEN_CATEGORIES = re.compile(r"Categories:\s*(.+)", re.IGNORECASE)


def _data() -> JSONObject:
    """The categories of the models as those of the guard, and the policy that one of them is given."""
    return package_yaml("safety/guard/models.yaml")


class GuardModelError(Exception):
    """The guard model did not answer, or in no form that is known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard model says of a request; `label` is its own word for the category. `category` "": answer it."""

    outcome: Outcome = "answer"
    category: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class GuardFormat:
    """How a family of guard models is asked, and how its answer is read (None: it has no known form)."""

    prompt: Callable[[Sequence[Message]], Sequence[Message]]
    read: Callable[[str], Verdict | None]


def conversation(messages: Sequence[Message]) -> list[Message]:
    """Return the turns of person and assistant, those of one side in a row as one, up to the last request."""
    turns: list[Message] = []
    for message in messages:
        if message.role not in ("user", "assistant") or not (turns or message.role == "user"):
            continue
        if turns and turns[-1].role == message.role:
            turns[-1] = Message(message.role, f"{turns[-1].content}\n{message.content}")
        else:
            turns.append(Message(message.role, message.content))
    return turns[:-1] if turns and turns[-1].role == "assistant" else turns


def read_llama_guard(text: str) -> Verdict | None:
    """Read `safe`, or `unsafe` with its hazards in the next line."""
    lines = text.strip().lower().splitlines()
    if not lines or lines[0].strip() not in ("safe", "unsafe"):
        return None
    if lines[0].strip() == "safe":
        return Verdict()
    hazards = re.findall(r"S\d{1,2}", " ".join(lines[1:2]).upper())
    return _worst(hazards, _data()["llama_guard"], "refuse")


def read_qwen3guard(text: str) -> Verdict | None:
    """Read the lines `Safety:` and `Categories:`."""
    safety = _QWEN.search(text)
    if safety is None:
        return None
    if safety[1].lower() == "safe":
        return Verdict()
    found = _QWEN_CATEGORIES.search(text)
    names = [one.strip().lower() for one in found[1].split(",")] if found else []
    names = [one for one in names if one != "none"]
    return _worst(names, _data()["qwen3guard"], "refuse" if safety[1].lower() == "unsafe" else "caution")


def read_shieldgemma(text: str) -> Verdict | None:
    """Read an answer that begins with Yes (it violates the policy) or No."""
    word = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    if word is None:
        return None
    return Verdict("refuse", GENERAL, "policy") if word[1].lower() == "yes" else Verdict()


def _worst(labels: Sequence[str], categories: Mapping[str, str], outcome: Outcome) -> Verdict:
    """The first category that the guard knows; a request of other categories only is answered."""
    if not labels:
        return Verdict(outcome, GENERAL, "unsafe")
    known = (label for label in labels if label in categories)
    return next((Verdict(outcome, categories[label], label) for label in known), Verdict())


def shieldgemma_prompt(messages: Sequence[Message]) -> list[Message]:
    """Return the policy as a system message, and the person's turns: the chat template of ShieldGemma frames them."""
    asked = "\n".join(one.content for one in messages if one.role == "user")
    return [Message("system", _data()["shieldgemma_policy"]), Message("user", asked)] if asked else []


FORMATS: Mapping[str, GuardFormat] = {
    "llama_guard": GuardFormat(conversation, read_llama_guard),
    "qwen3guard": GuardFormat(conversation, read_qwen3guard),
    "shieldgemma": GuardFormat(shieldgemma_prompt, read_shieldgemma),
}


def guard_format(name: str | None, model: str) -> GuardFormat:
    """Return the format of a name; None: by the model's name. Raises `UserError` where that does not tell."""
    if name is not None:
        return lookup(FORMATS, name, "format of a guard model")
    plain = re.sub(r"[^a-z0-9]", "", model.lower())
    for known, made in FORMATS.items():
        if known.replace("_", "") in plain:
            return made
    raise UserError(
        f"the name {model!r} does not tell which guard model it is; give --guard_format {'|'.join(FORMATS)}"
    )


class GuardModel:
    """A guard model on an engine."""

    def __init__(self, engine: Engine, form: GuardFormat) -> None:
        self._engine, self._form = engine, form
        self._checked = False  # whether the chat template was seen to keep what it frames

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def judge(self, messages: Sequence[Message]) -> Verdict:
        """Return what the model says of the last request. Raises `GuardModelError`."""
        prompt = self._form.prompt(messages)
        if not prompt:
            return Verdict()
        self._check_template()
        try:
            reply = generate(self._engine, [prompt], Sampling(max_new_tokens=ANSWER_TOKENS, temperature=0.0))[0]
        except Exception as error:  # whatever went wrong there, the rules go on judging
            raise GuardModelError(f"the guard model did not answer: {error}") from error
        verdict = self._form.read(reply.text)
        if verdict is None:
            raise GuardModelError(f"the guard model answered in no known form ({len(reply.text)} characters)")
        return verdict

    def _check_template(self) -> None:
        """Raise `GuardModelError` where the chat template drops the request: the model would call everything safe.

        Templates of models that take pictures (Llama Guard 3 1B and 4) want a list of parts in place of a text.
        """
        if self._checked:
            return
        try:
            framed = self._engine.prepare(self._form.prompt([Message("user", PROBE)]), exact=False).text
        except Exception:  # noqa: BLE001 - an endpoint that renders nothing frames texts itself
            framed = PROBE
        if PROBE not in framed:
            raise GuardModelError(
                "the chat template of the guard model drops the request; serve it with vLLM, and give --guard_endpoint"
            )
        self._checked = True
