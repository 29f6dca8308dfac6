"""Which signs of an emergency a conversation tells of, and what has to be done: by rules, before a model speaks.

    found = triage([Message("user", "胸口像压了块石头，一身冷汗")])
    found.level, found.findings[0].rule.id          # "emergency", "heart-attack"

It looks at all that the person said, not only at the last message, and at a question of the assistant that the person
affirmed. It makes no diagnosis: the rules (`safety.triage_rules`) name signs, an action and a source. With a
classifier (`safety.classifier`) a text is called an emergency as well where no rule knows a word of it; such a finding
has the rule `classifier`, which gives no reason. Where the classifier is sure that a text is harmless, an emergency of
a rule that CareLlama ships is shown as urgent instead: not in short texts, not where several rules found it, not of
`NEVER_OVERRULED`, and not of the rules of a hospital. How much is missed, `carellama safety eval` measures.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from carellama.records import Message
from carellama.rules import PLACE, Mention, Mentions, normalize, words_between
from carellama.safety.classifier import Classifier, Verdict
from carellama.safety.context import Context, Flag
from carellama.safety.measures import find_measures
from carellama.safety.triage_rules import EVERYWHERE, LEVELS, Entry, Level, RedFlag, RuleSet, load_red_flags

_YES = re.compile(
    # "I do" and its like end there, or go on with "it": "I don't" and "I have a cold" affirm nothing
    r"\s*(?:(?:yes|yeah|yep|yup|ye|correct|definitely|a bit|a little)(?![a-z'’])|right(?=\s*(?:$|[,.;!]))|"
    r"(?:i do|i have|he does|she does|he has|she has|it does|it is)"
    r"(?=\s*(?:$|[,.;!])|(?: had)? (?:it|that|those|both|all)\b)|"
    r"(?:是(?!不)|有(?!没)|对(?![不面于方])|嗯|会(?!不))(?![的，,\s]*没有?[啊的呢]?\s*(?:$|[。，,！!]))|"
    r"在(?=\s*(?:$|[的疼痛。，,！!])))",
    re.IGNORECASE,
)
_PAST: frozenset[Flag] = frozenset({"past"})
_ASKED = re.compile(r"[^。！？!?.\n]*[?？]")
NEVER_OVERRULED = ("mind", "abuse")  # systems whose rules stand whatever the classifier says
AGREED = 3  # rules that call a text an emergency, against which the classifier does not stand
BY_CLASSIFIER = RedFlag(
    id="classifier",
    level="emergency",
    system="",
    find=(),
    who=(),
    unless=(),
    within=0,
    even_if=frozenset(),
    do={
        "en": "Call an ambulance or go to an emergency department now; if you are not sure, call and ask.",
        "zh": "请立即呼叫救护车或去急诊；拿不准时，先打电话询问。",
    },
    source="weights learned from labelled texts, see safety.classifier",
    fires=(),
    spares=(),
    place="classifier",
    needs=(),
    shipped=True,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired, where (offsets into `Triage.text`), and how urgent it is in the end."""

    rule: RedFlag
    spans: tuple[tuple[int, int], ...]
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

    @property
    def level(self) -> Level | None:
        """The most urgent level."""
        return self.findings[0].level if self.findings else None


def triage(messages: Sequence[Message], rules: RuleSet | None = None, classifier: Classifier | None = None) -> Triage:
    """Return which rules fire on a conversation, and what the classifier adds. Takes time linear in its length."""
    return triage_text(patient_text(messages), rules, classifier)


def patient_text(messages: Sequence[Message]) -> str:
    """Return what the person said, turn by turn, with the questions that they affirmed."""
    turns: list[str] = []
    asked = ""
    for message in messages:
        if message.role == "assistant":
            questions = _ASKED.findall(message.content)
            asked = questions[-1].strip() if questions else ""
        elif message.role == "user":
            if asked and _YES.match(message.content):
                turns.append(asked)
            turns.append(message.content)
            asked = ""
    return "\n".join(turns)


