"""Patients: one that answers by the card's words, and one that a model plays.

    patient = ScriptedPatient(card, seed=0)
    patient.answer([*messages, Message("assistant", "When did it start?")]).text

The scripted patient says the fact whose words the question has, at most two of them at once, each once. To anything
else it says no or that it does not know, in a variant drawn by the seed. Patients with the trait `half_answers` say
the first half, and the rest when they are asked again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Protocol

from carellama.engine.base import Engine, Sampling
from carellama.engine.generate import generate
from carellama.evaluate.consultation.cards import Card
from carellama.package_data import package_yaml
from carellama.records import JSONObject, Message
from carellama.rules import normalize
from carellama.text import is_chinese, ngrams, sentences, split_reasoning, words

MOST_SENTENCES = 3  # of a patient that a model plays; it is told to say one or two
MOST_FACTS = 2  # of one answer: who is asked many things at once answers the first of them
SAID, LEAST_WORDS = 0.5, 2  # from this share of a fact's words, and so many of them, a text says it
INFLECTED = r"(?:s|es|d|ed|ing)?"
QUESTION = re.compile(r"[?？]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a patient says to a question."""

    text: str
    asked: tuple[int, ...]  # facts that the question has words of, by number, the best match first
    repeated: bool  # whether it asks only for what was said


class Patient(Protocol):
    """Answers questions, and keeps count of what it has told."""

    fact_shares: dict[int, float]  # number of a fact -> share of it that was told

    def answer(self, messages: Sequence[Message]) -> Answer:
        """Answer the last message, which is the doctor's."""
        ...


@cache
def prompts() -> JSONObject:
    """The texts of prompts.yaml."""
    return package_yaml("evaluate/consultation/prompts.yaml")


class ScriptedPatient:
    """Answers by the words of its card; see the module for how."""

    def __init__(self, card: Card, seed: int) -> None:
        self.fact_shares: dict[int, float] = {}
        self._card = card
        self._random = Random(f"{seed} {card.id}")
        self._words = prompts()["scripted"][card.language]
        self._parts = [_halves(card, number) for number in range(len(card.facts))]

    def answer(self, messages: Sequence[Message]) -> Answer:
        """Answer the last message by the facts that it asks for."""
        question, age = messages[-1].content, ""
        for word in self._words["age_asked"]:
            if _has(normalize(question), word):
                age, question = age_and_sex(self._card), _pattern(word).sub(" ", normalize(question))
        asked = facts_in_question(self._card, question)
        fresh = [number for number in self._with_rest(asked) if self.fact_shares.get(number, 0.0) < 1]
        said = [age] * bool(age) + [self._reveal(number) for number in fresh[: MOST_FACTS - bool(age)]]
        if said:
            return Answer(self._aside() + " ".join(said), asked, repeated=False)
        return Answer(self._pick("again" if asked else "unknown"), asked, repeated=bool(asked))

    def _with_rest(self, asked: Sequence[int]) -> list[int]:
        """What is asked for, and for who answers by halves the next fact of a slot that is asked for again."""
        found = list(asked)
        if self._card.trait == "half_answers":
            slots = {self._card.facts[number].slot for number in asked if self.fact_shares.get(number) == 1}
            found += [number for number, fact in enumerate(self._card.facts) if fact.slot in slots]
        return list(dict.fromkeys(found))

    def _reveal(self, number: int) -> str:
        parts = self._parts[number]
        done = round(self.fact_shares.get(number, 0.0) * len(parts))
        self.fact_shares[number] = (done + 1) / len(parts)
        return parts[done]

    def _aside(self) -> str:
        return self._pick("aside") if self._card.trait == "chatty" else ""

    def _pick(self, kind: str) -> str:
        variants = self._words[kind]
        if isinstance(variants, dict):
            variants = variants.get(self._card.trait, variants["plain"])
        return str(self._random.choice(variants))


