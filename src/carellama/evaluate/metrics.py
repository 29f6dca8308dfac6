"""BLEU-4 and ROUGE-1/2/L as LLaMA-Efficient-Tuning computes them, so that the numbers compare with published ones.

    score(["多喝水。"], ["多喝水，注意休息。"]).metrics["rouge-1"].value

The formulas are those of LLaMA-Efficient-Tuning (August 2023, src/llmtuner/tuner/sft/metric.py): ROUGE
f-scores of rouge-chinese over jieba's words, nltk's sentence BLEU over characters with smoothing method 3,
each times 100 and rounded to four digits, then averaged over the records. Departures (no number changes):
1. The longest common subsequence is counted with bit vectors (rouge-chinese fills a dict with a cell for
   every pair of words).
2. jieba keeps its dictionary cache in the user's cache folder, not where every user of the machine can write.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carellama.config.environment import cache_home
from carellama.errors import need

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
RESAMPLES = 1000
SEED = 0  # of the resampling: the same predictions have the same interval


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over `n` records and its 95% bootstrap interval (None where there is none, as for a loss)."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The metrics by name (`NAMES`), and how many predictions held no word (they score 0)."""

    metrics: dict[str, Metric]
    empty: int


class Scorer:
    """Scores single predictions. Making one imports the libraries, or raises `UserError` naming the extra."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # their own invalid escapes, which no user can mend
            warnings.simplefilter("ignore")
            jieba = need("jieba", extra="metrics", why="splitting Chinese words for ROUGE")
            bleu = need("nltk.translate.bleu_score", extra="metrics", why="BLEU")
            rouge = need("rouge_chinese", extra="metrics", why="ROUGE")
        jieba.setLogLevel("CRITICAL")  # it reports the loading of its dictionary on every start
        self._words = jieba.Tokenizer()
        folder = cache_home() / "jieba"
        with contextlib.suppress(OSError):  # then the dictionary is built again on every start
            folder.mkdir(parents=True, exist_ok=True)
            self._words.tmp_dir = str(folder)
        self._rouge = rouge.Rouge(metrics=["rouge-1", "rouge-2"])
        self._bleu = bleu.sentence_bleu
        self._smoothing = bleu.SmoothingFunction().method3

    def score(self, prediction: str, label: str) -> tuple[float, float, float, float]:
        """Return the scores in the order of `NAMES`, 0 to 100."""
        bleu = self._bleu([list(label)], list(prediction), smoothing_function=self._smoothing)
        return (round(bleu * 100, 4), *self._rouge_scores(prediction, label))

    def _rouge_scores(self, prediction: str, label: str) -> tuple[float, float, float]:
        hypothesis, reference = " ".join(self._words.cut(prediction)), " ".join(self._words.cut(label))
        if not hypothesis.split() or not reference.split():
            return 0.0, 0.0, 0.0
        found = self._rouge.get_scores(hypothesis, reference)[0]
        longest = rouge_l(self._sentence_words(hypothesis), self._sentence_words(reference))
        return (
            round(found["rouge-1"]["f"] * 100, 4),
            round(found["rouge-2"]["f"] * 100, 4),
            round(longest * 100, 4),
        )

    def _sentence_words(self, text: str) -> list[str]:
        """The words as rouge-chinese joins them again from its sentences."""
        sentences: list[str] = self._rouge.cut_sent(text)
        return [word for part in sentences if part for word in " ".join(part.split()).split(" ")]


def rouge_l(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    """Return the ROUGE-L f-score (Lin 2004, section 3) with rouge-chinese's 1e-8 in the denominator."""
    common = common_subsequence(hypothesis, reference)
    recall, precision = common / len(reference), common / len(hypothesis)
    return float(2.0 * ((precision * recall) / (precision + recall + 1e-8)))


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    By bit vectors: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for at, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(left)) - 1
    row = full  # a zero bit: the subsequence grows at this place
    for word in right:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(left) - row.bit_count()


def score(predictions: Sequence[str], labels: Sequence[str], scorer: Scorer | None = None) -> Scores:
    """Score predictions against their labels, in the same order."""
    assert len(predictions) == len(labels), f"{len(predictions)} predictions for {len(labels)} labels"
    scorer = scorer or Scorer()
    rows = [scorer.score(*pair) for pair in zip(predictions, labels, strict=True)]
    values = np.array(rows, dtype=np.float64).reshape(-1, len(NAMES))  # (records, metrics)
    empty = sum(not prediction.strip() for prediction in predictions)
    return Scores(dict(zip(NAMES, with_intervals(values), strict=True)), empty)


def with_intervals(values: npt.NDArray[np.float64]) -> list[Metric]:
    """Return the mean of each column of (records, metrics) with its 95% percentile bootstrap (Efron 1979)."""
    n, metrics = values.shape
    if n == 0:
        return [Metric(0.0, None, None, 0)] * metrics
    random = np.random.default_rng(SEED)
    means = np.stack([values[random.integers(n, size=n)].mean(0) for _ in range(RESAMPLES)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [
        Metric(float(np.mean(values[:, at])), round(float(low[at]), 4), round(float(high[at]), 4), n)
        for at in range(metrics)
    ]


def flat(metrics: dict[str, Metric], prefix: str) -> dict[str, object]:
    """Return the metrics as a results file has them: `predict_bleu-4`, `predict_bleu-4_low`, `..._high`."""
    found: dict[str, object] = {}
    for name, metric in metrics.items():
        found[f"{prefix}_{name}"] = metric.value
        found |= {f"{prefix}_{name}_low": metric.low, f"{prefix}_{name}_high": metric.high}
    return found