def triage_text(text: str, rules: RuleSet | None = None, classifier: Classifier | None = None) -> Triage:
    """Return which rules fire on a text, and what the classifier adds."""
    rules = rules or load_red_flags()
    plain = normalize(text)
    mentions = rules.lexicon.find(plain, find_measures(plain))
    scan = _Scan(plain, mentions, Context(plain, mentions))
    found = [Finding(rule, spans, rule.level) for rule in rules.candidates(mentions) if (spans := scan.match(rule))]
    if classifier is not None:
        found = _weighed(found, classifier.verdict(text))
    found.sort(key=lambda one: LEVELS.index(one.level))  # stable: in the order of the files
    return Triage(text, tuple(found))


def _weighed(found: list[Finding], verdict: Verdict) -> list[Finding]:
    """What rules and classifier say together."""
    if verdict == "emergency" and not any(one.level == "emergency" for one in found):
        return [Finding(BY_CLASSIFIER, (), "emergency"), *found]
    if verdict != "harmless" or sum(one.level == "emergency" for one in found) >= AGREED:
        return found
    return [
        replace(one, level="urgent")
        if one.level == "emergency" and one.rule.shipped and one.rule.system not in NEVER_OVERRULED
        else one
        for one in found
    ]


class _Scan:
    """One text and its mentions, against which rules are held."""

    def __init__(self, text: str, mentions: Mentions, context: Context) -> None:
        self._text, self._mentions, self._context = text, mentions, context
        self._flags: dict[Mention, frozenset[Flag]] = {}
        self._of: dict[tuple[Entry, frozenset[Flag]], list[Mention]] = {}  # mentions of an entry that are meant

    def match(self, rule: RedFlag) -> tuple[tuple[int, int], ...] | None:
        """Return the spans by which a rule fires, or None."""
        found = self._mentions.keys()
        if any(names.isdisjoint(found) for names in rule.needs):
            return None
        slots = []
        for entry in rule.find:
            slots.append(self._meant(entry, rule.even_if))
            if not slots[-1]:
                return None
        if not all(self._meant(entry, rule.even_if | {"past"}) for entry in rule.who):
            return None
        for first in slots[0]:
            chosen = self._near(first, slots[1:], rule.within)
            if chosen is not None and not self._excluded(rule, first):
                return tuple(span for mention in chosen for span in mention.spans)
        return None

    def _meant(self, entry: Entry, ignored: frozenset[Flag]) -> list[Mention]:
        """The mentions of an entry that are meant, in order."""
        key = (entry, ignored)
        if key not in self._of:
            meant = [
                mention
                for condition in entry
                for mention in self._mentions.get(condition.concept, ())
                if condition.holds(mention.value) and not self._flags_of(mention) - ignored
            ]
            self._of[key] = sorted(meant, key=PLACE)
        return self._of[key]

    def _flags_of(self, mention: Mention) -> frozenset[Flag]:
        flags = self._flags.get(mention)
        if flags is None:
            flags = self._flags[mention] = self._context.flags(mention)
        return flags

    def _near(self, first: Mention, others: Sequence[list[Mention]], within: int) -> list[Mention] | None:
        """The first mention with the nearest of each other slot, if all are near enough."""
        chosen = [first]
        for slot in others:
            at = bisect_left(slot, first.start, key=lambda one: one.start)
            near = min(slot[max(0, at - 1) : at + 1], key=lambda one: self._distance(first, one))
            if within != EVERYWHERE and self._distance(first, near) > within:
                return None
            chosen.append(near)
        return chosen

    def _distance(self, one: Mention, other: Mention) -> float:
        begin, end = sorted((one, other), key=lambda mention: mention.start)
        return words_between(self._text, begin.end, end.start) if end.start > begin.end else 0.0

    def _excluded(self, rule: RedFlag, first: Mention) -> bool:
        unless = self._meant(rule.unless, _PAST) if rule.unless else ()
        return any(self._distance(first, mention) <= rule.within for mention in unless)