class ModelPatient:
    """A patient that a model plays: it gets the facts and the persona. What it told is found by the words it shares."""

    def __init__(self, card: Card, engine: Engine, sampling: Sampling, seed: int) -> None:
        self.fact_shares: dict[int, float] = {}
        self._card, self._engine, self._seed = card, engine, seed
        self._sampling = replace(sampling, stop=(*sampling.stop, "\n\n"))
        facts = "\n".join(f"- {fact.answer}" for fact in card.facts)
        words = prompts()["model"][card.language]
        manner = words["manner"][card.trait]
        self._system = words["system"].format(persona=card.persona, opening=card.opening, facts=facts, manner=manner)

    def answer(self, messages: Sequence[Message]) -> Answer:
        """Answer the last message as the model does; its own turns are the user's."""
        turned = [Message("assistant" if one.role == "user" else "user", one.content) for one in messages]
        begin = Message("user", prompts()["model"][self._card.language]["begin"])
        sampling = replace(self._sampling, seed=1000 * self._seed + len(messages))
        reply = generate(self._engine, [(Message("system", self._system), begin, *turned)], sampling)[0]
        text = said_once(split_reasoning(reply.text)[-1]) or "..."
        asked = facts_in_question(self._card, messages[-1].content)
        repeated = bool(asked) and all(number in self.fact_shares for number in asked)
        self.fact_shares |= dict.fromkeys(facts_in_text(self._card, text), 1.0)
        return Answer(text, asked, repeated)


def said_once(text: str) -> str:
    """Return the first sentences of a text, each once: a small model in the part of a patient repeats itself."""
    parts = dict.fromkeys(one.strip() for one in sentences(text) if one.strip())
    return " ".join(list(parts)[:MOST_SENTENCES])


def age_and_sex(card: Card) -> str:
    """Return what the persona begins with: "61, female."."""
    comma, stop = ("，", "。") if card.language == "zh" else (", ", ".")
    return comma.join(part.strip() for part in re.split("[,，]", card.persona)[:2]) + stop


def facts_in_question(card: Card, question: str) -> tuple[int, ...]:
    """Return the facts that a question has words of, by number: those with the most and the longest words first.

    Where a text has a question mark, only its questions count.
    """
    questions = [one for one in sentences(question) if QUESTION.search(one)]
    text = normalize(" ".join(questions) or question)
    found = {number: [len(word) for word in fact.ask if _has(text, word)] for number, fact in enumerate(card.facts)}
    hits = [number for number, lengths in found.items() if lengths]
    return tuple(sorted(hits, key=lambda number: (-len(found[number]), -max(found[number]))))


def facts_in_text(card: Card, text: str) -> list[int]:
    """Return the facts of which a text has half of the words, and two at least.

    Words are pairs of Chinese characters, numbers, and other words of at least 4 letters.
    """
    there = _content(text)
    shared = [(len(wanted & there), len(wanted)) for wanted in (_content(fact.answer) for fact in card.facts)]
    return [number for number, (count, of) in enumerate(shared) if count >= max(LEAST_WORDS, SAID * of)]


def _content(text: str) -> set[str]:
    items = words(normalize(text))
    if is_chinese(items):
        return {"".join(pair) for pair in ngrams(items, 2)}
    return {item for item in items if len(item.partition("'")[0]) > 3 or item.isdecimal()}


def _has(text: str, word: str) -> bool:
    return bool(_pattern(word).search(text))


@cache
def _pattern(word: str) -> re.Pattern[str]:
    plain = normalize(word.strip())
    begin = r"\b" if plain[0].isascii() else ""
    return re.compile(begin + re.escape(plain) + (rf"{INFLECTED}\b" if plain[-1].isascii() else ""))


def _halves(card: Card, number: int) -> tuple[str, ...]:
    """The fact in the parts that it is told in; a slot that has two facts on the card is halved there already."""
    fact = card.facts[number]
    alone = sum(one.slot == fact.slot for one in card.facts) == 1
    if card.trait != "half_answers" or not alone:
        return (fact.answer,)
    parts = [part.strip() for part in sentences(fact.answer) if re.search(r"\w", part)]
    middle = (len(parts) + 1) // 2
    joined = (" ".join(parts[:middle]), " ".join(parts[middle:]))
    return joined if joined[1] else (fact.answer,)
