"""The stages that learn from judged answers: what they encode, their losses by the plain formulas, their effect."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions
from carellama.config.objectives import PreferenceOptions
from carellama.config.reader import to_flags
from carellama.config.run import RunOptions
from carellama.data.convert import BadRecord
from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.data.encoding.encode import Encoder
from carellama.data.encoding.preference import EARLIER, AnswerEncoder
from carellama.errors import UserError
from carellama.model import packed_attention as attention
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import ReferenceModel, apply_adapters
from carellama.model.load import load_model
from carellama.records import IGNORED, Chat, Message, Pair, Tokens
from carellama.templates.template import get_template
from carellama.train import run as runs
from carellama.train.chunked_loss import record_logps
from carellama.train.dpo import preference_loss
from carellama.train.kto import mismatched_pairs
from carellama.train.options import run_options
from carellama.train.reward_model import score_records
from carellama.train.session import Session
from conftest import make_model
from exporting import export

COMPLAINTS = ("My ear hurts", "I cough at night", "My knee is stiff", "I feel dizzy", "My eyes itch", "I sleep badly")
GOOD, BAD = "Please see a doctor.", "Ignore it, it is nothing."


def pairs_file(folder: Path, count: int = 48) -> Path:
    numbers = random.Random(1)
    rows = [
        {"instruction": f"{numbers.choice(COMPLAINTS)} since {number} days.", "input": "", "output": [GOOD, BAD]}
        for number in range(count)
    ]
    path = folder / "pairs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def config_of(folder: Path, model: Path, stage: str, data: Path, **options: object) -> RunOptions:
    given = {
        "model_name_or_path": model, "dataset": data, "stage": stage, "output_dir": folder / "out",
        "data_cache_dir": folder / "cache", "do_train": True, "learning_rate": 1e-2, "num_train_epochs": 4,
        "per_device_train_batch_size": 8, "logging_steps": 1, "lora_dropout": 0, "lora_target": "all",
        "bf16": False, "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    given |= options
    return run_options(to_flags(given))


def logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "out/trainer_log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture
def encoder(tiny_tokenizer):
    def make(lengths=(400, 100, 500)) -> AnswerEncoder:
        return AnswerEncoder(Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), lengths))

    return make


def conversation(turns: int) -> tuple[Message, ...]:
    spoken = [Message("system", "Be brief.")]
    for turn in range(turns - 1):
        spoken += [Message("user", f"Question {turn}?"), Message("assistant", f"Answer {turn}.")]
    return (*spoken, Message("user", "And now?"))


def test_both_answers_follow_the_same_prompt(encoder, tiny_tokenizer):
    (found,) = encoder().encode([Pair(conversation(3), GOOD, BAD)])
    chosen, rejected = found.tokens
    assert not found.notes and (chosen.good, rejected.good) == (True, False)
    for tokens, answer in ((chosen, GOOD), (rejected, BAD)):
        learned = tokens.input_ids[tokens.labels != IGNORED]
        assert tiny_tokenizer.decode(learned.tolist()) == answer + "<|im_end|>"
    start = int(np.argmax(chosen.labels != IGNORED))
    assert start == int(np.argmax(rejected.labels != IGNORED))
    assert np.array_equal(chosen.input_ids[:start], rejected.input_ids[:start])


def test_a_long_prompt_loses_its_earliest_turns(encoder, tiny_tokenizer):
    pair = Pair(conversation(6), GOOD, BAD)
    whole = len(encoder().encode([pair])[0].tokens[0])
    (found,) = encoder((400, 100, whole - 10)).encode([pair])
    text = tiny_tokenizer.decode(found.tokens[0].input_ids.tolist())
    assert [note.reason for note in found.notes] == [EARLIER]
    assert "Be brief." in text and "Question 0?" not in text and "Question 4?" in text and "And now?" in text
    assert max(map(len, found.tokens)) <= whole - 10


@pytest.mark.parametrize("whole", range(20, 90, 7))
def test_what_is_cut_is_counted_and_fits(encoder, whole):
    (found,) = encoder((30, 30, whole)).encode([Pair(conversation(2), GOOD * 2, BAD * 3)])
    assert found.notes
    assert all(len(tokens) <= whole for tokens in found.tokens)
    assert len(found.tokens) == (0 if found.notes[-1].kind == "skipped" else 2)


def test_answers_that_are_the_same_once_cut_are_skipped(encoder):
    (found,) = encoder((400, 5, 500)).encode([Pair(conversation(1), GOOD + " Now.", GOOD + " Soon.")])
    assert not found.tokens and "the same once" in found.notes[0].reason


def rows_of(encoder: AnswerEncoder, *pairs: Pair) -> list[list[Tokens]]:
    return [one.tokens for one in encoder.encode(list(pairs))]


SOME = (Pair(conversation(1), GOOD, BAD), Pair(conversation(3), BAD + BAD, GOOD), Pair(conversation(2), "Yes.", "No."))


def plain_logps(model, examples) -> list[float]:
    """Each record alone, by the whole softmax."""
    found = []
    for tokens in (tokens for example in examples for tokens in example):
        ids, labels = (torch.tensor(part.tolist())[None] for part in (tokens.input_ids, tokens.labels))
        logs = model(ids).logits[0, :-1].log_softmax(-1)
        learned = labels[0, 1:] != IGNORED
        found.append(float(logs[learned].gather(1, ids[0, 1:][learned][:, None]).sum()))
    return found


def test_a_record_is_learned_from_its_second_token_on():
    """The position at a border belongs to the record that begins there, as of plain texts it is learned from."""
    texts = [np.arange(3, 3 + length, dtype=np.int32) for length in (4, 2, 5)]
    examples = [[Tokens(ids, np.concatenate([[IGNORED], ids[1:]]).astype(np.int32))] for ids in texts]
    model = make_model(attn_implementation=attention.register())
    sums, lengths = record_logps(model, collate_row(examples), chunked=True)
    torch.testing.assert_close(sums, torch.tensor(plain_logps(model, examples)), rtol=1e-4, atol=1e-4)
    assert lengths.tolist() == [3, 1, 4]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("layout", ["row", "padded"])
def test_log_probabilities_are_those_of_each_record_alone(encoder, layout, chunked):
    examples = rows_of(encoder(), *SOME)
    model = make_model(attn_implementation=attention.register())
    batch = collate_row(examples) if layout == "row" else collate_padded(examples, 0)
    sums, lengths = record_logps(model, batch, chunked=chunked)
    torch.testing.assert_close(sums, torch.tensor(plain_logps(model, examples)), rtol=1e-4, atol=1e-4)
    assert lengths.tolist() == [int((tokens.labels != IGNORED).sum()) for pair in examples for tokens in pair]


def test_gradients_of_chunked_log_probabilities_are_those_of_the_whole_softmax(encoder):
    examples = rows_of(encoder(), *SOME)
    weights = torch.tensor([0.5, -1.0, 2.0, 0.1, 0.0, 3.0])
    grads = []
    for chunked in (True, False):
        model = make_model(attn_implementation=attention.register(), tie_word_embeddings=False)
        (record_logps(model, collate_row(examples), chunked=chunked)[0] * weights).sum().backward()
        grads.append({name: one.grad for name, one in model.named_parameters()})
    assert grads[0].keys() == grads[1].keys() != set()
    for name, one in grads[0].items():
        torch.testing.assert_close(one, grads[1][name], rtol=1e-3, atol=1e-5, msg=name)


def by_hand(own, other, lengths, how: PreferenceOptions) -> list[float]:
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    beta, found = how.pref_beta, []
    for at in range(0, len(own), 2):
        (c, r), (n, m) = own[at : at + 2], lengths[at : at + 2]
        if how.pref_loss == "simpo":
            loss = -math.log(sigma(beta * (c / n - r / m) - how.simpo_gamma))
        elif how.pref_loss == "orpo":
            odds = [math.log(math.exp(p) / (1 - math.exp(p))) for p in (c / n, r / m)]
            loss = -c / n - beta * math.log(sigma(odds[0] - odds[1]))
        else:
            d = (c - other[at]) - (r - other[at + 1])
            mean = (c - other[at]) / n - (r - other[at + 1]) / m
            e = how.dpo_label_smoothing
            loss = {
                "sigmoid": -(1 - e) * math.log(sigma(beta * d)) - e * math.log(sigma(-beta * d)),
                "hinge": max(0.0, 1 - beta * d),
                "ipo": (mean - 1 / (2 * beta)) ** 2,
            }[how.pref_loss]
        found.append(loss - how.pref_ftx * c / n)
    return found


@pytest.mark.parametrize(
    "how",
    [
        PreferenceOptions(),
        PreferenceOptions(dpo_label_smoothing=0.2),
        PreferenceOptions("ipo", pref_beta=0.5),
        PreferenceOptions("hinge", pref_ftx=0.3),
        PreferenceOptions("orpo"),
        PreferenceOptions("simpo", pref_beta=2.0),
    ],
    ids=lambda how: how.pref_loss + ("+" if how.dpo_label_smoothing else ""),
)
def test_losses_are_the_papers(how):
    own, other, lengths = [-9.0, -12.0, -30.0, -7.0], [-10.0, -11.0, -31.0, -9.0], [5.0, 6.0, 12.0, 3.0]
    losses, chosen, rejected = preference_loss(
        torch.tensor(own),
        None if how.pref_loss in ("orpo", "simpo") else torch.tensor(other),
        torch.tensor(lengths),
        how,
    )
    assert losses.tolist() == pytest.approx(by_hand(own, other, lengths, how), rel=1e-5)
    assert len(chosen) == len(rejected) == 2


def test_the_reference_is_the_model_without_its_new_adapter(encoder, tiny_folder):
    examples = rows_of(encoder(), *SOME)
    arguments = ModelOptions(str(tiny_folder))
    model = load_model(arguments, dtype="float32", attention=attention.register())
    before = plain_logps(model, examples)
    model = apply_adapters(model, plan_adapters(arguments, FinetuningOptions(stage="dpo")))  # type: ignore[assignment]
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.normal_()
    assert plain_logps(model, examples) != pytest.approx(before, rel=1e-4)
    with torch.no_grad(), ReferenceModel(model, sharded=False).use(model) as reference:
        assert plain_logps(reference, examples) == pytest.approx(before, rel=1e-6)
    assert plain_logps(model, examples) != pytest.approx(before, rel=1e-4)


def test_scores_in_a_row_are_those_of_transformers_alone(encoder, tiny_folder):
    arguments = ModelOptions(str(tiny_folder))
    model = load_model(arguments, dtype="float32", attention=attention.register(), kind="reward")
    model.config.pad_token_id = 0
    examples = rows_of(encoder(), *SOME)
    alone = [float(model(torch.tensor(tokens.input_ids.tolist())[None]).logits) for pair in examples for tokens in pair]
    for batch in (collate_row(examples), collate_padded(examples, 0)):
        torch.testing.assert_close(score_records(model, batch), torch.tensor(alone), rtol=1e-4, atol=1e-5)


def test_the_others_of_kto_are_prompts_with_the_answer_before(encoder):
    examples = [[tokens] for pair in rows_of(encoder(), *SOME) for tokens in pair]
    others = mismatched_pairs(examples, 512)
    assert len(examples) > 2
    for (own,), (other,), (before,) in zip(examples, others, [examples[-1], *examples[:-1]], strict=True):
        start = int(np.argmax(own.labels != IGNORED))
        assert np.array_equal(other.input_ids[:start], own.input_ids[:start])
        learned = other.input_ids[other.labels != IGNORED]
        assert np.array_equal(learned, before.input_ids[before.labels != IGNORED])


def test_the_others_of_kto_keep_to_the_positions_of_the_model(tmp_path, tiny_tokenizer):
    """Fault T6: a long prompt with a long answer of another record went past GPT-2's positions (IndexError)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from carellama.train.memory import estimate as fit

    torch.manual_seed(0)
    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    long, short = "x y z " * 6, "ok"
    rows = [
        {"messages": [{"role": "user", "content": long if n % 2 else short},
                      {"role": "assistant", "content": short if n % 2 else long}], "good": n % 4 < 2}
        for n in range(8)
    ]  # fmt: skip
    data = tmp_path / "judged.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {"per_device_train_batch_size": 4, "max_steps": 2, "val_size": 2, "do_eval": True}
    options = config_of(tmp_path, folder, "kto", data, **given)
    results = runs.run(options)
    assert math.isfinite(results["train_loss"]) and math.isfinite(results["eval_loss"])
    session = Session.open(options)
    assert session.prepared is not None
    batch, _ = fit.largest_batch(session.options, session.prepared, padded=True)
    assert max(batch.lengths) < max(batch.others) == 64, "plan counts the mismatched rows, within the positions"


