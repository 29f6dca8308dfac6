"""Every written form is opened again by a program that is not ours, and compared with base and adapters."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export import merge
from carellama.export.parity import read_folder, readers
from carellama.export.parity import trained as asking
from carellama.export.parity.compare import compare, perplexity
from carellama.export.parity.table import ParityRow, ParityTable
from carellama.export.parity.texts import LANGUAGES, TOKENS_OF_LANGUAGE, safety_cases, windows
from carellama.export.parity.tolerance import past_tolerance, tolerance_of
from carellama.export.parity.trained import Trained
from carellama.model import adapters
from carellama.model.digests import check_digests
from carellama.package_data import package_yaml
from conftest import REPOSITORY, make_model
from exporting import FEW, export
from hub_bases import write_base
from test_adapter import trained

FORMS = ["hf", "f16", "q4_K_M", "lora-gguf"]
FEW_CASES = 6  # of safety, in place of a hundred


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    """A tiny base whose tokenizer llama.cpp can take, and an adapter on it."""
    root = tmp_path_factory.mktemp("source")
    write_base("mistral", root / "base")
    adapter = trained(AutoModelForCausalLM.from_pretrained(root / "base"), root / "adapter")
    return ModelOptions(str(root / "base"), checkpoint_dir=str(adapter))


@pytest.fixture(scope="module")
def exported(source: ModelOptions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ParityTable, Path]]:
    """The table of an export in four forms, and its folder."""
    pytest.importorskip("xllamacpp")
    target = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "safety_cases", lambda: safety_cases()[:FEW_CASES])
        options: dict[str, Any] = {"to": "hf,gguf,lora-gguf,ollama", "gguf_type": "f16,q4_K_M", "safety_parity": True}
        yield export(source, None, target, tokens=TOKENS_OF_LANGUAGE, **options), target


@pytest.mark.slow
def test_every_form_is_read_back_and_compared(exported: tuple[ParityTable, Path]) -> None:
    table, folder = exported
    assert [row.form for row in table.rows] == FORMS
    files = ["model.f16.gguf", "model.q4_K_M.gguf", "model-lora.gguf"]
    assert [row.file for row in table.rows] == [".", *files] and all((folder / name).is_file() for name in files)
    assert table.rows[0].reader.startswith("transformers 5") and "xllamacpp" in table.rows[1].reader
    for row in table.rows:
        assert row.ids_equal and row.end_tokens_equal and row.tokens > 1900, row.form
        assert row.safety is not None and row.safety.cases == FEW_CASES, row.form
    divergence = {row.form: row.kl_mean or 0 for row in table.rows}
    assert divergence["hf"] < 1e-9
    assert 0 < divergence["f16"] < 1e-4 and 0 < divergence["lora-gguf"] < 1e-4
    assert divergence["q4_K_M"] > 10 * divergence["f16"]
    assert table.rows[0].greedy_equal == 32
    assert sum(table.rows[2].tensor_types.values()) == sum(table.rows[1].tensor_types.values()) > 10
    assert "F16" in table.rows[1].tensor_types


@pytest.mark.slow
def test_the_figures_are_written_with_digests_and_into_the_card(exported: tuple[ParityTable, Path]) -> None:
    table, folder = exported
    written = json.loads((folder / "parity.json").read_text())
    assert written["rows"][2]["kl_mean"] == table.rows[2].kl_mean and written["perplexity"] == table.perplexity
    assert written["tolerances"]["q4_K_M"]["kl_mean"] == tolerance_of("q4_K_M", "float32").kl_mean
    assert check_digests(folder) == []
    assert (folder / "Modelfile").read_text().startswith("FROM ./model.f16.gguf\n")
    assert not [path for path in folder.parent.iterdir() if path != folder]  # nothing temporary stays


def test_a_merge_that_forgets_the_adapter_is_not_exported(
    source: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged model differed from the LoRA: the export says by which figure, and leaves nothing."""
    monkeypatch.setattr(adapters, "merge_adapters", lambda network: network.unload())
    failing = pytest.raises(UserError, match=r"\.: .*mean KL divergence is .*; allowed: 1e-06.*Nothing was kept")
    with failing:
        export(source, None, tmp_path / "out", tokens=FEW)
    assert list(tmp_path.iterdir()) == []
    table = export(source, None, tmp_path / "out", tokens=FEW, accept_parity_loss=True)
    assert any("mean KL divergence" in one for one in table.past)
    assert "Past its tolerance" in (tmp_path / "out" / "README.md").read_text()
    assert "超出允许的差距" in (tmp_path / "out" / "README_zh.md").read_text()


