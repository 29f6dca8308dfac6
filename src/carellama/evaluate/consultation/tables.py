"""The figures of an evaluation: means with intervals clustered by card, paired differences, tables and JSON.

    print(figures_table({"consult": scored, "one-shot": other}, MEASURES))

The seeds of one card are alike, so that the interval of a mean counts cards and not consultations (Miller 2024,
arXiv:2411.00640). A share that is 0 or 1 on all cards has the Wilson interval of so many cards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from carellama.evaluate.consultation.score import MEASURES, Consultation, Measure, Score
from carellama.evaluate.table import aligned
from carellama.intervals import clustered, wilson
from carellama.records import JSONObject


@dataclass(frozen=True, slots=True)
class Scored:
    """A consultation and its score."""

    held: Consultation
    score: Score

    @property
    def pair(self) -> tuple[str, int]:
        """What the consultations of two doctors are paired by: card and seed."""
        return self.held.card.id, self.held.seed


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over consultations, the interval of 95% that counts cards, and how many there are of both."""

    mean: float
    low: float
    high: float
    n: int
    cards: int

    def text(self, measure: Measure, *, signed: bool = False) -> str:
        """Return it for a table: "61.2% (55.0-67.4)"."""
        scale, sign = (100, "%") if measure.share else (1, "")
        mark = "+" if signed else ""
        ends = f"{self.low * scale:{mark}.1f} to {self.high * scale:{mark}.1f}"
        if self.cards == 1 or self.low == self.high:
            ends = "one card" if self.cards == 1 else "on all cards"
        return f"{self.mean * scale:{mark}.1f}{sign} ({ends})"


def figure(scored: Sequence[Scored], measure: Measure) -> Figure | None:
    """Return a measure of consultations; None where it counts for none of them."""
    counted = [(value, one.held.card.id) for one in scored if (value := measure.of(one.score)) is not None]
    if not counted:
        return None
    found = _figure(counted, least=0.0, most=1.0 if measure.share else math.inf)
    if measure.share and found.mean in (0.0, 1.0):
        low, high = wilson(found.cards * int(found.mean), found.cards)
        return replace(found, low=low, high=high)
    return found


def difference(first: Sequence[Scored], second: Sequence[Scored], measure: Measure) -> Figure | None:
    """Return the mean of the first minus the second, pair by pair of the same card and seed."""
    others = {one.pair: measure.of(one.score) for one in second}
    counted = [
        (value - other, one.held.card.id)
        for one in first
        if (value := measure.of(one.score)) is not None and (other := others.get(one.pair)) is not None
    ]
    most = 1.0 if measure.share else math.inf
    return _figure(counted, least=-most, most=most) if counted else None


def _figure(counted: Sequence[tuple[float, str]], *, least: float, most: float) -> Figure:
    cards = [card for _, card in counted]
    mean, low, high = clustered([float(value) for value, _ in counted], cards)
    return Figure(mean, max(low, least), min(high, most), len(cards), len(set(cards)))


def groups_of(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Return the consultations by language, urgency and manner of the patient, the whole first."""
    found: dict[str, list[Scored]] = {"all": list(scored)}
    for one in scored:
        card = one.held.card
        for name in (f"language {card.language}", f"urgency {card.urgency}", f"patient {card.trait}"):
            found.setdefault(name, []).append(one)
    order = ("all", "language", "urgency", "patient")
    return dict(sorted(found.items(), key=lambda item: order.index(item[0].split()[0])))


def figures_table(by_doctor: Mapping[str, Sequence[Scored]]) -> str:
    """Return a table with a row a measure and a column a doctor."""
    rows = [["mean (95%, by card)", *by_doctor]]
    for measure in MEASURES:
        found = [figure(scored, measure) for scored in by_doctor.values()]
        rows.append([measure.name, *(one.text(measure) if one else "-" for one in found)])
    return aligned(rows)


def differences_table(by_doctor: Mapping[str, Sequence[Scored]], pairs: Sequence[tuple[str, str]]) -> str:
    """Return a table of paired differences, a column a pair of doctors."""
    rows = [["difference (95%, by card)", *(f"{first} - {second}" for first, second in pairs)]]
    for measure in MEASURES:
        found = [difference(by_doctor[first], by_doctor[second], measure) for first, second in pairs]
        rows.append([measure.name, *(one.text(measure, signed=True) if one else "-" for one in found)])
    return aligned(rows)


def groups_table(by_doctor: Mapping[str, Sequence[Scored]], measure: Measure) -> str:
    """Return one measure by group, a column a doctor."""
    grouped = {doctor: groups_of(scored) for doctor, scored in by_doctor.items()}
    names = list(dict.fromkeys(name for found in grouped.values() for name in found))
    rows = [[measure.name, "cards", *by_doctor]]
    for name in names:
        found = [figure(groups[name], measure) for groups in grouped.values()]
        cards = next((str(one.cards) for one in found if one), "0")
        rows.append([name, cards, *(one.text(measure) if one else "-" for one in found)])
    return aligned(rows)


def as_json(by_doctor: Mapping[str, Sequence[Scored]], pairs: Sequence[tuple[str, str]]) -> JSONObject:
    """Return all figures by doctor, group and measure, the differences, and the scores of each consultation."""
    return {
        "figures": {
            doctor: {group: _measures(partial(figure, part)) for group, part in groups_of(scored).items()}
            for doctor, scored in by_doctor.items()
        },
        "differences": {
            f"{first} - {second}": _measures(partial(difference, by_doctor[first], by_doctor[second]))
            for first, second in pairs
        },
        "scores": [
            {"card": one.held.card.id, "seed": one.held.seed, "doctor": doctor, **one.score.as_json()}
            for doctor, scored in by_doctor.items()
            for one in scored
        ],
    }


def _measures(of: Callable[[Measure], Figure | None]) -> dict[str, object]:
    found = {measure.name: of(measure) for measure in MEASURES}
    return {
        name: {"mean": one.mean, "low": one.low, "high": one.high, "n": one.n, "cards": one.cards}
        for name, one in found.items()
        if one is not None
    }
