"""The hidden layer of the classifier: what features mean together, its table, and features found all at once."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.errors import UserError
from carellama.rules import normalize
from carellama.safety.classifier.classifier import Classifier, features, fit, read_classifier
from carellama.safety.classifier.feature_index import FeatureIndex
from carellama.safety.classifier.hidden import LETTERS, ZERO, Hidden, fit_hidden

LAYER = Hidden({"胸口": "gA", "chest pain": "/g"}, step=0.5, bias=(0.25, -1.0), out=(2.0, -0.5))
PIECES = [
    "胸口痛",
    "一身冷汗",
    "孕32周",
    "chest pain",
    "chest",
    "38.5",
    "don't",
    " ",
    ",",
    "。",
    "\n",
    "?",
    "^",
    "$",
    "*",
]


def test_units_learn_what_no_weights_of_features_can_say() -> None:
    """Either word alone is an emergency, both or none are not."""
    found = [[0, 2], [1, 2], [0, 1, 2], [2]] * 700
    labels = [True, True, False, False] * 700
    weights, bias, hidden = fit_hidden(found, labels, "abc", [1.0] * 3, least_length=1, units=16)
    scores = []
    for known in found[:4]:
        length = np.sqrt([len(known)])
        rows = hidden.rows(["abc"[place] for place in known])
        more = hidden.log_odds(rows, np.array([len(known)]), length)
        scores.append(bias + sum(weights[place] for place in known) / length[0] + more[0])
    assert min(scores[:2]) > max(scores[2:])


def test_the_layer_adds_the_rectified_sum_of_the_rows() -> None:
    rows = LAYER.rows(["胸口", "unknown", "chest pain"])
    assert rows.tolist() == [[0.0, -512.0], [0.0, 0.0], [480.5, 0.0]]
    added = LAYER.log_odds(rows[[0, 2]], np.array([0, 2, 0]), np.array([2.0, 2.0, 2.0]))
    assert added.tolist() == [0.5, 2 * (480.5 / 2 + 0.25), 0.5]  # windows without a feature have the bias


def test_what_is_learned_is_the_same_each_time_and_read_back_as_written(tmp_path: Path) -> None:
    texts = ["胸口痛得厉害", "crushing chest pain", "感冒流鼻涕", "a mild cold"] * 3
    labels = [True, True, False, False] * 3
    made, again = (fit(texts, labels, least=1, penalty=0.01, units=3) for _ in range(2))
    assert made == again
    assert made.hidden and len(made.hidden.bias) == 3
    made.save(tmp_path / "w.tsv.gz")
    read = read_classifier((tmp_path / "w.tsv.gz").read_bytes(), "w")
    assert read.hidden == made.hidden
    assert read.score(texts[0]) == pytest.approx(made.score(texts[0]), abs=0.01)
    assert made.score(texts[0]) > 0 > made.score(texts[2])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["a\t1\tgg", "#unit_step\t0.1"], "no line #unit_bias 0"),
        (["a\t1\tg", "b\t1\tgg", "#unit_step\t1", "#unit_bias 0\t1", "#unit_out 0\t1"], "the row of b"),
        (["a\t1\t!", "#unit_step\t1", "#unit_bias 0\t1", "#unit_out 0\t1"], "letters or digits"),
    ],
)
def test_a_faulty_layer_is_refused(lines: list[str], says: str) -> None:
    table = "\n".join(["#bias\t0", "#threshold\t0", "#floor\t0", *lines])
    with pytest.raises(UserError, match=says):
        read_classifier(gzip.compress(table.encode(), mtime=0), "w.tsv.gz")


def test_a_letter_is_a_number_from_the_least_to_the_largest() -> None:
    layer = Hidden({one: one for one in LETTERS}, 1.0, (0.0,), (1.0,))
    assert layer.rows(LETTERS)[:, 0].tolist() == [place * abs(place) for place in range(-ZERO, len(LETTERS) - ZERO)]


def test_characters_apart_and_ends_of_runs_are_features() -> None:
    found = features(normalize("黑便三天, ok"))
    assert {"黑?三", "黑??天", "^黑", "^黑便三", "天$", "便三天$"} <= found
    assert not found & {"黑???天", "^黑便三天", "天?ok"}


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=4), st.integers(1, 3))
def test_features_are_found_all_at_once_as_one_by_one(texts: list[str], each: int) -> None:
    parts = [normalize(text) for text in texts]
    names = sorted(set().union(*map(features, parts)))[::each]
    numbers, owner = FeatureIndex(names).of(parts)
    found = [{names[number] for number in numbers[owner == place]} for place in range(len(parts))]
    assert found == [features(part) & set(names) for part in parts]


def test_a_classifier_scores_windows_with_its_layer() -> None:
    text = "胸口痛，一身冷汗。" * 60
    plain = Classifier(dict.fromkeys(sorted(features(text)), 0.0), 0.0, 0.0, 0.0)
    layer = Hidden(dict.fromkeys(plain.weights, "/"), 1.0, (0.0,), (1.0,))
    assert plain.score(text) == 0
    known = len(plain.weights)
    expected = (len(LETTERS) - ZERO - 1) ** 2 * known / max(known, 40) ** 0.5
    assert Classifier(plain.weights, 0.0, 0.0, 0.0, layer).score(text) == pytest.approx(expected)
