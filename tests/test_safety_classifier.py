"""The classifier of emergencies: features, a readable table of weights, learning, and its command."""

from __future__ import annotations

import gzip
import json
import math
import random
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import preloaded
from carellama.errors import UserError
from carellama.evaluate.train_triage import train
from carellama.records import Message
from carellama.rules import normalize
from carellama.safety.classifier.classifier import (
    ENOUGH,
    Classifier,
    blocks,
    features,
    fit,
    load_classifier,
    read_classifier,
)
from carellama.safety.classifier.feature_index import FeatureIndex
from carellama.safety.triage.rules import load_red_flags
from carellama.safety.triage.triage import read_text, triage

LABELLED = [("胸口痛得厉害", True), ("胸口痛一身汗", True), ("crushing chest pain", True), ("bad chest pain now", True),
            ("感冒流鼻涕", False), ("感冒三天了", False), ("a mild cold", False),
            ("mild cold and cough", False)]  # fmt: skip


def test_features_are_sequences_of_characters_and_words() -> None:
    found = features(normalize("胸口痛 chest pain 38.5"))
    assert {"胸", "胸口", "口痛", "胸口痛", "chest", "chest pain", "<2>", "pain <2>"} <= found
    assert "痛 chest" not in found
    assert "vomit*" not in found and "vomit*" in features("vomiting")


PIECES = st.lists(
    st.sampled_from([*"胸口痛得 \n。a7.'é", "vomiting", "chest pain", "38.5", "㐀", "\U00020000"]), max_size=60
)


@given(st.lists(PIECES, min_size=1, max_size=3), PIECES)
def test_the_index_finds_the_features_that_it_knows_and_no_other(parts: list[list[str]], learned: list[str]) -> None:
    texts = [normalize("".join(part)) for part in parts]
    names = sorted(features(normalize("".join(learned))) | {"胸口痛", "{fever}", "chest pain", "vomit*"})
    numbers, owner = FeatureIndex(names).of(texts)
    found = {(names[number], part) for number, part in zip(numbers.tolist(), owner.tolist(), strict=True)}
    assert found == {(name, part) for part, text in enumerate(texts) for name in features(text) & {*names}}


