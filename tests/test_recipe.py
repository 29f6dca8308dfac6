"""Mixing by a recipe: exact, repeatable, every record accounted for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.data.mixture import chosen, divided, read_recipe, run
from carellama.errors import UserError


def write(folder: Path, name: str, count: int) -> Path:
    path = folder / f"{name}.jsonl"
    rows = [{"instruction": f"{name} question {number}", "input": "", "output": "answer"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mixed(folder: Path, recipe: str, *flags: str) -> tuple[list[str], dict]:
    (folder / "recipe.yaml").write_text(recipe)
    output = folder / "mixed.jsonl"
    run([str(folder / "recipe.yaml"), "--output", str(output), "--dataset_dir", str(folder), *flags])
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    return [row["instruction"] for row in rows], json.loads((folder / "mixed.jsonl.json").read_text())


@given(st.integers(1, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_add_up_and_are_within_one(total: int, weights: list[float]) -> None:
    found = divided(total, weights)
    assert sum(found) == total
    assert all(abs(have - total * weight / sum(weights)) < 1 for have, weight in zip(found, weights, strict=True))


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 9))
def test_each_record_is_taken_equally_often(available: int, wanted: int, seed: int) -> None:
    times = chosen(available, wanted, seed, "a")
    assert times.sum() == wanted and times.max() - times.min() <= 1


def test_weights_and_counts_are_exact(tmp_path: Path) -> None:
    a, b, c = write(tmp_path, "a", 90), write(tmp_path, "b", 90), write(tmp_path, "c", 5)
    found, account = mixed(
        tmp_path,
        f"total: 80\ndatasets: [{{name: {a}, weight: 3}}, {{name: {b}, weight: 1}}, {{name: {c}}}]",
    )
    assert Counter(text[0] for text in found) == {"a": 60, "b": 20, "c": 5}
    assert len(set(found)) == 85, "a record was drawn twice"
    assert [part["taken"] for part in account["parts"]] == [60, 20, 5]
    assert sum(part["characters"] for part in account["parts"]) == account["characters"]
    assert account["characters"] == sum(len(text) + len("answer") for text in found)
    assert found != sorted(found), "the parts stand one after the other"


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a", 40), write(tmp_path, "b", 40)
    recipe = f"datasets: [{{name: {a}, records: 10}}, {{name: {b}, records: 10}}]\nseed: "
    first, account = mixed(tmp_path, recipe + "1")
    again, same = mixed(tmp_path, recipe + "1", "--overwrite")
    other, _ = mixed(tmp_path, recipe + "2", "--overwrite")
    assert first == again and account == same
    assert first != other and set(first) != set(other)


def test_what_is_taken_of_a_part_does_not_depend_on_the_others(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a", 40), write(tmp_path, "b", 40)
    alone, _ = mixed(tmp_path, f"datasets: [{{name: {a}, records: 10}}]")
    both, _ = mixed(tmp_path, f"datasets: [{{name: {b}}}, {{name: {a}, records: 10}}]", "--overwrite")
    assert {text for text in both if text[0] == "a"} == set(alone)


def test_a_small_part_repeats_only_where_allowed(tmp_path: Path) -> None:
    a = write(tmp_path, "a", 3)
    with pytest.raises(UserError, match=r"a\.jsonl has 3 usable records and the recipe takes 7.*repeat: true"):
        mixed(tmp_path, f"datasets: [{{name: {a}, records: 7}}]")
    assert not (tmp_path / "mixed.jsonl").exists()
    found, account = mixed(tmp_path, f"datasets: [{{name: {a}, records: 7, repeat: true}}]")
    assert sorted(Counter(found).values()) == [2, 2, 3] and account["parts"][0]["times"] == 3


def test_bad_rows_stop_or_are_counted(tmp_path: Path) -> None:
    a = write(tmp_path, "a", 3)
    a.write_text(a.read_text() + '{"instruction": "", "output": "x"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:4: empty question: --on_bad_record skip"):
        mixed(tmp_path, f"datasets: [{{name: {a}}}]")
    found, account = mixed(tmp_path, f"datasets: [{{name: {a}}}]", "--on_bad_record", "skip")
    assert len(found) == 3 and account["parts"][0]["skipped"] == 1


def test_kinds_are_not_mixed(tmp_path: Path) -> None:
    a = write(tmp_path, "a", 3)
    (tmp_path / "t.txt").write_text("Plain text.\n")
    with pytest.raises(UserError, match=r"texts.*conversations.*cannot be mixed"):
        mixed(tmp_path, f"datasets: [{{name: {a}}}, {{name: {tmp_path / 't.txt'}}}]")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("datasets: []", "at least one"),
        ("dataset: [{name: a}]", "unknown key 'dataset'. Did you mean 'datasets'"),
        ("datasets: [{name: a, wieght: 1}]", "Did you mean 'weight'"),
        ("datasets: [{name: a, weight: 1}]", "total and weight belong together"),
        ("datasets: [{name: a}]\ntotal: 5", "total and weight belong together"),
        ("datasets: [{name: a, weight: 0}]\ntotal: 5", "above 0"),
        ("datasets: [{name: a, weight: 1, records: 2}]\ntotal: 5", "not both"),
        ("datasets: [{name: a, records: 1.5}]", "whole number"),
        ("datasets: [{name: a}, {name: a}]", "twice"),
        ("datasets: [a]", "must be"),
        ("seed: x\ndatasets: [{name: a}]", "seed must be"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, recipe: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    with pytest.raises(UserError) as caught:
        read_recipe(str(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_tokens_are_counted_with_the_named_tokenizer(tmp_path: Path, tiny_tokenizer) -> None:
    from conftest import make_model

    make_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    a = write(tmp_path, "a", 5)
    found, account = mixed(tmp_path, f"datasets: [{{name: {a}}}]", "--tokenizer", str(tmp_path / "model"))
    ids = tiny_tokenizer([*found, "answer"], add_special_tokens=False)["input_ids"]
    assert account["tokens"] == sum(map(len, ids[:-1])) + 5 * len(ids[-1])


def test_records_that_an_earlier_part_has_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mix of two parts with the same records said nothing of them."""
    a, b = write(tmp_path, "a", 4), tmp_path / "b.jsonl"
    same = [json.loads(line) | {"meta": {"source": "b"}} for line in a.read_text().splitlines()[:3]]
    b.write_text("".join(json.dumps(row) + "\n" for row in same))
    _, account = mixed(tmp_path, f"datasets: [{{name: {a}}}, {{name: {b}}}]")
    assert [part["in_earlier_parts"] for part in account["parts"]] == [0, 3]
    assert f"{b}: 3 of 3 records" in (said := capsys.readouterr().out) and "3 equal to records of parts above" in said
