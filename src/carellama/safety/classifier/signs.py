"""The signs that a text names, and how each is meant: what the classifier of triage reads besides word sequences.

    signs(mentions, Context(plain, mentions), {"chest_pain", "fever"})   # [(4, "{chest_pain}"), (11, "{fever} denied")]

A sign is a concept that rules name, with all words for it: whatever its weight was learned from holds for a word that
only the concept knows.
"""

from __future__ import annotations

from collections.abc import Collection

from carellama.rules import FoundMentions
from carellama.safety.rules.context import Context

Sign = tuple[int, str]  # where it stands first, its concept in braces and the flags of `safety.rules.context`


def signs(mentions: FoundMentions, context: Context, concepts: Collection[str]) -> list[Sign]:
    """Return the first mention of each concept of `concepts`, and how it is meant."""
    found: list[Sign] = []
    for name, number in mentions.firsts():
        if name in concepts:
            start, plain = mentions.starts[number], f"{{{name}}}"
            if not context.is_plain(start, mentions.ends[number]):
                plain = " ".join((plain, *sorted(context.flags(mentions.mention(number)))))
            found.append((start, plain))
    return found
