"""The metrics are the seed's to the last digit, and every number comes with its count and interval."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.errors import UserError, install
from carellama.evaluate import metrics
from carellama.evaluate.metrics import NAMES, Metric, Scorer, common_subsequence, flat, score, with_intervals
from carellama.evaluate.table import compare, metrics_of

LABELS = [
    "多喝水，注意休息。如果高烧不退，请及时就医！",
    "See a doctor if the fever lasts for more than three days.",
    "Rest.\nDrink water...... Then call.",
    "阿莫西林500mg，每日3次？\n\n不要自行停药。",
    "ok",
]
PREDICTIONS = [
    "注意休息，多喝水。如果高烧不退，请到医院就诊！",
    "See a doctor if fever lasts three days or more.",
    "Drink water. Rest.\n\n  Call.",
    "每日三次，阿莫西林。",
    "",
]


def as_the_seed(prediction: str, label: str) -> dict[str, float]:
    """LLaMA-Efficient-Tuning, August 2023, src/llmtuner/tuner/sft/metric.py."""
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    hypothesis, reference = list(jieba.cut(prediction)), list(jieba.cut(label))
    if len(" ".join(hypothesis).split()) == 0 or len(" ".join(reference).split()) == 0:
        result = {name: {"f": 0.0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    else:
        result = Rouge().get_scores(" ".join(hypothesis), " ".join(reference))[0]
    found = {name: round(value["f"] * 100, 4) for name, value in result.items()}
    smoothing = SmoothingFunction().method3
    bleu = sentence_bleu([list(label)], list(prediction), smoothing_function=smoothing)
    return found | {"bleu-4": round(bleu * 100, 4)}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer()


def test_scores_are_the_seeds(scorer) -> None:
    expected = [as_the_seed(*pair) for pair in zip(PREDICTIONS, LABELS, strict=True)]
    scores = score(PREDICTIONS, LABELS, scorer)
    for name in NAMES:
        assert scores.metrics[name].value == float(np.mean([row[name] for row in expected]))
        assert scores.metrics[name].n == len(LABELS)
    assert scores.empty == 1
    assert max(metric.value for metric in scores.metrics.values()) > 20


@given(st.text("多喝水。！？…… \n\tab.”", max_size=30), st.text("多喝水。！？…… \n\tab.”", max_size=30))
@settings(max_examples=200)
def test_scores_are_the_seeds_for_odd_text(prediction: str, label: str) -> None:
    expected = as_the_seed(prediction, label)
    assert SCORER.score(prediction, label) == tuple(expected[name] for name in NAMES)


SCORER = Scorer()


@given(st.text("abc"), st.text("abc"))
def test_common_subsequence_is_the_textbooks(left: str, right: str) -> None:
    table = np.zeros((len(left) + 1, len(right) + 1), dtype=int)
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if a == b else max(table[i - 1, j], table[i, j - 1])
    assert common_subsequence(left, right) == table[-1, -1]


def test_the_interval_holds_the_mean_and_narrows_with_more_records() -> None:
    random = np.random.default_rng(1)
    few, many = (with_intervals(random.normal(50, 10, (n, 2)))[0] for n in (20, 2000))
    for metric in (few, many):
        assert metric.low < metric.value < metric.high  # type: ignore[operator]
    # 95% of a mean over n of a normal variable: 2 * 1.96 * sigma / sqrt(n)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 10 / 2000**0.5, rel=0.1)  # type: ignore[operator]
    assert few.high - few.low > 5 * (many.high - many.low)  # type: ignore[operator]
    assert with_intervals(np.array([[1.0], [3.0]])) == with_intervals(np.array([[1.0], [3.0]]))


def test_no_records_have_no_interval(scorer) -> None:
    assert score([], [], scorer).metrics["bleu-4"] == Metric(0.0, None, None, 0)


def test_a_missing_library_names_the_extra(monkeypatch) -> None:
    def missing(module: str, *, extra: str, why: str):
        raise UserError(f"{why} needs {module}: {install(extra)}")

    monkeypatch.setattr(metrics, "need", missing)
    with pytest.raises(UserError, match=r"'\.\[metrics\]'"):
        Scorer()


def test_jieba_says_nothing_and_keeps_its_cache_at_home(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path))
    Scorer().score("多喝水", "多喝水")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.rglob("jieba.cache"))


def test_the_table_shows_before_and_after() -> None:
    before = {"bleu-4": Metric(5.0, 4.0, 6.0, 24), "loss": Metric(2.5, None, None, 24)}
    after = {"bleu-4": Metric(15.0, 13.0, 17.5, 24), "loss": Metric(1.25, None, None, 24)}
    text = compare({"before": before, "训练后": after})
    lines = text.splitlines()
    assert "15.00 [13.00, 17.50]" in lines[2] and "+10.00" in lines[2] and lines[2].endswith("24")
    assert "loss (lower is better)" in lines[3] and "-1.2500" in lines[3]
    marked = compare({"before": before, "after": after, "again": {}}, markdown=True).splitlines()
    assert marked[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert marked[2] == "| bleu-4 | 5.00 [4.00, 6.00] | 15.00 [13.00, 17.50] | - | 24 |"


def test_metrics_survive_the_results_file(scorer) -> None:
    found = score(PREDICTIONS, LABELS, scorer).metrics
    written = json.loads(json.dumps(flat(found, "predict") | {"predict_samples": len(LABELS)}))
    assert metrics_of(written) == found
    loss = metrics_of({"eval_loss": 1.5, "eval_samples": 7, "eval_runtime": 3.0})
    assert loss == {"loss": Metric(1.5, None, None, 7)}
