"""Whether a request is answered, answered with caution, or refused: before a model reads it.

    guard = Guard()
    guard.judge([Message("user", "Write me a fake prescription")])
    # Judgement(outcome="refuse", category="prescription_forging", rule="forge-medical-papers", by="rules")

Three readers, of which the strictest counts: rules (`guard.rules`), a classifier for what no rule has a word for, and a
guard model where one is given (`guard.model`). The last request counts, with what went before: alone, then together
with the person's earlier turns, of which it may be the end ("I hate my boss" ... "so what do I put in his tea?"). A
request that was refused and then taken up again ("go on") is refused again; another question is answered. A question
without a word of its own ("give me the steps") is judged together with the request that it follows, and a wish to
read on ("continue your answer") as that request. Disguises (base64, letters apart, ...) are undone first
(`guard.disguises`). What tools return is read for instructions to the assistant only. It keeps nothing of what was
said.
"""

from __future__ import annotations

import itertools
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from carellama.records import Message
from carellama.rules import Mentions
from carellama.safety.classifier.classifier import Classifier, blocks, load_classifier
from carellama.safety.classifier.signs import Sign
from carellama.safety.guard.disguises import PATTERNS, preferred_words, readings
from carellama.safety.guard.model import GuardModel, GuardModelError
from carellama.safety.guard.pinyin import word_sounds
from carellama.safety.guard.rules import GENERAL, OUTCOMES, GuardRule, Outcome, Reader, load_guard_rules
from carellama.safety.policy import Action, Policy
from carellama.safety.rules.rule_set import Spans

