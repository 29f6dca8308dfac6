"""Adapters merged with weights, and LoRA from whole weights: sums by hand, exact recovery, one-line refusals."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from carellama.errors import UserError
from carellama.export.adapters import AdapterMerge, merge_weighted, parse_weights
from carellama.export.lora import extract_lora
from conftest import make_model


def experts():
    """A layer of a random Qwen3 with four experts."""
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=50, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, num_experts=4, num_experts_per_tok=2,
        )
    ).eval()  # fmt: skip


QUERY = "model.layers.0.self_attn.q_proj.weight"
GATE = "model.layers.1.mlp.gate_proj.weight"


def make_adapter(folder: Path, seed: int, rank: int, targets: list[str], **changes) -> dict[str, torch.Tensor]:
    """Save a random LoRA on the tiny model; return what it adds to each weight, in float64, computed by hand."""
    torch.manual_seed(seed)
    adapted = get_peft_model(make_model(), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, **changes))
    factors: dict[str, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_" in name:
                weight.normal_(std=0.1)
                layer, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
                factors.setdefault(layer, {})[rest[0]] = weight.double()
    adapted.save_pretrained(str(folder))
    return {f"{layer}.weight": 2 * pair["B"] @ pair["A"] for layer, pair in factors.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory):
    """Two adapters of other ranks and layers, and what each adds."""
    folder = tmp_path_factory.mktemp("adapters")
    first = make_adapter(folder / "first", 1, 4, ["q_proj", "v_proj"])
    second = make_adapter(folder / "second", 2, 8, ["q_proj", "gate_proj"])
    return [folder / "first", folder / "second"], [first, second]


def test_linear_is_the_weighted_sum_of_the_changes(two) -> None:
    folders, changes = two
    base = make_model().state_dict()
    merged = merge_weighted(make_model(), folders, AdapterMerge("linear", (0.7, 0.3))).state_dict()
    assert merged.keys() == base.keys()
    for name, before in base.items():
        added = sum(weight * one.get(name, 0) for weight, one in zip((0.7, 0.3), changes, strict=True))
        torch.testing.assert_close(merged[name].double(), before.double() + added, atol=1e-6, rtol=1e-6)
    assert not torch.equal(merged[QUERY], base[QUERY]) and not torch.equal(merged[GATE], base[GATE])


def test_ties_keeps_the_largest_numbers_and_the_stronger_sign(two) -> None:
    folders, changes = two
    merged = merge_weighted(make_model(), folders, AdapterMerge("ties", (0.7, 0.3), density=0.4)).state_dict()
    parts = []
    for change in changes:  # by the paper, number by number; the weights count after the sign is chosen
        flat = change[QUERY].flatten()
        kept = torch.zeros_like(flat)
        places = flat.abs().topk(int(0.4 * flat.numel())).indices
        kept[places] = flat[places]
        parts.append(kept)
    sign = torch.where(parts[0] + parts[1] >= 0, 1.0, -1.0)
    agree = [
        torch.where(part * sign > 0, weight * part, torch.zeros_like(part))
        for weight, part in zip((0.7, 0.3), parts, strict=True)
    ]
    count = sum((one != 0).double() for one in agree).clamp(min=1)
    expected = make_model().state_dict()[QUERY].double() + ((agree[0] + agree[1]) / count).reshape(64, 64)
    torch.testing.assert_close(merged[QUERY].double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
def test_what_is_dropped_at_random_is_the_same_each_time(two, kind) -> None:
    folders, _ = two
    first, again, other = (
        merge_weighted(make_model(), folders, AdapterMerge(kind, (0.7, 0.3), 0.5, seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[QUERY], other[QUERY])
    share = (first[QUERY] == make_model().state_dict()[QUERY]).float().mean()
    assert 0.15 < share < 0.35  # a quarter: what both dropped


def test_equal_shares_without_weights_and_a_line_for_the_card(two) -> None:
    folders, _ = two
    equal, stated = AdapterMerge("linear"), AdapterMerge("linear", (0.5, 0.5))
    left, right = (merge_weighted(make_model(), folders, one).state_dict() for one in (equal, stated))
    assert all(torch.equal(left[name], right[name]) for name in left)
    line = AdapterMerge("ties", (0.7, 0.3), 0.4).described(folders)
    assert str(line) == "adapters merged by ties: first × 0.7, second × 0.3; density 0.4"
    drawn = AdapterMerge("dare_ties", (0.7, 0.3), 0.4, 7).described(folders)
    assert drawn.text("zh") == "适配器按 dare_ties 方法合并：first × 0.7, second × 0.3；保留比例 0.4；随机数种子 7"


@pytest.mark.parametrize("kind", ["linear", "ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("copies", [2, 3])
def test_an_adapter_merged_with_itself_is_that_adapter(kind, copies, two) -> None:
    """ties took the mean of changes that had been divided by their number: half of the adapter, or a third."""
    (folder, _), _ = two
    alone = merge_weighted(make_model(), [folder, folder], AdapterMerge("linear")).state_dict()
    merged = merge_weighted(make_model(), [folder] * copies, AdapterMerge(kind, density=1.0)).state_dict()
    torch.testing.assert_close(merged[QUERY], alone[QUERY])
    assert (merged[QUERY] - make_model().state_dict()[QUERY]).abs().max() > 0.01


def test_experts_are_merged_as_well(tmp_path: Path) -> None:
    """A LoRA on the matrices of experts (target_parameters) was a traceback."""
    base = experts()
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        )
        adapted = get_peft_model(experts(), config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(str(tmp_path / name))
    before = base.state_dict()
    both = [
        PeftModel.from_pretrained(experts(), tmp_path / name).merge_and_unload().state_dict()
        for name in ("first", "second")
    ]
    folders = [tmp_path / "first", tmp_path / "second"]
    merged = merge_weighted(base, folders, AdapterMerge("linear", (0.7, 0.3))).state_dict()
    changed = [name for name in before if not torch.equal(both[0][name], experts().state_dict()[name])]
    assert len(changed) == 2
    for name in changed:
        torch.testing.assert_close(merged[name], 0.7 * both[0][name] + 0.3 * both[1][name])


@pytest.mark.parametrize(
    ("weights", "count", "says"),
    [((0.7,), 2, "has 1 numbers for 2 adapters"), ((), 1, "combines several adapters, and --checkpoint_dir names 1")],
    ids=["too few weights", "one adapter"],
)
def test_weights_that_do_not_fit_are_refused(two, weights, count, says) -> None:
    with pytest.raises(UserError, match=says):
        merge_weighted(make_model(), two[0][:count], AdapterMerge("linear", weights))


def test_numbers_of_weights_are_read() -> None:
    assert parse_weights("0.7, 0.3") == (0.7, 0.3) and parse_weights(None) == ()
    for bad in ("0.7,much", "nan,1", "1,,2", ",1"):
        with pytest.raises(UserError, match="is no number; give numbers like"):
            parse_weights(bad)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"use_dora": True}, "is a DoRA"), ({"modules_to_save": ["lm_head"]}, "has whole modules"),
     ({"peft_type": "LOHA"}, "is of kind loha"), ({"lora_bias": True}, "has trained biases"),
     ({"init_lora_weights": "pissa_niter_4"}, "began with pissa_niter_4"),
     ({"init_lora_weights": "OLoRA"}, "began with OLoRA"), ({"layer_replication": [[0, 2], [1, 2]]}, "repeats layers"),
     ({"alora_invocation_tokens": [7, 8]}, "is an activated LoRA")],
    ids=["dora", "modules", "loha", "bias", "pissa", "olora", "layers", "alora"],
)  # fmt: skip
def test_an_adapter_that_is_more_than_a_sum_is_refused(two, tmp_path, changes, says) -> None:
    other = tmp_path / "other"
    shutil.copytree(two[0][1], other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=says):
        merge_weighted(make_model(), [two[0][0], other], AdapterMerge("linear"))


# -- a LoRA from whole weights


def save_and_read(found, tmp_path: Path, tokenizer) -> torch.nn.Module:
    with warnings.catch_warnings():  # peft's, with paths of this machine: it asked the hub about the base
        warnings.simplefilter("error", UserWarning)
        found.save(tmp_path / "lora", make_model(), tokenizer, "acme/tiny")
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] == "acme/tiny"
    return PeftModel.from_pretrained(make_model(), tmp_path / "lora").merge_and_unload()


def test_a_difference_of_lower_rank_is_recovered_exactly(two, tiny_tokenizer, tmp_path) -> None:
    folders, _ = two
    tuned = merge_weighted(make_model(), folders, AdapterMerge("linear", (1.0, 1.0)))  # ranks 4 + 8 in q_proj
    found = extract_lora(tuned, make_model(), 12)
    assert found.kept > 1 - 1e-9 and found.worst is not None and found.worst[1] > 1 - 1e-6 and not found.whole
    read = save_and_read(found, tmp_path, tiny_tokenizer).state_dict()
    for name, weight in tuned.state_dict().items():
        torch.testing.assert_close(read[name], weight, atol=1e-5, rtol=1e-5)
    targets = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["target_modules"]
    assert sorted(targets) == ["gate_proj", "q_proj", "v_proj"]


def test_the_share_that_a_rank_keeps_is_that_of_the_singular_values(two) -> None:
    folders, changes = two
    tuned = merge_weighted(make_model(), folders[:2], AdapterMerge("linear", (1.0, 0.0)))
    found = extract_lora(tuned, make_model(), 2)
    values = [torch.linalg.svdvals(change).square() for change in changes[0].values()]
    expected = float(sum(one[:2].sum() for one in values) / sum(one.sum() for one in values))
    assert found.kept == pytest.approx(expected, abs=1e-4) and found.by_rank[2] == found.kept
    assert 0 < found.by_rank[1] < found.kept < 1 and f"rank 2 keeps {found.kept:.2%}" in str(found.note)


def test_what_is_no_matrix_goes_into_the_adapter_whole_and_is_named(tiny_tokenizer, tmp_path) -> None:
    tuned = copy.deepcopy(make_model())
    with torch.no_grad():
        tuned.model.norm.weight.add_(0.5)
        tuned.model.embed_tokens.weight[3].add_(0.1)
        tuned.get_parameter(QUERY).add_(torch.outer(torch.ones(64), torch.ones(64)) * 0.01)
    found = extract_lora(tuned, make_model(), 4)
    assert found.whole == ("model.embed_tokens", "model.norm") and "model.norm" in str(found.note)
    read = save_and_read(found, tmp_path, tiny_tokenizer).state_dict()
    for name, weight in tuned.state_dict().items():
        torch.testing.assert_close(read[name], weight, atol=1e-5, rtol=1e-5)


def test_what_no_adapter_holds_is_refused() -> None:
    base = make_model(attention_bias=True)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.layers[0].self_attn.q_proj.bias.add_(1)
    with pytest.raises(UserError, match=r"q_proj\.bias has changed, and a LoRA has no biases"):
        extract_lora(tuned, base, 4)
    tied = make_model(tie_word_embeddings=True)
    tuned = copy.deepcopy(tied)
    with torch.no_grad():
        tuned.model.embed_tokens.weight.add_(1)
    with pytest.raises(UserError, match="the embedding has changed, and it is the output head as well"):
        extract_lora(tuned, tied, 4)
    with pytest.raises(UserError, match=r"--lora_base is another model: .* has the shape"):
        extract_lora(make_model(vocabulary=410), make_model(), 4)
    with pytest.raises(UserError, match="--lora_base is of another architecture"):
        extract_lora(make_model(num_hidden_layers=3), make_model(), 4)