def test_an_end_token_that_is_gone_is_not_exported(
    source: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = merge._save

    def forgetful(network: Any, tokenizer: Any, template: Any, *words: Any) -> None:
        other = SimpleNamespace(stop_ids=[5], jinja=template.jinja)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(5)
        save(network, tokenizer, other, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(merge, "_save", forgetful)
    with pytest.raises(UserError, match="a token that ended an answer in training does not end one there"):
        export(source, None, tmp_path / "out", tokens=FEW)
    assert list(tmp_path.iterdir()) == []


def test_the_safety_cases_are_drawn_from_the_test_half() -> None:
    rows = [json.loads(line) for line in (REPOSITORY / "data/triage/test.jsonl").read_text("utf-8").splitlines()]
    drawn = random.Random(19).sample(sorted(rows, key=lambda row: row["id"]), 100)
    cases = {case.id: [[one.role, one.content] for one in case.messages] for case in safety_cases()}
    assert cases == {row["id"]: row["turns"] for row in drawn}


def test_held_out_texts_are_cut_into_windows_that_predict_each_token_once(tiny_tokenizer: Any) -> None:
    found = windows(tiny_tokenizer, longest=100)
    assert sum(len(one) - 1 for one in found) == TOKENS_OF_LANGUAGE * len(LANGUAGES) == 2000
    assert max(map(len, found)) == 100
    assert all(one[-1] == other[0] for one, other in pairwise(found[:10]))


def test_a_draft_saves_work_and_changes_no_answer(tiny_tokenizer: Any) -> None:
    """What the trained model said is read in one pass; behind the first other token the form speaks for itself."""
    model, asked = make_model(), list[int]()
    generate = model.generate

    def counted(**given: Any) -> Any:
        asked.append(len(given["input_ids"]))
        return generate(**given)

    model.generate = counted
    prompts, tokens = ["USER: fever", "USER: 发烧三天了怎么办？", "a"], 12
    expected = read_folder.answer(model, tiny_tokenizer, prompts, tokens, [2])
    assert [len(one) for one in expected] == [tokens] * 3 and asked == [3]
    assert read_folder.answer(model, tiny_tokenizer, prompts, tokens, [2], expected) == expected and asked == [3]
    others = [[*expected[0][:5], 7, 7, 7], [9], [*expected[2][:4]]]
    assert read_folder.answer(model, tiny_tokenizer, prompts, tokens, [2], others) == expected and asked == [3, 3]
    end = expected[0][6]
    cut = read_folder.answer(model, tiny_tokenizer, prompts[:1], tokens, [end], expected[:1])
    assert cut == [expected[0][: expected[0].index(end) + 1]] and asked == [3, 3]


def made_up(folder: Path, logits: list[torch.Tensor], ids: tuple[tuple[int, ...], ...]) -> Trained:
    import numpy as np

    folder.mkdir()
    for number, one in enumerate(logits):
        np.save(folder / f"window-{number}.npy", one.numpy())
    return Trained(folder, (1,), "", (1,), (2,), (1,), (1, 2), ids, (), (), (), 9, "float32", "float32")


def test_the_figures_are_those_of_their_definitions(tmp_path: Path) -> None:
    """KL divergence, agreement and perplexity of made-up logits, by torch; columns for no token are left out."""
    torch.manual_seed(0)
    ids = ((1, 2), (3, 1, 4, 1, 5), (2, 7, 1))
    before = [torch.randn(len(one), 8) for one in ids]
    after = [one + 0.3 * torch.randn_like(one) for one in before]
    kept = made_up(tmp_path / "before", before, ids)
    made_up(tmp_path / "after", [torch.nn.functional.pad(one, (0, 2)) for one in after], ids)
    reading = {"reader": "none", "dtype": "float32", "text_ids": [1], "prompt_ids": [1], "ends": [2, 3],
               "greedy": [1, 3], "answers": []}  # fmt: skip
    row = compare(kept, reading, tmp_path / "after", form="f16", file="x")
    old, new = torch.cat(before[1:]).double(), torch.cat(after[1:]).double()
    divergence = torch.nn.functional.kl_div(new.log_softmax(-1), old.log_softmax(-1), log_target=True, reduction="none")
    assert row.kl_mean == pytest.approx(float(divergence.sum(-1).mean()))
    assert row.kl_median == pytest.approx(float(divergence.sum(-1).median()))
    assert row.kl_noticeable == int((divergence.sum(-1) > 0.01).sum())
    assert row.top1_agreement == pytest.approx(float((old.argmax(-1) == new.argmax(-1)).double().mean()))
    losses = [torch.nn.functional.cross_entropy(one[:-1], torch.tensor(window[1:]), reduction="none")
              for one, window in zip(after[1:], ids[1:], strict=True)]  # fmt: skip
    assert row.perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-5)
    assert perplexity(kept) != pytest.approx(row.perplexity) and row.tokens == 8
    largest = max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))
    assert row.max_logit_difference == pytest.approx(largest)
    assert row.ids_equal and row.end_tokens_equal and row.greedy_equal == 1 and row.safety is None