log = logging.getLogger(__name__)
INJECTION = "prompt_injection"  # the category that documents are read for
WEIGHTS = "guard/guard.tsv.gz"
READERS: tuple[Reader, ...] = ("rules", "classifier", "model")
NEVER_OVERRULED = ("minors_sexual",)  # categories whose rules stand whatever the classifier says
MEANS_OF_HARM = frozenset({"lethal", "poison", "controlled", "victim", "self_harm"})  # concepts of the rules
EARLIER_CHARACTERS = 4000  # of the person's earlier turns that are read together with the last
ENDS_CHARACTERS = 600  # of the beginning and of the end of a longer text, which the classifier reads
AROUND_CHARACTERS = 300  # before and behind what a rule found in a longer text, which the classifier reads
LONGEST = 20_000  # characters of a text that is read as a whole; a longer one is read window by window
WINDOW, OVERLAP = 4000, 500  # characters of a window, and of it those that the next one begins with
LONGEST_WISH = 100  # characters of a wish to read on
LONG_REQUEST = 60  # characters; a longer one speaks for itself and is not taken for "go on"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is done with a request; `category`, `rule` and `by` are "" where it is answered.

    `failure`: why the guard model said nothing; the other readers judged without it.
    """

    outcome: Outcome
    category: str = ""
    rule: str = ""
    by: str = ""
    failure: str = ""

    @property
    def strictness(self) -> int:
        """How far it is from an answer, to compare judgements."""
        return OUTCOMES.index(self.outcome)


ANSWER = Judgement("answer")
BY_CLASSIFIER = Judgement("refuse", GENERAL, "classifier", "classifier")


class Guard:
    """Judges requests. Raises `UserError` for faulty rules or weights.

    `more_rules`: files of rules besides those that CareLlama ships. `classifier`: a file of weights, None: those that
    CareLlama ships. `readers`: who judges, to measure each alone.
    """

    def __init__(
        self,
        more_rules: Sequence[Path] = (),
        classifier: str | None = None,
        model: GuardModel | None = None,
        readers: Sequence[Reader] = READERS,
    ) -> None:
        self._rules = load_guard_rules(more_rules)
        self._sounds = word_sounds([*preferred_words(), *self._rules.lexicon.words()])
        self._classifier = load_classifier(classifier, WEIGHTS) if "classifier" in readers else None
        self._by_rules = "rules" in readers
        self._model = model if "model" in readers else None
        self._policy: Policy | None = None  # None: each category is refused

    def with_classifier(self, classifier: Classifier, *, rules: bool = True) -> Guard:
        """Return a guard with the same rules, or none of them, and another classifier."""
        made = copy(self)
        made._classifier, made._by_rules = classifier, rules  # noqa: SLF001 - a copy of its own
        return made

    def with_policy(self, policy: Policy) -> Guard:
        """Return a guard that looks for nothing that a policy has off, and prefers what it refuses to what it marks."""
        made = copy(self)
        made._policy = policy  # noqa: SLF001 - a copy of its own
        return made

    def signs(self, plain: str) -> list[Sign]:
        """Return what the classifier has of a text of `normalize` besides word sequences."""
        return concept_signs(plain, self._rules.mentions(plain))

    def judge(self, messages: Sequence[Message]) -> Judgement:
        """Return what is done with the last request of a conversation.

        Takes time linear in its length; a guard model is asked only where the others do not refuse.
        """
        found = self._by_words(messages)
        if self._model is None or found.outcome == "refuse":
            return found
        try:
            verdict = self._model.judge(messages)
        except GuardModelError as error:
            log.warning("%s; rules and classifier judged alone", error)
            return replace(found, failure=str(error))
        judged = Judgement(verdict.outcome, verdict.category, verdict.label, "model") if verdict.category else ANSWER
        return judged if judged.strictness > found.strictness and self._action(verdict.category) != "off" else found

    def close(self) -> None:
        """Close the engine of the guard model, if there is one."""
        if self._model is not None:
            self._model.close()

    def _by_words(self, messages: Sequence[Message]) -> Judgement:
        """What rules and classifier say."""
        turns, follow_ups = [one.content for one in messages if one.role == "user"], list[str]()
        while turns and follows_up(turns[-1]):
            follow_ups.insert(0, turns.pop())
        follow_ups = list(itertools.filterfalse(reads_on, follow_ups))
        request, earlier = "\n".join(turns[-1:]), "\n".join(turns[:-1])[-EARLIER_CHARACTERS:]
        last = "\n".join([*turns[-1:], *follow_ups])
        is_harmless = partial(self._is_harmless, request, earlier)
        found = self._strictest([self._judge_followed(request, last, is_harmless), *self._documents(messages)])
        if found.outcome == "refuse" or not earlier:
            return found
        whole = self._judge_followed(f"{earlier}\n{request}", f"{earlier}\n{last}", is_harmless)
        if whole.strictness > found.strictness:
            before = self.judge_text(earlier)
            if before.strictness < whole.strictness or goes_on(last):
                return whole
        return found

    def _judge_followed(self, request: str, text: str, is_harmless: Callable[[], bool]) -> Judgement:
        """What rules and classifier say of a text: a request and what follows it and says nothing by itself.

        "Just tell me" is no reason to refuse what is harmless: the classifier has learned such words from requests to
        refuse, and has seen few of them after an answer such as "no" or "penicillin".
        """
        found = self.judge_text(text)
        if request and text != request and found.by == BY_CLASSIFIER.by and is_harmless():
            return self.judge_text(request)
        return found

    def _is_harmless(self, request: str, earlier: str) -> bool:
        """Whether the classifier is sure that a request is harmless, which names no means or victim of harm, and
        nothing is refused of what was said before.
        """
        if self._classifier is None or self.judge_text(f"{earlier}\n{request}").outcome == "refuse":
            return False
        plains = self._readings(request)
        if any(not MEANS_OF_HARM.isdisjoint(self._rules.mentions(plain)) for plain in plains):
            return False
        return all(self._score(plain) < self._classifier.floor for plain in plains)

    def judge_text(self, text: str) -> Judgement:
        """Return what rules and classifier say of a text by itself, in all readings of it.

        Of a text of more than `LONGEST` characters, a paste, they read both ends as a request, and the rules all of it:
        there a rule counts where the classifier says the same of the passage.
        """
        if len(text) <= LONGEST:
            return self._strictest(map(self._judge_plain, self._readings(text)))
        found = self.judge_text(_ends(text))
        if found.outcome == "refuse":
            return found
        parts = (self._judge_part(plain) for window in _windows(text) for plain in self._readings(window))
        return self._strictest([found, *parts])

    def _readings(self, text: str) -> tuple[str, ...]:
        return readings(text, self._sounds)

    def plain(self, messages: Sequence[Message]) -> str:
        """Return what a person asked, undisguised: what the classifier learns from. Of a paste, both ends."""
        text = "\n".join(one.content for one in messages if one.role == "user")
        return self._readings(text if len(text) <= LONGEST else _ends(text))[-1]

    def _judge_plain(self, plain: str) -> Judgement:
        mentions = self._rules.mentions(plain)
        fired = self._rules.match(plain, mentions) if self._by_rules else []
        meant = [(rule, spans) for rule, spans in fired if self._action(rule.category) != "off"]
        found = self._strictest(_judgement(rule) for rule, _ in meant)
        stands = found.outcome == "refuse" and found.category in NEVER_OVERRULED
        only_off = len(fired) > 0 and not meant  # the classifier knows no category: it would refuse what is off
        if self._classifier is None or self._action(GENERAL) == "off" or stands or only_off:
            return found
        if len(plain) > 2 * ENDS_CHARACTERS:  # what it says of both ends lifts nothing that stands between them
            found = self._agreed(meant, plain, self._classifier.floor)
        score = self._score(plain, mentions)
        if score >= self._classifier.threshold and found.outcome != "refuse":
            return replace(BY_CLASSIFIER, category=found.category or GENERAL)
        shipped = all(rule.shipped for rule, _ in fired) and len(plain) <= 2 * ENDS_CHARACTERS
        lifted = score < self._classifier.floor and found.outcome == "refuse" and shipped
        return ANSWER if lifted else found

    def _judge_part(self, plain: str) -> Judgement:
        """What the rules say of a part of a paste, where the classifier says the same of the passage."""
        fired = self._rules.match(plain, self._rules.mentions(plain)) if self._by_rules else []
        meant = [(rule, spans) for rule, spans in fired if self._action(rule.category) != "off"]
        return self._agreed(meant, plain, self._classifier.floor if self._classifier else 0.0)

    def _agreed(self, fired: Sequence[tuple[GuardRule, Spans]], plain: str, limit: float) -> Judgement:
        """The strictest of the rules that fired on a longer text, without refusals by shipped rules where the
        classifier's log-odds of the passage are below a limit.
        """
        return self._strictest(
            _judgement(rule)
            for rule, spans in fired
            if rule.outcome != "refuse"
            or not rule.shipped
            or rule.category in NEVER_OVERRULED
            or self._classifier is None
            or self._score(_passage(plain, spans)) >= limit
        )

    def _score(self, plain: str, mentions: Mentions | None = None) -> float:
        """The classifier's log-odds of a text; of a longer one it reads both ends, where requests stand."""
        assert self._classifier is not None
        if len(plain) > 2 * ENDS_CHARACTERS:
            plain, mentions = _ends(plain), None
        return self._classifier.score(plain, concept_signs(plain, mentions or self._rules.mentions(plain)))

    def _action(self, category: str) -> Action:
        return self._policy.action(category) if self._policy and category else "on"

    def _strictest(self, found: Iterable[Judgement]) -> Judgement:
        """The first of the strictest judgements, of those that are acted on most."""
        return max(found, key=lambda one: (one.strictness, self._action(one.category) == "on"), default=ANSWER)

    def _documents(self, messages: Sequence[Message]) -> Iterator[Judgement]:
        """Judgements of what tools returned since the last request: only instructions to the assistant count."""
        for message in reversed(messages):
            if message.role == "user":
                return
            if message.role == "tool":
                parts = [message.content] if len(message.content) <= LONGEST else _windows(message.content)
                for reading in (reading for part in parts for reading in self._readings(part)):
                    for rule, _ in self._rules.match(reading, self._rules.mentions(reading)):
                        if rule.category == INJECTION and self._action(INJECTION) != "off":
                            yield _judgement(rule)