@given(st.lists(PIECES, max_size=20), st.integers(0, 5))
def test_a_text_scores_as_its_highest_window(pieces: list[list[str]], seed: int) -> None:
    text = "".join("".join(part) for part in pieces)
    chance = random.Random(seed)
    parts, width = blocks(normalize(text)), len(blocks(normalize(text))[0]) or 1
    # of the parts, since a word or a run of characters that is cut has ends of its own
    weights = {name: chance.uniform(-1, 1) for name in sorted({"{fever}"}.union(*map(features, parts)))}
    signs = [(len(text) // 2, "{fever}")] if text else []
    found = [features(part) | {name for place, name in signs if place // width == at} for at, part in enumerate(parts)]
    windows = [one | other for one, other in pairwise(found)] or found
    scores = [0.5 + sum(weights[name] for name in one) / math.sqrt(max(len(one), ENOUGH)) for one in windows]
    assert Classifier(weights, 0.5, 0.0, 0.0).score(text, signs) == pytest.approx(max(scores))


def test_it_learns_what_it_is_told() -> None:
    learned = fit(*zip(*LABELLED, strict=True), least=1, penalty=0.01)
    assert all((learned.score(text) > 0) == label for text, label in LABELLED)
    assert learned.score("胸口痛") > learned.score("流鼻涕")


@pytest.mark.parametrize(
    "text", ["hi", "thanks", "headache", "I like football", "I can't sleep", "你好", "我头疼", "在吗"]
)
def test_a_few_words_are_no_emergency_because_a_text_with_them_was_one(text: str) -> None:
    assert read(text) == "unsure"


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = Classifier({"胸口": 1.25, "chest pain": -0.5}, -1.0, 0.75, -2.0)
    written.save(tmp_path / "w.tsv.gz")
    assert read_classifier((tmp_path / "w.tsv.gz").read_bytes(), "w") == written
    lines = gzip.decompress((tmp_path / "w.tsv.gz").read_bytes()).decode().splitlines()
    assert "胸口\t1.250" in lines


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no gzip", "no gzip"),
        (gzip.compress(b"a\tb\n", mtime=0), "line 1"),
        (gzip.compress(b"a\t1\n", mtime=0), "#bias"),
        (gzip.compress(b"#bias\t0\n#threshold\tnan\n#floor\t0\n", mtime=0), "line 2: nan is no finite number"),
        (gzip.compress(b"a\t1e999\n", mtime=0), "line 1: 1e999 is no finite number"),
        (gzip.compress(b"a\t1\n", mtime=0)[:10] + b"\xff" * 10, "no gzip"),
    ],
)
def test_a_faulty_table_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_classifier(data, "w.tsv.gz")


def test_a_long_text_is_read_in_windows_so_that_a_preamble_changes_little() -> None:
    classifier = load_classifier()
    sign = "突然半边身子没劲，嘴也歪了，说话含糊"
    long = "今天天气很好，我们一家人去公园散步，孩子们都很开心。" * 40 + sign
    assert len(blocks(normalize(long))) > 5
    assert classifier.score(long) > classifier.score("今天天气很好，我们一家人去公园散步，孩子们都很开心。" * 40)


@given(st.text(max_size=2000))
def test_blocks_are_the_text(text: str) -> None:
    assert "".join(blocks(normalize(text))) == normalize(text)


def test_a_text_that_no_rule_knows_can_be_an_emergency() -> None:
    text = "嗯嗯啊啊哦哦呀呀咦咦"
    found = triage([Message("user", text)], classifier=Classifier(dict.fromkeys(features(text), 0.0), 1.0, 0.0, 0.0))
    assert found.level == "emergency"
    assert found.findings[0].rule.id == "classifier"
    assert found.findings[0].rule.do["zh"] and found.findings[0].rule.do["en"]


def test_what_ships_was_learned_from_the_texts_that_are_here() -> None:
    assert len(load_classifier().weights) > 10_000
    assert read("爸爸刚才突然嘴歪了，一边胳膊抬不起来，说话也不清楚") == "emergency"
    assert read("感冒两天，流清鼻涕，能吃能睡，要吃药吗") != "emergency"


def read(text: str) -> str:
    """What the classifier that ships says of a text and its signs."""
    return load_classifier().verdict(text, read_text(text, load_red_flags())[1])


def test_signs_are_concepts_of_rules_and_how_they_are_meant() -> None:
    _, signs = read_text("胸口疼，没有发烧", load_red_flags())
    assert {(0, "{chest_pain}"), (6, "{fever} denied")} <= set(signs)
    learned = fit(["a", "b", "c"], [True, True, False], [[(0, "{fever}")], [(0, "{fever}")], []], least=1, penalty=0.01)
    assert learned.score("d", [(0, "{fever}")]) > learned.score("d")
    assert Classifier({"{fever}": 1.0}, 0.0, 0.0, 0.0).score("x. " * 2000, [(5000, "{fever}")]) > 0


def test_each_rule_that_fires_lowers_the_floor() -> None:
    classifier = Classifier(dict.fromkeys(features(LONG), 0.0), -2.0, 0.5, -1.0)
    assert classifier.verdict(LONG, rules=1) == "harmless"  # below -1
    assert classifier.verdict(LONG, rules=2) == "unsure"  # not below -2.5
    assert replace(classifier, bias=-9.0).verdict("吃花生") == "unsure"  # a few words are never harmless
    assert replace(classifier, bias=2.5).verdict("吃花生") == "unsure"  # not above 2.6
    assert replace(classifier, bias=2.7).verdict("吃花生") == "emergency"


def test_train_writes_weights_and_figures(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    rows = [{"text": text, "level": "emergency" if label else "soon"} for text, label in LABELLED]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    words = [
        preloaded.python(),
        "-m",
        "carellama",
        "safety",
        "train",
        str(file),
        "--output",
        str(tmp_path / "w.tsv.gz"),
        "--folds",
        "2",
        "--min_count",
        "1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "with rules" in done.stdout
    assert load_classifier(str(tmp_path / "w.tsv.gz")).weights
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_learned(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="its folder cannot be made"):
        train(["missing.csv", "--output", str(tmp_path / "file" / "w.tsv.gz")])


def test_texts_of_one_label_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("text,label\na,emergency\nb,emergency\n", encoding="utf-8")
    done = subprocess.run(
        [preloaded.python(), "-m", "carellama", "safety", "train", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "same label" in done.stderr


LONG = "吃花生呛了，之后一直咳，现在人很好，在看电视，晚饭也吃了两碗，没有别的"


def test_a_classifier_that_is_sure_makes_a_shipped_rule_urgent_and_no_other(tmp_path: Path) -> None:
    said = [Message("user", LONG)]
    assert triage(said).level == "emergency"
    found = triage(said, classifier=harmless(LONG))
    assert found.level == "urgent"
    assert found.findings[0].overruled
    text = f"我不想活了，准备了一瓶安眠药。{LONG}"
    assert triage([Message("user", text)], classifier=harmless(text)).level == "emergency"
    file = tmp_path / "own.yaml"
    file.write_text(OWN, encoding="utf-8")
    text = f"卟啉发作。{'今天天气很好，我们去公园散步，孩子很开心。' * 3}"
    assert triage([Message("user", text)], load_red_flags([file]), harmless(text)).level == "emergency"


def harmless(text: str) -> Classifier:
    """A classifier that knows the words of a text, and is sure of it."""
    return Classifier(dict.fromkeys(features(normalize(text)), 0.0), -9.0, 1.0, 0.0)


OWN = """
concepts: {porphyria: [[卟啉发作], ["porphyria attack"]]}
rules:
  - {id: porphyria, level: emergency, system: metabolic, find: [porphyria], do: {en: Call us., zh: 打电话给我们。},
     source: our protocol, fires: [卟啉发作, porphyria attack], spares: [没有卟啉发作, no porphyria attack]}
"""


def test_a_text_of_a_few_words_is_never_harmless() -> None:
    assert read("没有呼吸了") != "harmless"
    assert read("he is not breathing, no pulse") != "harmless"
    said = [Message("user", "My baby is 3 weeks old with a fever of 38.9")]
    assert triage(said, None, load_classifier()).level == "emergency"
