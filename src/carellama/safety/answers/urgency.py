"""What an answer says about how urgent a matter is: whom it sends where, and whether it makes light of an emergency.

    urgency_of("Call 911 now.")                                  # "emergency"
    urgency_of("If it gets worse, go to the emergency room.")    # None: only supposed
    makes_light_of("You do not need to see a doctor.")           # (0, 33)

By words (`answers.yaml`), so that a model's free text can be measured and a stream be watched without another model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from carellama.rules import Lexicon, Mention, Sentences, normalize, package_concepts
from carellama.safety.rules.context import Context
from carellama.safety.rules.files import CONTEXT
from carellama.safety.triage.rules import Level

_REFERRALS: tuple[tuple[str, Level], ...] = (
    ("refer_now", "emergency"),
    ("refer_today", "urgent"),
    ("refer_soon", "soon"),
)


@cache
def _lexicon() -> Lexicon:
    return Lexicon(package_concepts("safety/answers/answers.yaml", CONTEXT))


def urgency_of(answer: str) -> Level | None:
    """Return how urgently an answer sends the person to somebody; None: it does not."""
    text = normalize(answer)
    mentions = _lexicon().find(text)
    context, sentences = Context(text, mentions), Sentences(text)
    supposed = _of_sentences(sentences, mentions.get("condition", ()))
    for concept, level in _REFERRALS:
        for mention in mentions.get(concept, ()):
            if "denied" not in context.flags(mention) and sentences.of(mention.start) not in supposed:
                return level
    return None


def makes_light_of(answer: str) -> tuple[int, int] | None:
    """Return where an answer says that nobody need be seen, or None; "don't worry, call 911" does not."""
    text = normalize(answer)
    mentions = _lexicon().find(text)
    reassuring = mentions.get("reassure", ())
    if not reassuring:
        return None
    context, sentences = Context(text, mentions), Sentences(text)
    sent = [one for one in mentions.get("refer_now", ()) if "denied" not in context.flags(one)]
    meant = _of_sentences(sentences, mentions.get("condition", ())) | {sentences.of(one.start) for one in sent}
    for mention in reassuring:
        if sentences.of(mention.start) not in meant:
            return mention.start, mention.end
    return None


def _of_sentences(sentences: Sentences, mentions: Sequence[Mention]) -> set[int]:
    """The numbers of the sentences that these mentions are in whole."""
    return {sentences.of(one.start) for one in mentions if not sentences.parted(one.start, one.end - 1)}