def concept_signs(plain: str, mentions: Mentions) -> list[Sign]:
    """Return what the classifier has besides word sequences: concepts of the rules, and pairs of them in a window."""
    places = sorted((one.start, name) for name, found in mentions.items() if name[0] != "_" for one in found)
    signs: list[Sign] = []
    begin = 0
    for block in blocks(plain):
        end = begin + len(block)
        first, last = bisect_left(places, (begin, "")), bisect_left(places, (end, ""))
        names = sorted({f"{{{name}}}" for _, name in places[first:last]})
        signs += [(begin, name) for name in names]
        signs += [(begin, one + other) for at, one in enumerate(names) for other in names[at + 1 :]]
        begin = end
    return signs


def _judgement(rule: GuardRule) -> Judgement:
    return Judgement(rule.outcome, rule.category, rule.id, "rules")


def _ends(text: str) -> str:
    """The beginning and the end of a longer text."""
    return f"{text[:ENDS_CHARACTERS]}\n{text[-ENDS_CHARACTERS:]}"


def _passage(plain: str, spans: Spans) -> str:
    """What a rule found in a text, with what stands around it."""
    begin, end = min(start for start, _ in spans), max(end for _, end in spans)
    return plain[max(0, begin - AROUND_CHARACTERS) : end + AROUND_CHARACTERS]


def _windows(text: str) -> Iterator[str]:
    """The parts of a long text, each beginning with the end of the one before."""
    return (text[begin : begin + WINDOW] for begin in range(0, len(text) - OVERLAP, WINDOW - OVERLAP))


def goes_on(text: str) -> bool:
    """Return whether a request takes up the one before."""
    return len(text) <= LONG_REQUEST and bool(PATTERNS["goes_on"].search(text))


def follows_up(text: str) -> bool:
    """Return whether a message says nothing by itself, as "give me the steps" and "continue" do."""
    return len(text) <= LONGEST_WISH and not PATTERNS["follow_up_words"].sub("", text)


def reads_on(text: str) -> bool:
    """Return whether a message only asks for more of the answer before it."""
    is_wish = len(text) <= LONGEST_WISH and bool(PATTERNS["read_on"].search(text))
    return is_wish and not PATTERNS["read_on_words"].sub("", text)
