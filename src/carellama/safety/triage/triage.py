"""Which signs of an emergency a conversation tells of, and what has to be done: by rules, before a model speaks.

    found = triage([Message("user", "胸口像压了块石头，一身冷汗")])
    found.level, found.findings[0].rule.id          # "emergency", "heart-attack"

It looks at all that the person said, not only at the last message, and at a question of the assistant that the person
affirmed. It makes no diagnosis: the rules (`safety.triage.rules`) name signs, an action and a source. With a
classifier (`safety.classifier`) a text is called an emergency as well where no rule fires; such a finding has the rule
`classifier`, which gives no reason. Where the classifier is sure that a text is harmless, an emergency of a rule that
CareLlama ships is shown as urgent instead; the more rules found it, the surer it has to be. One of
`NEVER_OVERRULED`, or of the rules of a hospital, never is. How much is missed, `carellama safety eval` measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from carellama.package_data import Patterns
from carellama.records import Message
from carellama.rules import normalize
from carellama.safety.classifier.classifier import Classifier, Verdict
from carellama.safety.classifier.signs import Sign, signs
from carellama.safety.rules.context import Context
from carellama.safety.rules.measures import find_measures
from carellama.safety.rules.rule_set import Spans
from carellama.safety.triage.rules import LEVELS, Level, RedFlag, RedFlags, load_red_flags

PATTERNS = Patterns("safety/triage/patterns.yaml")

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # pasted along from web pages and chats
# from the start of a sentence only: tried from each character, it takes quadratic time where no question follows
_ASKED = re.compile(r"(?:^|(?<=[。！？!?.\n]))[^。！？!?.\n]*+[?？]")
NEVER_OVERRULED = ("mind", "abuse")  # systems whose rules stand whatever the classifier says
BY_CLASSIFIER = RedFlag(
    id="classifier",
    level="emergency",
    system="",
    find=(),
    do={
        "en": "Call an ambulance or go to an emergency department now; if you are not sure, call and ask.",
        "zh": "请立即呼叫救护车或去急诊；拿不准时，先打电话询问。",
    },
    source="weights learned from labelled texts, see safety.classifier",
    place="classifier",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired, where (offsets into `Triage.text`), and how urgent it is in the end."""

    rule: RedFlag
    spans: Spans
    level: Level

    @property
    def overruled(self) -> bool:
        """Whether the classifier made it less urgent than its rule says."""
        return self.level != self.rule.level


@dataclass(frozen=True, slots=True)
class Triage:
    """What the rules found, the most urgent first; `level` is None where they found nothing."""

    text: str
    findings: tuple[Finding, ...]
    verdict: Verdict | None = None  # of the classifier on the whole; None: there is none
    margin: float = 0.0  # log-odds by which the classifier is above its threshold

    @property
    def level(self) -> Level | None:
        """The most urgent level."""
        return self.findings[0].level if self.findings else None


def triage(messages: Sequence[Message], rules: RedFlags | None = None, classifier: Classifier | None = None) -> Triage:
    """Return which rules fire on a conversation, and what the classifier adds. Takes time linear in its length."""
    return triage_text(patient_text(messages), rules, classifier)


def patient_text(messages: Sequence[Message]) -> str:
    """Return what the person said, turn by turn, with the questions that they affirmed.

    Characters that nobody sees are left out: one inside of a word would hide it.
    """
    turns: list[str] = []
    asked = ""
    for message in messages:
        if message.role == "assistant":
            questions = _ASKED.findall(message.content)
            asked = questions[-1].strip() if questions else ""
        elif message.role == "user":
            if asked and PATTERNS["affirms"].match(message.content):
                turns.append(asked)
            turns.append(message.content)
            asked = ""
    return _INVISIBLE.sub("", "\n".join(turns))


def triage_text(text: str, rules: RedFlags | None = None, classifier: Classifier | None = None) -> Triage:
    """Return which rules fire on a text, and what the classifier adds."""
    found, named = read_text(text, rules or load_red_flags())
    verdict, margin = None, 0.0
    if classifier is not None:
        found, verdict = apply_classifier(found, text, named, classifier)
        margin = classifier.score(text, named) - classifier.threshold
    found.sort(key=lambda one: LEVELS.index(one.level))  # stable: in the order of the files
    return Triage(text, tuple(found), verdict, margin)


def read_text(text: str, rules: RedFlags) -> tuple[list[Finding], list[Sign]]:
    """Return the rules that fire on a text, in the order of the files, and the signs that it names."""
    plain = normalize(text)
    mentions = rules.lexicon.find(plain, find_measures(plain))
    context = Context(plain, mentions)
    found = [Finding(rule, spans, rule.level) for rule, spans in rules.match(plain, mentions, context)]
    return found, signs(mentions, context, _concepts(rules))


@lru_cache(maxsize=8)
def _concepts(rules: RedFlags) -> frozenset[str]:
    """The concepts that rules name; those that only other concepts are made of are left out."""
    return frozenset(name for rule in rules.rules for name in rule.concepts())


def apply_classifier(
    found: list[Finding], text: str, named: Sequence[Sign], classifier: Classifier
) -> tuple[list[Finding], Verdict]:
    """Return what rules and classifier say together of a text of `read_text`, and what the classifier says alone."""
    alarms = sum(one.level == "emergency" for one in found)
    verdict = classifier.verdict(text, named, max(1, alarms))
    if verdict == "emergency" and not alarms:
        return [Finding(BY_CLASSIFIER, (), "emergency"), *found], verdict
    if verdict != "harmless":
        return found, verdict
    overruled = [
        replace(one, level="urgent")
        if one.level == "emergency" and one.rule.shipped and one.rule.system not in NEVER_OVERRULED
        else one
        for one in found
    ]
    return overruled, verdict