def test_logits_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    ids = ((1, 2), (3, 1, 4))
    kept = made_up(tmp_path / "before", [torch.zeros(len(one), 8) for one in ids], ids)
    made_up(tmp_path / "after", [torch.full((len(one), 8), torch.nan) for one in ids], ids)
    with pytest.raises(UserError, match=r"q4_0 \(m\.gguf\): its logits are not numbers"):
        compare(kept, {}, tmp_path / "after", form="q4_0", file="m.gguf")


def test_a_form_is_shown_with_its_number_type_its_limits_and_the_perplexity_before() -> None:
    """hf said "float32" for weights in bfloat16, whose logits differed by 0.37: that of the reader's arithmetic."""
    row = ParityRow("hf", "r", ".", "float32", True, True, 0.37, 32, 0.001, 0.9, 0.98, 14.5, 2000, weights="bfloat16")
    table = ParityTable((row,), {"hf": tolerance_of("hf", "bfloat16")}, 14.2)
    shown = str(table)
    assert "hf (bfloat16), read by r" in shown and "perplexity 14.5 (trained model 14.2)" in shown
    assert "limits: mean KL divergence 0.005, same next token for at least 95%, perplexity 1.02 times" in shown
    assert "8 significant bits (bfloat16)" in shown and "urgency" not in shown  # which was not measured
    assert "首选词元一致率不低于 95%" in table.limits(row, "zh")


def test_each_figure_past_its_limit_is_named() -> None:
    row = ParityRow("f16", "r", "m.gguf", "float32", True, True, 0.1, 32, 0.5, 0.9, 0.5, 20.0, 2000)
    found = past_tolerance(row, tolerance_of("f16", "float32"), 10.0)
    assert found == [
        "mean KL divergence is 0.5; allowed: 0.001",
        "perplexity as a multiple of the trained model's is 2; allowed: 1.005",
        "share of tokens with the same next token is 0.5; at least 0.98",
    ]
    assert past_tolerance(replace(row, ids_equal=False, kl_mean=0, perplexity=10.0, top1_agreement=1.0),
                          tolerance_of("f16", "float32"), 10.0) == [
        "its tokenizer gives other ids than the one of the training"
    ]  # fmt: skip


def test_a_mixture_of_experts_past_its_limit_says_how_many_tokens_are() -> None:
    """Of a random Qwen3-MoE in 16 bits a few tokens got other experts, and the mean alone looked like another model."""
    row = ParityRow("f16", "r", "m.gguf", "float32", True, True, 0.1, 32, 0.045, 0.9, 0.99, 10.0, 2000,
                    kl_median=1e-7, kl_noticeable=15)  # fmt: skip
    limits = tolerance_of("f16", "float32")
    (dense,), (mixture,) = (past_tolerance(row, limits, 10.0, experts=experts) for experts in (False, True))
    assert dense == "mean KL divergence is 0.045; allowed: 0.001"
    assert mixture.startswith(dense) and "15 of 2,000 by more than 0.01" in mixture
    assert past_tolerance(replace(row, kl_median=0.03), limits, 10.0, experts=True) == [dense]  # all differ
    assert past_tolerance(replace(row, kl_mean=1e-4), limits, 10.0, experts=True) == []


def test_every_tolerance_says_why() -> None:
    known = package_yaml("export/parity/tolerances.yaml")
    assert len(known) > 10 and all(one["reason"] for one in known.values())
    with pytest.raises(UserError, match=r"unknown written form 'q3_K'"):
        tolerance_of("q3_K", "float32")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "print('error loading model: no key a.b', file=sys.stderr); sys.exit('cannot load x')",
            "cannot load x: no key a.b",
        ),
        ("os.write(2, os.environ['GGML_NO_BACKTRACE'].encode()); os.abort()", r"its reader crashed \(1\)"),
    ],
    ids=["not loaded", "crashed"],
)
def test_why_llama_cpp_does_not_read_a_file_is_said(program: str, said: str, tmp_path: Path) -> None:
    """Of a crash the last line was gdb's, which llama.cpp starts, and of a file that it refuses it gave no reason."""
    (tmp_path / "reader.py").write_text(f"import os, sys\n{program}\n")
    with pytest.raises(UserError, match=f"^f16 cannot be read back: {said}$"):
        readers.read(str(tmp_path / "reader.py"), {}, tmp_path, what="f16")
