"""Which files of a folder a part of a dataset takes, and what to type next."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from carellama.data.catalogue.entries import Part, entries, find
from carellama.data.catalogue.named import files_of, fits, named, next_step


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("dataset", "there", "taken"),
    [
        ("healthcaremagic-100k", ["HealthCareMagic-100k.json", "data/train-0.parquet"], ["HealthCareMagic-100k.json"]),
        ("healthcaremagic-100k", ["data/train-0.parquet"], ["data/train-0.parquet"]),
        ("icliniq-10k", ["iCliniq.json", "train.parquet"], ["iCliniq.json"]),
        ("genmedgpt-5k", ["GenMedGPT-5k.json", "chatdoctor5k.json"], ["chatdoctor5k.json"]),
        (
            "medalpaca",
            [
                "medical_meadow_small.json",
                "w/medical_meadow_wikidoc_patient_information.json",
                "medical_meadow_medqa.json",
            ],
            ["w/medical_meadow_wikidoc_patient_information.json"],
        ),
        ("medalpaca", ["medical_meadow_small.json"], ["medical_meadow_small.json"]),
        (
            "pubmedqa",
            ["ori_pqal.json", "pqa_labeled/train-0.parquet", "pqa_unlabeled/train-0.parquet"],
            ["ori_pqal.json", "pqa_unlabeled/train-0.parquet"],
        ),
        ("imcs-v2", ["dataset/train.json", "PromptCBLUE_toy_train.IMCS-V2.jsonl"], ["dataset/train.json"]),
        ("cmb:clin", ["CMB-Clin-qa.json", "CMB-Clin/CMB-Clin-qa.json"], ["CMB-Clin/CMB-Clin-qa.json"]),
    ],
)
def test_the_same_rows_are_taken_once(tmp_path: Path, dataset: str, there: list[str], taken: list[str]) -> None:
    _, part = find(dataset)
    where = folder(tmp_path, *there)
    assert [path.relative_to(where).as_posix() for path in files_of(part, where, "train")] == taken


def test_what_is_held_out_is_never_trained_on() -> None:
    part = Part("a", "sft", ("*.json",), ("*test*",), ("turns",))
    assert named(part, ["train.json", "test.json"], "train") == {"train.json"}
    assert named(part, ["train.json", "test.json"], "held_out") == {"test.json"}


def test_a_part_of_a_path_is_no_name_of_another_folder() -> None:
    assert fits("x/US/train.jsonl", "*US/train*.jsonl") and not fits("x/Mainland/train.jsonl", "*US/train*.jsonl")


@pytest.mark.parametrize(
    ("dataset", "there", "command"),
    [
        ("chatmed-consult", ["ChatMed_Consult-v0.3.json"], "carellama data convert chatmed-consult"),
        ("shibing624-medical", ["reward/train.json"], "carellama data convert shibing624-medical:reward"),
        ("cmexam", ["data/test_with_annotations.csv"], "carellama data convert cmexam --split held_out"),
        (
            "shibing624-medical",
            ["reward_test.json"],
            "carellama data convert shibing624-medical:reward --split held_out",
        ),
        ("cmexam", ["a.csv"], "carellama data convert cmexam --from FILE"),
    ],
)
def test_the_next_command_is_one_that_works(tmp_path: Path, dataset: str, there: list[str], command: str) -> None:
    entry, _ = find(dataset)
    assert next_step(entry, folder(tmp_path, *there)).startswith(command)


def test_no_two_hosts_of_one_place_hold_a_dataset_twice() -> None:
    """Places of the same files say so by `holds`; what is fetched from several places is something else each time."""
    assert entries()
    for name, entry in entries().items():
        fetched = Counter(
            (host.holds, host.kind, host.repo) for host in entry.hosts if host.kind not in ("manual", "url")
        )
        assert max(fetched.values(), default=1) == 1, name


def test_a_host_is_fetched_into_files_that_a_part_takes() -> None:
    """Each exact file name of a host belongs to a part, for training or held out, under the folder it is kept in."""
    left = {"pubmedqa": {"data/test_ground_truth.json"}}  # read beside the questions
    assert any(host.files for entry in entries().values() for host in entry.hosts if host.kind != "manual")
    for name, entry in entries().items():
        for host in entry.hosts:
            if host.kind == "manual":
                continue
            for file in host.files:
                if set(file) & set("*?[") or file.endswith(".zip") or file in left.get(name, ()):
                    continue
                path = f"{host.holds}/{file}" if host.holds else file
                assert any(named(part, [path], "train") or named(part, [path], "held_out") for part in entry.parts), (
                    f"{name}: {path}"
                )