def test_a_reward_model_learns_which_answer_is_better(tmp_path, tiny_folder):
    data = pairs_file(tmp_path)
    results = runs.run(config_of(tmp_path, tiny_folder, "rm", data, val_size=12, do_eval=True))
    assert results["eval_accuracy"] > 0.9 and results["eval_samples"] == 12
    assert logged(tmp_path, "loss")[0] == pytest.approx(math.log(2), abs=0.3)
    model = load_model(
        ModelOptions(str(tiny_folder), checkpoint_dir=str(tmp_path / "out")),
        dtype="float32", attention=None, kind="reward",
    )  # fmt: skip
    assert model.config.num_labels == 1


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "orpo", "simpo"])
def test_dpo_widens_the_margin(tmp_path, tiny_folder, loss):
    data = pairs_file(tmp_path)
    options = {"pref_loss": loss, "val_size": 12, "do_eval": True, "learning_rate": 3e-3}
    results = runs.run(config_of(tmp_path, tiny_folder, "dpo", data, **options))
    margins = logged(tmp_path, "rewards/margins")
    assert margins[-1] > margins[0] and results["eval_margin"] > margins[0]
    assert results["eval_accuracy"] > 0.9


def test_kto_raises_good_answers_over_bad_ones(tmp_path, tiny_folder):
    rows = [
        {"messages": [{"role": "user", "content": f"{COMPLAINTS[n % 6]} {n}"},
                      {"role": "assistant", "content": GOOD if n % 3 else BAD}], "good": bool(n % 3)}
        for n in range(48)
    ]  # fmt: skip
    data = tmp_path / "judged.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    results = runs.run(config_of(tmp_path, tiny_folder, "kto", data, val_size=12, do_eval=True, learning_rate=3e-3))
    assert results["eval_margin"] > 0.1 and results["eval_rewards_chosen"] > results["eval_rewards_rejected"]


