"""The signs that a text names, and how each is meant: what the classifier of triage reads besides word sequences.

    signs(mentions, Context(plain, mentions), {"chest_pain", "fever"})   # [(4, "{chest_pain}"), (11, "{fever} denied")]

A sign is a concept that rules name, with all words for it: whatever its weight was learned from holds for a word that
only the concept knows.
"""

from __future__ import annotations

from collections.abc import Collection

from carellama.rules import Mentions
from carellama.safety.context import Context

Sign = tuple[int, str]  # where it stands first, its concept in braces and the flags of `safety.context`


def signs(mentions: Mentions, context: Context, concepts: Collection[str]) -> list[Sign]:
    """Return the first mention of each concept of `concepts`, and how it is meant."""
    return [
        (found[0].start, " ".join((f"{{{name}}}", *sorted(context.flags(found[0])))))
        for name, found in mentions.items()
        if found and name in concepts
    ]
