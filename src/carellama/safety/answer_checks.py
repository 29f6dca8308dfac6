"""What an answer must not say without a mark: a diagnosis as a fact, a dose without a source, "stop your medicine".

    checks = AnswerChecks(["diagnosis", "dose"], said="I have had a cough for a week.")
    checks.find("You have pneumonia.")      # [AnswerRule(kind="diagnosis", note={"en": ..., "zh": ...})]

One sentence at a time, by rules (`answer_rules.yaml`). A disease or a dose that the person stated is not the model's
claim, and is not counted; one that the person asked about is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import get_args

from carellama.engine.base import AnswerKind
from carellama.rules import Mention, normalize
from carellama.safety.context import Context
from carellama.safety.pattern_rules import PatternRule, RuleSet
from carellama.safety.rule_files import RuleKind, RuleNode, read_rules, shipped_file

FILE = "answer_rules.yaml"
DOSE = re.compile(
    r"(?<![\d.])(?:\d{1,5}(?:\.\d{1,3})?(?: ?(?:-|to|~|至|到) ?\d{1,5}(?:\.\d{1,3})?)?|[一二两三四五六半]{1,2}|"
    r"(?<![a-z])(?:one|two|three|four|half an?))"
    r"[ -]?(?:mg|mcg|µg|μg|ug|g|ml|cc|iu|units?|毫克|微克|克|毫升|国际单位|单位|片|粒|颗|丸|滴|支|包|袋|"
    r"tablets?|capsules?|caplets?|pills?|drops?|puffs?|teaspoons?|tsp|sachets?|suppositor(?:y|ies))(?![a-z])"
)
STATED = ("dose", "disease")  # concepts that do not count where the person said the same
_SENTENCE = re.compile(r"[^。！？!?；;\n]*[。！？!?；;\n]?")
_ASKS = re.compile(r"[?？]|吗|是不是|会不会|是否|^(?:do|does|is|are|can|could|should|will) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule(PatternRule):
    """One rule about what an answer says."""

    kind: AnswerKind
    note: Mapping[str, str]  # what is said of the sentence, by language


@cache
def load_answer_rules() -> RuleSet[AnswerRule]:
    """Return the rules. Raises `UserError` with the line of a fault."""
    return read_rules([shipped_file(FILE)], RULE_KIND)


def _make(node: RuleNode) -> AnswerRule:
    return AnswerRule(kind=node.choice("kind", get_args(AnswerKind)), note=node.texts("note"), **node.common)


RULE_KIND = RuleKind({"kind": str, "note": dict}, _make, numbers=frozenset({"dose"}))


class AnswerChecks:
    """The checks of the answers of one conversation; `said` is what the person said in it."""

    def __init__(self, kinds: Collection[str], said: str = "") -> None:
        self._kinds = frozenset(kinds)
        self._stated = _compact("".join(one for one in _SENTENCE.findall(normalize(said)) if not _ASKS.search(one)))

    def find(self, sentence: str) -> list[AnswerRule]:
        """Return the rules that a sentence of the answer breaks."""
        rules, plain = load_answer_rules(), normalize(sentence)
        mentions = dict(rules.lexicon.find(plain, {"dose": find_doses(plain)}))
        for concept in STATED:
            if concept in mentions:
                mentions[concept] = [one for one in mentions[concept] if not self._is_stated(plain, one)]
        broken = rules.match(plain, mentions, Context(plain, mentions))
        return [rule for rule, _ in broken if rule.kind in self._kinds]

    def _is_stated(self, plain: str, mention: Mention) -> bool:
        return _compact(plain[mention.start : mention.end]) in self._stated


def find_doses(plain: str) -> list[Mention]:
    """Return where a text of `normalize` names an amount of a medicine."""
    return [Mention(one.start(), one.end(), (one.span(),)) for one in DOSE.finditer(plain)]


def _compact(text: str) -> str:
    return text.replace(" ", "")