@pytest.mark.parametrize("kind", ["lora", "full", "freeze"])
@pytest.mark.parametrize("stage", ["rm", "dpo", "kto"])
def test_what_is_trained_moves_and_nothing_else(tmp_path, tiny_folder, stage, kind, monkeypatch):
    seen = {}
    prepare_model = Session.make_trainer

    def make_trainer(self, model):
        seen["model"] = model
        seen["before"] = {name: (one.detach().clone(), one.requires_grad) for name, one in model.named_parameters()}
        return prepare_model(self, model)

    monkeypatch.setattr(Session, "make_trainer", make_trainer)
    options = {"finetuning_type": kind, "max_steps": 2, "num_layer_trainable": 1}
    runs.run(config_of(tmp_path, tiny_folder, stage, pairs_file(tmp_path), **options))
    after = dict(seen["model"].named_parameters())
    moved = {name: not torch.equal(after[name], before) for name, (before, _) in seen["before"].items()}
    assert moved == {name: learns for name, (_, learns) in seen["before"].items()}
    assert any(moved.values()) and (kind == "full" or not all(moved.values()))


def test_what_can_not_work_is_refused_before_anything_is_loaded(tmp_path, tiny_folder):
    with pytest.raises(UserError, match="--per_device_train_batch_size at least 2"):
        config_of(tmp_path, tiny_folder, "kto", pairs_file(tmp_path), per_device_train_batch_size=1)
    with pytest.raises(UserError, match="compares with the model it begins from"):
        config_of(tmp_path, tiny_folder, "dpo", pairs_file(tmp_path), resume_lora_training=True)


