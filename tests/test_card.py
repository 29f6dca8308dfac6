"""Model cards: what they say follows from records, in two languages, in the form of the hub and of CHAI."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.card import write_card
from carellama.export.cards.chai import FILE
from carellama.export.cards.facts import find_base
from carellama.export.cards.licences import hub_licence, licence_clashes
from carellama.export.cards.notes import WORDS
from carellama.export.cards.results import find_results
from carellama.export.parity.table import ParityRow, ParityTable, SafetyChange
from carellama.package_data import package_yaml
from carellama.templates.template import get_template

PARITY = ParityTable(
    rows=(
        ParityRow("hf", "transformers 5.23.0", ".", "float32", True, True, 0.0001, 32, 1e-9, 1e-7, 1.0, 14.2, 2000),
        ParityRow(
            "q4_K_M", "llama.cpp (xllamacpp)", "x.gguf", "float32", True, True, 0.4, 30, 0.012, 0.21, 0.953, 14.9, 2000,
            SafetyChange(100, 3, 40, 4, 5, 2, 2), {"Q4_K": 10, "Q5_0": 4, "Q6_K": 1},
        ),
    ),
    tolerances={},
    perplexity=14.1,
)  # fmt: skip
# The elements of schema v0.2 that have to be there, in order (mc-schema, v0.2/schema.xsd).
REQUIRED = {
    "": ["BasicInfo", "ReleaseInfo", "ModelSummary", "UsesAndDirections", "Warnings", "TrustIngredients", "KeyMetrics",
         "Resources", "Bibliography"],
    "BasicInfo": ["ModelName", "ModelDeveloper", "DeveloperContact"],
    "ReleaseInfo": ["ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability"],
    "ModelSummary": ["Summary", "Keywords"],
    "UsesAndDirections": ["IntendedUseAndWorkflow", "PrimaryIntendedUsers", "HowToUse", "TargetedPatientPopulation",
                          "CautionedOutOfScopeSettings"],
    "Warnings": ["KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel"],
    "TrustIngredients": ["AISystemFacts", "TransparencyInformation"],
    "TrustIngredients/AISystemFacts": ["OutcomesAndOutputs", "ModelType", "FoundationModels", "InputDataSource",
        "OutputAndInputDataTypes", "DevelopmentDataCharacterization", "BiasMitigationApproaches", "OngoingMaintenance",
        "Transparency"],
    "TrustIngredients/TransparencyInformation": ["FundingSource", "StakeholdersConsulted"],
    "KeyMetrics": ["UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"],
    "KeyMetrics/FairnessEquity": ["MetricGoal", "Results", "Interpretation", "TestType", "TestingDataDescription",
                                  "ValidationProcessAndJustification"],
    "Resources": ["EvaluationReferences", "PeerReviewedPublications", "PatientConsentOrDisclosure"],
}  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path, tiny_folder: Path) -> ModelOptions:
    """A base with a licence, and a checkpoint with a record and results."""
    base, output = tmp_path / "base", tmp_path / "output"
    base.mkdir()
    head = "license: llama3\nbase_model: acme/tiny-llama\nlanguage: en"
    (base / "README.md").write_text(f"---\n{head}\n---\n")
    (base / "LICENSE").write_text("terms")
    (base / "config.json").write_text("{}")
    output.mkdir()
    record = {
        "stage": "sft",
        "base_model": str(base),
        "settings": {
            "data": {"template": "vicuna", "val_size": 0.1},
            "model": {"rope_factor": 2.0},
            "finetuning": {"stage": "sft", "finetuning_type": "lora", "lora_rank": 8, "num_layer_trainable": 3},
            "training": {"learning_rate": 1e-4, "seed": 42, "num_train_epochs": 3.0, "max_steps": 40},
        },
        "data": [
            {"name": "cmexam", "where": str(tmp_path / "cmexam.json"), "hub": None, "languages": ["zh"],
             "sha1": "aa11", "files": [], "rows": 120, "used": 118, "licence": "MIT"},
            {"name": str(tmp_path / "own.jsonl"), "hub": None, "languages": ["zh", "en"], "sha1": "bb22", "rows": 5},
        ],
        "results": {"train_runtime": 5400.0, "total_flos": 1.5e15, "train_loss": 1.25},
        "versions": {"torch": "2.13.0"},
        "git_commit": "f00",
    }  # fmt: skip
    (output / "run.json").write_text(json.dumps(record))
    evaluated = {"eval_loss": 2.3, "eval_loss_low": 2.2, "eval_loss_high": 2.4, "eval_samples": 80, "eval_runtime": 3.0}
    (output / "eval_results.json").write_text(json.dumps(evaluated))
    return ModelOptions(str(base), checkpoint_dir=str(output))


@pytest.fixture
def triage(tmp_path: Path) -> Path:
    """What `carellama safety eval --output` writes."""
    path = tmp_path / "triage.json"
    figures = {"all": {"missed": 3, "emergencies": 60, "missed_interval": [0.017, 0.137], "false_alarms": 5,
                       "others": 40, "false_alarms_interval": [0.05, 0.26]}}  # fmt: skip
    path.write_text(json.dumps({"file": "/home/x/data/test.jsonl", "judge": "model", "figures": figures}))
    return path


def write(folder: Path, model: ModelOptions, tokenizer, **changes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_card(folder, model, get_template("vicuna", tokenizer), changes.pop("parity", PARITY), "causal", **changes)
    return folder


def test_the_card_has_what_is_known_in_both_languages(trained, triage, tiny_tokenizer, tmp_path) -> None:
    folder = write(tmp_path / "out", trained, tiny_tokenizer, results=[triage])
    english, chinese = ((folder / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh.md"))
    facts = ("acme/tiny-llama", "llama3", "vicuna", "cmexam", "aa11", "bb22", "| lora_rank | 8 |", "1.5e+15", "f00",
             "| 2.3 | 2.2 – 2.4 | 80 |", "| 0.05 | 0.017 – 0.137 | 60 | model |",
             "0.012 / 0.21", "95.30% (2000)", "30 / 32", "| 3 / 100 | 4 → 5 / 40 | 2 → 2 / 60 |",
             "Q4_K × 10, Q5_0 × 4, Q6_K × 1")  # fmt: skip
    for fact in facts:
        assert fact in english and fact in chinese, fact
    assert "| name | SHA-1 | rows | rows used | licence |" in english  # each once, in the reader's language
    assert "| 名称 | SHA-1 | 行数 | 使用行数 | 许可证 |" in chinese
    for said in (
        "Intended use",
        "Not for",
        "Limits",
        "it missed 4 of 40 emergencies",
        "90 min",
        "licence of the data own is not known",
        "| eval | loss |",
        "| test.jsonl | emergencies missed |",
        "| val_size | 0.1 |",
    ):
        assert said in english, said
    for said in (
        "用途",
        "不适用于",
        "局限",
        "40 个急症分诊病例中它漏判了 4 个",
        "90 分钟",
        "数据集 own 的许可证未知",
        "| eval | 损失 |",
        "| test.jsonl | 漏判急症 |",
        "中文和英文的一般健康信息",
    ):
        assert said in chinese, said
    assert "it missed 4 of 40 emergencies" in english and "40 个急症分诊病例中它漏判了 4 个" in chinese
    assert "| max_steps | 40 |" in english  # and nothing that had no effect beside the others
    assert not re.search("rope_factor|num_layer_trainable|num_train_epochs", english + chinese)
    assert str(tmp_path) not in english + chinese and "/home/x" not in english + chinese
    assert (folder / "LICENSE").read_text() == "terms" and "(LICENSE)" in english


def test_the_card_says_whether_triage_was_compared(trained, tiny_tokenizer, tmp_path) -> None:
    without = replace(PARITY, rows=tuple(replace(row, safety=None) for row in PARITY.rows))
    for parity, compared in ((PARITY, True), (without, False)):
        folder = write(tmp_path / str(compared), trained, tiny_tokenizer, parity=parity)
        english, chinese = ((folder / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh.md"))
        assert ("triage cases were not compared" not in english) == ("也做了对比" in chinese) == compared


def test_both_languages_have_the_same_words() -> None:
    words = package_yaml(WORDS)

    def shape(value):
        if isinstance(value, dict):
            return {key: shape(one) for key, one in value.items()}
        if isinstance(value, list):
            return [shape(one) for one in value]
        return sorted(re.findall(r"\{\w+\}", str(value)))

    assert shape(words["en"]) == shape(words["zh"])


def test_the_head_is_what_the_hub_takes_with_results(trained, triage, tiny_tokenizer, tmp_path) -> None:
    folder = write(tmp_path / "out", trained, tiny_tokenizer, results=[triage])
    for name in ("README.md", "README_zh.md"):
        data = ModelCard.load(folder / name).data
        assert (data.license, data.base_model, data.base_model_relation) == ("llama3", "acme/tiny-llama", "finetune")
        assert data.language == ["zh", "en"] and data.datasets is None
        found = {(one.dataset_name, one.metric_type): one for one in data.eval_results}
        assert found["eval", "loss"].metric_value == 2.3
        assert found["test.jsonl", "missed"].metric_name == "missed, 95% interval 0.017 to 0.137, n 60"


def test_the_head_names_datasets_of_the_hub_alone(trained, tiny_tokenizer, tmp_path) -> None:
    """`datasets: - own` is a page of somebody else on the hub, or none."""
    path = tmp_path / "output" / "run.json"
    record = json.loads(path.read_text())
    record["data"][0]["hub"] = "acme/cmexam"
    path.write_text(json.dumps(record))
    folder = write(tmp_path / "out", trained, tiny_tokenizer)
    assert ModelCard.load(folder / "README.md").data.datasets == ["acme/cmexam"]
    assert "| own | bb22 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_base_that_was_merged_keeps_all_that_it_was_made_from(trained, tiny_tokenizer, tmp_path) -> None:
    """Of two the second was lost, and of a licence of its own the link."""
    head = "license: other\nlicense_name: acme\nlicense_link: LICENSE\nlanguage: no\nbase_model: [a/b, c/d]"
    (tmp_path / "base" / "README.md").write_text(f"---\n{head}\n---\n")
    data = ModelCard.load(write(tmp_path / "out", trained, tiny_tokenizer) / "README.md").data
    assert (data.base_model, data.base_model_relation) == (["a/b", "c/d"], "merge")
    assert (data.license_name, data.license_link, data.language) == ("acme", "LICENSE", ["zh", "en", "no"])


def test_what_a_gguf_was_trained_from_is_not_the_same_in_fewer_bits(trained, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("carellama.model.zoo.resolve.model_folder", lambda *_, **__: tmp_path / "base")
    base = find_base(ModelOptions("acme.gguf"))
    assert (base.hubs, base.relation, base.unpacked) == (("acme/tiny-llama",), None, True)


def test_a_record_with_values_of_other_kinds_makes_a_card(trained, tiny_tokenizer, tmp_path, caplog) -> None:
    """`"languages": "zh"` gave z and h, and a version 2 ended an export with a TypeError after all its work."""
    path = tmp_path / "output" / "run.json"
    record = json.loads(path.read_text())
    record["data"][0]["languages"], record["data"][1]["languages"] = "zh", [1, "en"]
    record |= {"versions": {"torch": 2}, "git_commit": ["f00"]}
    record["settings"]["training"]["max_steps"] = "40"
    record["results"] |= {"train_runtime": [1]}
    path.write_text(json.dumps(record))
    folder = write(tmp_path / "out", trained, tiny_tokenizer, chai=True)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert ModelCard.load(folder / "README.md").data.language == ["zh", "en"] and "leaves out 1" in caplog.text
    assert "torch 2" in text and "| max_steps | 40 |" in text and "num_train_epochs" not in text


def test_files_that_transformers_does_not_load_name_no_library(trained, tiny_tokenizer, tmp_path) -> None:
    """A folder of .gguf files alone said library_name: transformers."""
    for rows, library in ((PARITY.rows, "transformers"), (PARITY.rows[1:], None)):
        folder = write(tmp_path / str(library), trained, tiny_tokenizer, parity=replace(PARITY, rows=rows))
        assert ModelCard.load(folder / "README.md").data.library_name == library


def test_a_figure_of_one_dataset_has_the_count_of_that_dataset(tmp_path) -> None:
    """Settings of a training were taken for results (eval_steps), and all figures had the count of all records."""
    evaluated = {"eval_loss": 2.3, "eval_samples": 8, "eval_zh_loss": 3.1, "eval_zh_samples": 1, "eval_zh_tokens": 116}
    (tmp_path / "eval_results.json").write_text(json.dumps(evaluated))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"eval_steps": 500}))
    assert [(one.metric, one.n) for one in find_results([tmp_path])] == [("loss", 8), ("zh_loss", 1)]


def test_results_say_of_which_data_they_are_and_how_many_answers_were_cut(tmp_path) -> None:
    predicted = {"predict_dataset": "/home/x/own.json, held", "predict_bleu-4": 32.4, "predict_samples": 20,
                 "predict_cut": 13, "predict_empty": 0}  # fmt: skip
    (tmp_path / "predict_results.json").write_text(json.dumps(predicted))
    found = [(one.test, one.metric, one.value, one.n) for one in find_results([tmp_path])]
    assert found == [
        ("own.json, held", "bleu-4", 32.4, 20),
        ("own.json, held", "answers cut at max_new_tokens", 13, 20),
        ("own.json, held", "empty answers", 0, 20),
    ]


def test_a_licence_that_the_hub_does_not_list_is_other_with_its_name() -> None:
    assert hub_licence("Apache-2.0") == {"license": "apache-2.0"}
    assert hub_licence("chatglm licence") == {"license": "other", "license_name": "chatglm-licence"}
    assert hub_licence(None) == {"license": "unknown"}


@pytest.mark.parametrize(
    ("base", "data", "declared", "kinds"),
    [
        ("llama3", {}, "apache-2.0", ["terms"]),
        ("llama3", {}, "llama3", []),
        ("apache-2.0", {"d": "CC-BY-NC-4.0"}, "apache-2.0", ["noncommercial"]),
        ("apache-2.0", {"d": "GPL-3.0 (LICENSE file); non-commercial research (README)"}, "mit", ["noncommercial"]),
        ("apache-2.0", {"d": "CC-BY-NC-4.0"}, "cc-by-nc-4.0", []),
        ("llama1", {}, "apache-2.0", ["research"]),
        ("apache-2.0", {"d": "CC-BY-SA-4.0"}, "apache-2.0", ["share_alike"]),
        ("apache-2.0", {"d": None, "e": "MIT"}, "apache-2.0", ["unknown_data"]),
        (None, {}, None, ["unknown_base"]),
        ("apache-2.0", {"d": "MIT (repository); Apache-2.0 (data card)"}, "apache-2.0", []),
    ],
)  # fmt: skip
def test_licences_that_do_not_agree_are_named(base, data, declared, kinds) -> None:
    assert [one.kind for one in licence_clashes(base, data, declared)] == kinds


def test_a_file_without_results_is_refused(trained, tiny_tokenizer, tmp_path) -> None:
    (tmp_path / "no.json").write_text("[1]")
    with pytest.raises(UserError, match=r"no\.json holds no results: give a file of carellama eval"):
        write(tmp_path / "out", trained, tiny_tokenizer, results=[tmp_path / "no.json"])
    with pytest.raises(UserError, match=r"cannot read .*gone\.json: no such file"):
        write(tmp_path / "again", trained, tiny_tokenizer, results=[tmp_path / "gone.json"])


def test_the_card_of_chai_keeps_its_schema_and_invents_nothing(trained, triage, tiny_tokenizer, tmp_path) -> None:
    folder = write(tmp_path / "out", trained, tiny_tokenizer, results=[triage], chai=True)
    root = ElementTree.parse(folder / FILE).getroot()
    space = "{https://mc.chai.org/v0.2/schema.xsd}"
    assert root.tag == f"{space}AppliedModelCard"
    for path, names in REQUIRED.items():
        element = root.find("/".join(f"{space}{part}" for part in path.split("/"))) if path else root
        assert [child.tag.removeprefix(space) for child in element] == names, path
    text = {element.tag.removeprefix(space): element.text or "" for element in root.iter()}
    for name in ("ModelDeveloper", "DeveloperContact", "ReleaseDate", "ClinicalRiskLevel", "FundingSource",
                 "StakeholdersConsulted", "TargetedPatientPopulation"):  # fmt: skip
        assert text[name] == "To be filled in by the developer", name
    assert "acme/tiny-llama" in text["FoundationModels"] and "SHA-1 aa11" in text["DevelopmentDataCharacterization"]
    assert "general health information in Chinese and English." in text["IntendedUseAndWorkflow"]
    assert "The licence of the data own is not known." in text["Transparency"]
    values = [json.loads(one.text or "") for one in root.iter(f"{space}ValueJson")]
    assert {"kind": "single", "value": 5.0, "unit": "%"} in values and len(values) >= 5
    assert str(tmp_path) not in (folder / FILE).read_text()


def test_a_card_without_records_says_so(tiny_folder, tiny_tokenizer, tmp_path) -> None:
    folder = write(tmp_path / "out", ModelOptions(str(tiny_folder)), tiny_tokenizer, parity="equal")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "general health information in languages that are not stated." in text
    assert "There is no record of its training" in text and "No evaluation of this model is recorded" in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "unknown"


def test_an_exported_folder_keeps_its_trainings_when_it_is_exported_again(
    trained, triage, tiny_tokenizer, tmp_path, caplog
) -> None:
    """Or a licence that the data's licence clashes with looks clean after a second export."""
    record = json.loads((Path(trained.checkpoint_dir) / "run.json").read_text())
    record["data"][0]["licence"] = "CC-BY-NC-4.0"
    (Path(trained.checkpoint_dir) / "run.json").write_text(json.dumps(record))
    first = write(tmp_path / "first", trained, tiny_tokenizer, results=[triage])
    second = write(tmp_path / "second", ModelOptions(str(first)), tiny_tokenizer)
    pages = [(folder / "README.md").read_text().partition("\n---\n") for folder in (first, second)]
    assert "CC-BY-NC-4.0" in pages[0][2].partition("## Training")[0]
    assert pages[1][2].partition("\n")[2] == pages[0][2].partition("\n")[2]  # all but the title, which has the name
    assert str(tmp_path) not in (second / "training_record.json").read_text()
    trained_on = replace(trained, model_name_or_path=str(second))  # another training, of whole weights or an adapter
    third = (write(tmp_path / "third", trained_on, tiny_tokenizer) / "README.md").read_text()
    assert "## Training 2" in third and "0.017 – 0.137" not in third  # an evaluation is of the weights that it was of
    (second / "training_record.json").write_text('{"trainings": [{"stage": "sft"}]}')
    fourth = (write(tmp_path / "fourth", ModelOptions(str(second)), tiny_tokenizer) / "README.md").read_text()
    assert "no record of its training" in fourth and "trainings.0.method: Field required" in caplog.text
