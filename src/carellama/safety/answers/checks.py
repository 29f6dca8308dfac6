"""What an answer must not say without a mark: a diagnosis as a fact, a dose without a source, "stop your medicine".

    checks = AnswerChecks(["diagnosis", "dose"], said="I have had a cough for a week.")
    checks.find("You have pneumonia.")      # [Claim(kind="diagnosis", note={"en": ..., "zh": ...}, id=...)]

One sentence at a time, by rules (`answer_rules.yaml`) and by a classifier (`safety.answers.classifier`). A disease or a
dose that the person stated is not the model's claim, and is not counted; one that the person asked about is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, get_args

from carellama.engine.base import AnswerKind
from carellama.rules import FoundMentions, Mentions, normalize
from carellama.safety.answers.classifier import (
    KINDS,
    AnswerClassifier,
    features,
    is_question,
    load_answer_classifier,
    may_be,
)
from carellama.safety.answers.terms import PersonStatements, find_terms
from carellama.safety.medication.rules import MedicationRules
from carellama.safety.rules.context import Context
from carellama.safety.rules.files import RuleKind, RuleOptions, read_rules, shipped_file
from carellama.safety.rules.rule_set import PatternRule, RuleSet
from carellama.safety.rules.yaml_file import Fields

FILE = "answers/answer_rules.yaml"
CLASSIFIER = "classifier"
TERMS = ("disease", "medicine", "dose", "frequency")  # of safety.answers.terms
STATED = ("dose", "disease")  # those that do not count where the person said the same


class Claim(NamedTuple):
    """What a sentence claims, what is said of it, and the rule that it breaks; "classifier" where none does."""

    kind: AnswerKind
    note: Mapping[str, str]  # by language
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule(PatternRule):
    """One rule about what an answer says."""

    kind: AnswerKind
    note: Mapping[str, str]  # what is said of the sentence, by language


@cache
def load_answer_rules() -> RuleSet[AnswerRule]:
    """Return the rules. Raises `UserError` with the line of a fault."""
    return read_rules([shipped_file(FILE)], RULE_KIND)


def _make(fields: Fields, common: RuleOptions) -> AnswerRule:
    return AnswerRule(kind=fields.words("kind", get_args(AnswerKind))[0], note=fields.text("note"), **common)


RULE_KIND = RuleKind({"kind": str, "note": dict}, _make, numbers=frozenset(TERMS))


class AnswerChecks:
    """The checks of the answers of one conversation; `said` is what the person said in it.

    `medicines`: those whose names count; None: CareLlama's own.
    """

    def __init__(
        self,
        kinds: Collection[str],
        said: str = "",
        classifier: AnswerClassifier | None = None,
        medicines: MedicationRules | None = None,
    ) -> None:
        self._kinds, self._stated = frozenset(kinds), PersonStatements(said)
        self._classifier, self._medicines = classifier or load_answer_classifier(), medicines

    def find(self, sentence: str, besides: Collection[str] = ()) -> list[Claim]:
        """Return what a sentence of the answer claims: by each rule that it breaks, and by the classifier besides.

        `besides` are kinds that nobody asks for.
        """
        plain = normalize(sentence)
        if is_question(plain):
            return []
        found = self._find(plain)
        mentions = self._split(plain, found)
        kinds = (may_be(plain, mentions) & self._kinds).difference(besides)
        if not kinds:
            return []
        broken = [rule for rule in self._broken(plain, mentions, found) if rule.kind in kinds]
        kinds -= {rule.kind for rule in broken}
        margins = self._classifier.margins(features(plain, mentions), kinds) if kinds else {}
        notes = {rule.kind: rule.note for rule in load_answer_rules().rules}
        return [
            *(Claim(rule.kind, rule.note, rule.id) for rule in broken),
            *(Claim(kind, notes[kind], CLASSIFIER) for kind in KINDS if margins.get(kind, -1.0) >= 0),
        ]

    def _broken(self, plain: str, mentions: Mentions, found: Mentions) -> list[AnswerRule]:
        """The rules that a sentence breaks; how its mentions are meant is looked at only where one may be broken."""
        rules = load_answer_rules()
        if not any(all(any(one.concept in mentions for one in entry) for entry in rule.find) for rule in rules.rules):
            return []
        return [rule for rule, _ in rules.match(plain, mentions, Context(plain, found))]

    def is_about_taking(self, heading: str) -> bool:
        """Return whether amounts below a heading are doses: it names a medicine, or taking one."""
        mentions = self.mentions(normalize(heading))
        return any(name in mentions for name in ("medicine", "take", "frequency"))

    def mentions(self, plain: str) -> Mentions:
        """Return what a text of `normalize` names: concepts of the rules, and terms; those stated by other names."""
        return self._split(plain, self._find(plain))

    def _find(self, plain: str) -> FoundMentions:
        return load_answer_rules().lexicon.find(plain, find_terms(plain, self._medicines))

    def _split(self, plain: str, found: FoundMentions) -> Mentions:
        """The mentions of concepts that rules and classifier read, which begin with no underscore."""
        mentions = {name: ones for name in found if name[0] != "_" and (ones := found.get(name))}
        for concept in STATED:
            ones = mentions.pop(concept, [])
            for name, stated in ((concept, False), (f"stated_{concept}", True)):
                if kept := [one for one in ones if (plain[one.start : one.end] in self._stated) == stated]:
                    mentions[name] = kept
        return mentions
