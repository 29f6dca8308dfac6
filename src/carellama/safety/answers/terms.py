"""What an answer names: diseases, medicines, amounts; and which of them the person named first.

    found = find_terms("take ibuprofen 400 mg twice a day.")
    found["medicine"], found["dose"], found["frequency"]        # [Mention(...)], ...

Names are those of `drugs.yaml` and of the conditions of `contraindications.yaml`, and words that are built like such
names (-itis, -pril, 炎, 沙坦). The text is one of `normalize`. A disease or an amount that the person stated is no
claim of the model (`PersonStatements`).
"""

from __future__ import annotations

import re
from functools import cache

from ahocorasick_rs import AhoCorasick

from carellama.package_data import Patterns
from carellama.rules import Mention, Mentions, normalize
from carellama.safety.medication.rules import CONDITION, DRUG, MedicationRules, load_medication

PATTERNS = Patterns("safety/answers/terms.yaml")
# A pattern is tried where the text has a key of one of its words: most sentences have none, and keys are found at once.
_WORDS = {
    "dose": ("units",),
    "frequency": ("frequencies", "frequencies_zh"),
    "disease": ("diseases", "disease_ends", "disease_ends_zh"),
    "medicine": ("medicine_ends", "medicines_zh"),
}
_GROUP = re.compile(r"(?:\([^()]*\)|\[[^\]]*\]|\\[dS])(?:[?*+]|\{[^}]*\})?")
_SURE = re.compile(r"[^|?*+]+(?![?*+])")
_NOT_MEDICINE = frozenset(
    f"{DRUG}{id}"
    for id in ("alcohol", "grapefruit", "dairy", "aged_cheese", "caffeine", "vitamin_k_food", "honey", "fava_bean")
)
_PARTS = re.compile(r"[^。！？!?；;,，\n]*[。！？!?；;,，\n]?")


def find_terms(plain: str, rules: MedicationRules | None = None) -> Mentions:
    """Return the mentions of `disease`, `medicine`, `dose` and `frequency` in a text of `normalize`, each in order.

    `rules`: those whose names count; None: of CareLlama's own.
    """
    found = {name: _matches(PATTERNS[name], plain) for name in _may_match(plain)}
    if (named := (rules or load_medication()).find_names(plain)) is not None:
        for name in named:
            if name.startswith(CONDITION):
                found.setdefault("disease", []).extend(named.get(name, ()))
            elif name.startswith(DRUG) and name not in _NOT_MEDICINE:
                found.setdefault("medicine", []).extend(named.get(name, ()))
    return {name: sorted(ones, key=lambda one: (one.start, -one.end)) for name, ones in found.items() if ones}


def _may_match(plain: str) -> set[str]:
    """The patterns of which a text has a key."""
    keys, pairs = _keys()
    return {name for index, _, _ in keys.find_matches_as_indexes(plain, overlapping=True) for name in pairs[index]}


@cache
def _keys() -> tuple[AhoCorasick, list[tuple[str, ...]]]:
    """The search for keys, and the patterns that each is one of."""
    names: dict[str, tuple[str, ...]] = {}
    for name, lists in _WORDS.items():
        for word in (word for one in lists for word in PATTERNS.words(one)):
            key = _key(word)
            names[key] = (*names.get(key, ()), name)
    return AhoCorasick(list(names)), list(names.values())


def _key(word: str) -> str:
    """The longest part of an alternative of a pattern that no text lacks which it matches."""
    sure = _GROUP.sub("|", _GROUP.sub("|", word))
    parts: list[str] = _SURE.findall(sure)
    return max(parts, key=len)


def _matches(pattern: re.Pattern[str], plain: str) -> list[Mention]:
    return [Mention(one.start(), one.end(), (one.span(),)) for one in pattern.finditer(plain)]


class PersonStatements:
    """What the person stated, and did not only ask about."""

    def __init__(self, said: str) -> None:
        plain = normalize(said)
        self._all = _compact(plain)
        self._stated = "".join(_compact(one) for one in _PARTS.findall(plain) if not PATTERNS["asks"].search(one))

    def __contains__(self, term: str) -> bool:
        """Return whether the person stated a term, a text of `normalize`; "my gout" states it in a question too."""
        term = _compact(term)
        if any(own + term in self._all for own in ("my", "我的")):
            return True
        return term in self._stated


def _compact(text: str) -> str:
    return text.replace(" ", "").replace("-", "")
