"""A second reader beside the rules: a classifier of word sequences and signs.

    classifier = load_classifier()
    classifier.score("...", signs)       # the log-odds that a text tells of an emergency
    classifier.verdict("...", signs)     # "emergency", "harmless" or "unsure"

Features are sequences of one to three Chinese characters (also two characters with one or two others between, `胸?痛`,
and those at an end of a run, `^胸`, `痛$`), of one to three words in Latin letters, and `safety.classifier.signs`.
A text scores the sum of their weights over the square root of their number (40 at least), plus a bias (logistic
regression; while it learns, features that tell the labels apart count for more: Wang and Manning 2012), plus what a
small layer of hidden units says of them together (`safety.classifier.hidden`), where the table has one. A
long text is read in windows, of which the highest counts, so that a preamble changes nothing. Weights are a readable
table, `classifier.tsv.gz`, one feature a line; `carellama safety train` makes it from labelled texts. It knows that a
sign is denied, and no other negation but by the sequences it has seen; it gives no reason, and names no rule. Where it
is sure that a text is harmless, an emergency that a shipped rule found is shown as one for today (`safety.triage`).
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carellama.errors import UserError, read_failure
from carellama.rules import normalize
from carellama.safety.classifier.feature_index import (
    APART,
    HAN_LENGTHS,
    HAN_RUN,
    RUN_BEGIN,
    RUN_END,
    STEM,
    WORD_LENGTHS,
    FeatureIndex,
    read_words,
)
from carellama.safety.classifier.hidden import Hidden, fit_hidden, read_hidden
from carellama.safety.classifier.signs import Sign

WINDOW_HAN, WINDOW_WORDS = 160, 120  # of a window; the next begins in its middle, where no sequence is read across
WEIGHTS = "triage/classifier.tsv.gz"
BIAS, THRESHOLD, FLOOR = "#bias", "#threshold", "#floor"  # names of lines that are no feature
# Known features of a window. With fewer a text counts as if it had so many: "hi" tells of no emergency because one of
# the texts learned from began with it.
ENOUGH = 40
FEW = 31  # known word sequences of a window, below which only a high score says anything: "headache" has none
FEW_MARGIN = 2.1  # log-odds above the threshold from which it does
FEATURE_BITS = 32  # of the number of a feature
HIDDEN_SHARE = 2 / 3  # of what was learned with hidden units in the log-odds; the rest was learned without
LEAST_SCALE = 0.1  # of a feature while weights are learned
Verdict = Literal["emergency", "harmless", "unsure"]


def features(text: str) -> set[str]:
    """Return the word sequences of a text of `normalize`."""
    found: set[str] = set()
    for run in HAN_RUN.findall(text):
        for length in HAN_LENGTHS:
            found.update(run[at : at + length] for at in range(len(run) - length + 1))
            if len(run) >= length:
                found.update((RUN_BEGIN + run[:length], run[-length:] + RUN_END))
        for apart in APART:
            found.update(f"{one}{'?' * (apart - 1)}{other}" for one, other in zip(run, run[apart:], strict=False))
    words = read_words(text)
    for length in WORD_LENGTHS:
        found.update(" ".join(words[at : at + length]) for at in range(len(words) - length + 1))
    found.update(f"{word[:STEM]}*" for word in words if len(word) > STEM)
    return found


def blocks(text: str) -> list[str]:
    """Return the parts of a text of `normalize`, of which two neighbours are a window; a short text is one part."""
    size = WINDOW_HAN if HAN_RUN.search(text) else WINDOW_WORDS * 6
    if len(text) <= size * 3 // 2:
        return [text]
    return [text[begin : begin + size // 2] for begin in range(0, len(text), size // 2)]


@dataclass(frozen=True)
class Classifier:
    """Weights of features; from which score a text is an emergency, and below which it is harmless."""

    weights: Mapping[str, float]
    bias: float
    threshold: float
    floor: float
    hidden: Hidden | None = None

    def score(self, text: str, signs: Sequence[Sign] = ()) -> float:
        """Return the highest log-odds of a window of the text."""
        return self._score(text, signs)[0]

    def verdict(self, text: str, signs: Sequence[Sign] = (), rules: int = 1) -> Verdict:
        """Return what the text is; of a few words, or of unknown ones, it is never harmless.

        `rules`: how many say that it is an emergency. Each lowers the floor by as much as the first.
        """
        score, known = self._score(text, signs)
        if known < FEW:
            return "emergency" if score >= self.threshold + FEW_MARGIN else "unsure"
        if score >= self.threshold:
            return "emergency"
        return "harmless" if score < self.threshold - rules * (self.threshold - self.floor) else "unsure"

    @cached_property
    def _index(self) -> FeatureIndex:
        return FeatureIndex([*self.weights])

    @cached_property
    def _values(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The weight of each feature, and whether it is a word sequence."""
        return np.array([*self.weights.values()]), np.array([name[0] != "{" for name in self.weights], dtype=bool)

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        """The row of each feature in the hidden layer, (F, U)."""
        assert self.hidden
        return self.hidden.rows(self.weights)

    def _score(self, text: str, signs: Sequence[Sign]) -> tuple[float, int]:
        """The highest log-odds of a window, and how many of its word sequences are known."""
        parts = blocks(normalize(text))
        width = len(parts[0]) or 1  # of all parts but the last
        numbers, owner = self._index.of(parts)
        named = [(number, place // width) for place, name in signs if (number := self._index.number(name)) is not None]
        if named:
            pairs = np.array(named, dtype=np.int64)
            numbers, owner = np.concatenate((numbers, pairs[:, 0])), np.concatenate((owner, pairs[:, 1]))
        count = max(1, len(parts) - 1)
        windows = np.concatenate((np.maximum(owner - 1, 0), np.minimum(owner, count - 1)))  # a part is in two
        keys = np.sort((windows << FEATURE_BITS) | np.concatenate((numbers, numbers)))
        keys = keys[np.diff(keys, prepend=-1) > 0]  # each feature once; `np.unique` takes ten times as long
        windows, numbers = keys >> FEATURE_BITS, keys & ((1 << FEATURE_BITS) - 1)
        weights, is_sequence = self._values
        sums = np.bincount(windows, weights[numbers], count)
        known = np.bincount(windows[is_sequence[numbers]], minlength=count)
        lengths = np.sqrt(np.maximum(np.bincount(windows, minlength=count), ENOUGH))
        scores = self.bias + sums / lengths
        if self.hidden:
            scores += self.hidden.log_odds(self._rows[numbers], np.bincount(windows, minlength=count), lengths)
        highest = scores.max()
        return float(highest), int(known[scores == highest].max())

    def save(self, path: Path) -> None:
        """Write the table, sorted by feature."""
        limits = {BIAS: self.bias, THRESHOLD: self.threshold, FLOOR: self.floor}
        lines = [f"{name}\t{value:.4f}" for name, value in limits.items()]
        rows: Mapping[str, str] = {}
        if self.hidden:
            lines += [f"{name}\t{value:.5f}" for name, value in self.hidden.lines().items()]
            rows = self.hidden.letters
        for name, weight in sorted(self.weights.items()):
            lines.append(f"{name}\t{weight:.3f}\t{rows[name]}" if name in rows else f"{name}\t{weight:.3f}")
        write_table(path, lines)


def read_classifier(data: bytes, name: str) -> Classifier:
    """Read a table of weights. Raises `UserError` with the line that is none."""
    weights: dict[str, float] = {}
    rows: dict[str, str] = {}
    for number, line in enumerate(table_lines(data, name, "carellama safety train"), 1):
        sequence, _, rest = line.partition("\t")
        weight, _, row = rest.partition("\t")
        try:
            weights[sequence] = float(weight)
        except ValueError:
            raise UserError(f"{name}, line {number}: a feature, a tab and a number are expected") from None
        if not math.isfinite(weights[sequence]):  # with NaN nothing would be an emergency
            raise UserError(f"{name}, line {number}: {weight} is no finite number; carellama safety train writes those")
        if row:
            rows[sequence] = row
    if not weights.keys() >= {BIAS, THRESHOLD, FLOOR}:
        raise UserError(f"{name} has no lines {BIAS}, {THRESHOLD} and {FLOOR}; carellama safety train writes them")
    limits = weights.pop(BIAS), weights.pop(THRESHOLD), weights.pop(FLOOR)
    hidden = read_hidden(rows, weights, name)
    return Classifier(weights, *limits, hidden)


def table_lines(data: bytes, name: str, maker: str) -> list[str]:
    """Return the lines of a table of weights. Raises `UserError`, with the command that writes one."""
    try:
        return gzip.decompress(data).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        raise UserError(f"{name} is no gzip file of UTF-8 text; {maker} writes one") from None


def write_table(path: Path, lines: Sequence[str]) -> None:
    """Write a table of weights: the same bytes for the same lines."""
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


@cache
def load_classifier(path: str | None = None, shipped: str = WEIGHTS) -> Classifier:
    """Return the classifier of a file; None: one that CareLlama ships. Raises `UserError`."""
    if path is None:
        return read_classifier(resources.files("carellama.safety").joinpath(shipped).read_bytes(), shipped)
    try:
        return read_classifier(Path(path).read_bytes(), path)
    except OSError as error:
        raise UserError(f"the weights {path} cannot be read: {read_failure(error)}") from None


def fit(
    texts: Sequence[str],
    labels: Sequence[bool],
    signs: Sequence[Sequence[Sign]] | None = None,
    *,
    least: int,
    penalty: float,
    units: int = 0,
) -> Classifier:
    """Return the classifier of labelled texts, with both limits at even odds.

    `signs`: of each text. `least`: texts that a feature must be in. `penalty`: of the squared weights, over the number
    of texts. `units`: hidden units; with any, the log-odds are a weighted mean of those of a classifier without
    them and of one with them.
    """
    import torch

    named = [{name for _, name in found} for found in signs] if signs else [set[str]()] * len(texts)
    sets = [features(normalize(text)) | names for text, names in zip(texts, named, strict=True)]
    counts = Counter(one for found in sets for one in found)
    names = sorted(one for one, count in counts.items() if count >= least)
    if not names:
        raise UserError(f"no feature is in {least} texts; give more texts, or a smaller --min_count")
    index = FeatureIndex(names)
    rows, columns, values = [], [], []
    places: list[list[int]] = []
    for row, (text, signs_of) in enumerate(zip(texts, named, strict=True)):
        known = np.unique(index.of([normalize(text)])[0]).tolist()
        known += [number for name in signs_of if (number := index.number(name)) is not None]
        places.append(sorted(known))
        rows += [row] * len(known)
        columns += known
        values += [1 / math.sqrt(max(len(known), ENOUGH))] * len(known)
    scales = _scales(sets, labels, names)
    values = [value * scales[column] for value, column in zip(values, columns, strict=True)]
    cells = torch.tensor([rows, columns])
    shape, double = (len(sets), len(names)), torch.float64  # whose rounding the number of threads does not show
    matrix = torch.sparse_coo_tensor(cells, values, shape, dtype=double, check_invariants=True).coalesce()
    target = torch.tensor([float(label) for label in labels], dtype=double)
    weights = torch.zeros(len(names), dtype=double, requires_grad=True)
    bias = torch.zeros(1, dtype=double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = torch.sparse.mm(matrix, weights[:, None])[:, 0] + bias
        value = torch.nn.functional.binary_cross_entropy_with_logits(scores, target)
        value = value + penalty * weights.square().sum() / len(target)
        value.backward()
        return value

    optimizer.step(loss)
    learned = [weight * scale for weight, scale in zip(weights.tolist(), scales, strict=True)]
    if not units:
        return Classifier(dict(zip(names, learned, strict=True)), bias.item(), 0.0, 0.0)
    more, shift, hidden = fit_hidden(places, labels, names, scales, least_length=ENOUGH, units=units)
    both = {name: one + HIDDEN_SHARE * (other - one) for name, one, other in zip(names, learned, more, strict=True)}
    own = bias.item()
    return Classifier(both, own + HIDDEN_SHARE * (shift - own), 0.0, 0.0, hidden.times(HIDDEN_SHARE))


def _scales(sets: Sequence[set[str]], labels: Sequence[bool], names: Sequence[str]) -> list[float]:
    """What each feature is multiplied by while weights are learned: the more, the more it tells the labels apart.

    The absolute log-count ratio (Wang and Manning 2012, equation 2), here its square root and never 0.
    """
    counts = [Counter(one for found, label in zip(sets, labels, strict=True) if label == wanted for one in found)
              for wanted in (True, False)]  # fmt: skip
    totals = [sum(count[name] + 1 for name in names) for count in counts]
    ratios = (math.log((counts[0][name] + 1) / totals[0] * totals[1] / (counts[1][name] + 1)) for name in names)
    return [math.sqrt(abs(ratio)) + LEAST_SCALE for ratio in ratios]