def test_a_reward_model_is_exported_for_transformers(tmp_path, tiny_folder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    runs.run(config_of(tmp_path, tiny_folder, "rm", pairs_file(tmp_path), max_steps=4))
    arguments = ModelOptions(str(tiny_folder), checkpoint_dir=str(tmp_path / "out"))
    (parity,) = export(arguments, None, tmp_path / "export").rows
    assert parity.top1_agreement is None and parity.max_logit_difference < 1e-4
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    scores = []
    for answer in (GOOD, BAD):
        turns = [{"role": "user", "content": COMPLAINTS[0]}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).strip()
        scores.append(float(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits))
    assert scores[0] > scores[1]
    with pytest.raises(UserError, match="is a reward model: it goes with --stage rm"):
        runs.run(
            config_of(
                tmp_path,
                tiny_folder,
                "dpo",
                pairs_file(tmp_path),
                checkpoint_dir=tmp_path / "export",
                output_dir=tmp_path / "other",
            )
        )


def test_judged_answers_reach_the_right_stage(tmp_path, tiny_folder):
    rows = [{"instruction": "Hello?", "input": "", "output": "Go away.", "good": False}]
    data = tmp_path / "bad.jsonl"
    data.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    with pytest.raises(BadRecord, match=r"bad\.jsonl:1: an answer that was found bad is not learned"):
        runs.run(config_of(tmp_path, tiny_folder, "sft", data))
    data.write_text(json.dumps({**rows[0], "good": None}) + "\n", encoding="utf-8")
    with pytest.raises(BadRecord, match="nobody judged"):
        runs.run(config_of(tmp_path, tiny_folder, "kto", data))
    with pytest.raises(BadRecord, match="--stage dpo takes preference pairs"):
        runs.run(config_of(tmp_path, tiny_folder, "dpo", data))


def test_judged_chats_are_records_that_keep_the_verdict(encoder):
    chat = Chat((*conversation(1), Message("assistant", BAD)), good=False)
    (found,) = encoder().encode([chat])
    assert [tokens.good for tokens in found.tokens] == [False]


def test_simpo_is_a_margin_of_means():
    own = torch.tensor([-4.0, -4.0])
    losses, *_ = preference_loss(own, None, torch.tensor([4.0, 2.0]), PreferenceOptions("simpo", pref_beta=1.0))
    assert float(losses) == pytest.approx(float(-F.logsigmoid(torch.tensor(-1.0 + 2.0 - 0.5))))
