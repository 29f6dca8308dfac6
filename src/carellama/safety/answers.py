"""What an answer says about how urgent a matter is: whom it sends where, and whether it makes light of an emergency.

    urgency_of("Call 911 now.")                                  # "emergency"
    urgency_of("If it gets worse, go to the emergency room.")    # None: only supposed
    makes_light_of("You do not need to see a doctor.")           # (0, 33)

By words (`answers.yaml`), so that a model's free text can be measured and a stream be watched without another model.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

from carellama.rules import SENTENCE_END, Lexicon, Mention, normalize
from carellama.safety.context import Context
from carellama.safety.rule_files import CONTEXT
from carellama.safety.triage_rules import Level

_REFERRALS: tuple[tuple[str, Level], ...] = (
    ("refer_now", "emergency"),
    ("refer_today", "urgent"),
    ("refer_soon", "soon"),
)


@cache
def _lexicon() -> Lexicon:
    safety = resources.files("carellama.safety")
    concepts: dict[str, list[str]] = {}
    for name in ("answers.yaml", CONTEXT):
        read = yaml.safe_load(safety.joinpath(name).read_text(encoding="utf-8"))
        concepts |= {concept: [term for group in groups for term in group] for concept, groups in read.items()}
    return Lexicon(concepts)


def urgency_of(answer: str) -> Level | None:
    """Return how urgently an answer sends the person to somebody; None: it does not."""
    text = normalize(answer)
    mentions = _lexicon().find(text)
    context = Context(text, mentions)
    for concept, level in _REFERRALS:
        for mention in mentions.get(concept, ()):
            begin, end = _sentence(text, mention)
            supposed = _within(mentions.get("condition", []), begin, end)
            if "denied" not in context.flags(mention) and not supposed:
                return level
    return None


def makes_light_of(answer: str) -> tuple[int, int] | None:
    """Return where an answer says that nobody need be seen, or None; "don't worry, call 911" does not."""
    text = normalize(answer)
    mentions = _lexicon().find(text)
    context = Context(text, mentions)
    for mention in mentions.get("reassure", ()):
        begin, end = _sentence(text, mention)
        if _within(mentions.get("condition", []), begin, end):
            continue
        if not any(
            begin <= sent.start < end and "denied" not in context.flags(sent) for sent in mentions.get("refer_now", ())
        ):
            return mention.start, mention.end
    return None


def _sentence(text: str, mention: Mention) -> tuple[int, int]:
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    before = [end for end in ends if end <= mention.start]
    after = [end for end in ends if end > mention.start]
    return (before[-1] if before else 0), (after[0] if after else len(text))


def _within(mentions: list[Mention], begin: int, end: int) -> bool:
    return any(begin <= mention.start and mention.end <= end for mention in mentions)
