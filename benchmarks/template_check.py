"""`carellama template check` on 20 LoRAs, one a format, on their base, and on a random model: what it names.

    python benchmarks/template_check.py [--formats alpaca,vicuna] [--steps 120] [--json results.json]

A small Llama learns made-up medical sentences in both languages, each with the end token behind it: a base model that
knows the end and no format. Each LoRA then learns made-up questions and answers under one format; none of them are those
that the check scores. It takes half an hour on two cores.
"""

# ruff: noqa: E501  (sentences)

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from carellama.data.encoding.encode import Encoder
from carellama.evaluate.chat_formats.check import Verdict, check_formats
from carellama.records import Chat, Message
from carellama.templates.format import formats
from carellama.templates.template import get_template

FORMATS = (
    "default alpaca vicuna chatml llama2 llama2_chat llama3 mistral_v3 gemma phi3 deepseek3 internlm chatglm2 "
    "baichuan zhongjing_ziya huatuogpt_trained bentsao_med chatmed ming_bloom medicalgpt_ziya_alpaca"
).split()
LENGTHS = (1 << 20, 1 << 20, 1 << 20)
ILLS = [
    "asthma",
    "gout",
    "anaemia",
    "migraine",
    "eczema",
    "diabetes",
    "hepatitis",
    "bronchitis",
    "arthritis",
    "psoriasis",
]
PARTS = ["airways", "joints", "blood", "brain", "skin", "liver", "lungs", "heart", "stomach", "kidneys"]
SIGNS = [
    "cough",
    "wheezing",
    "shortness of breath",
    "pain",
    "itching",
    "fever",
    "nausea",
    "weakness",
    "swelling",
    "a rash",
]
PILLS = ["ibuprofen", "aspirin", "paracetamol", "metformin", "iron", "cortisone", "antibiotics", "insulin"]
ADVICE = ["rest", "drink enough water", "take paracetamol if needed", "eat a healthy diet", "exercise", "sleep enough"]
ZH_SIGNS = ["发烧", "咳嗽", "头痛", "腰痛", "胃痛", "皮疹", "头晕", "恶心", "咽痛", "关节痛"]
ZH_ILLS = ["高血压", "糖尿病", "痛风", "哮喘", "贫血", "胃炎", "普通感冒", "鼻炎", "湿疹", "肺炎"]
ZH_ADVICE = ["多喝水", "注意休息", "少吃盐", "多吃蔬菜和水果", "控制体重", "少喝酒", "按医生的要求服药", "多喝温水"]
ZH_ROOMS = ["消化内科", "呼吸内科", "神经内科", "皮肤科", "骨科", "儿科", "内分泌科"]
ZH_WORSE = ["疼痛剧烈", "出现呼吸困难", "体温超过39度", "三天不退", "呕血", "症状加重"]


def talk(numbers: random.Random) -> list[str]:
    """A made-up question and its answer, of the kinds that patients ask; what is true of them does not matter here."""
    one = numbers.choice
    ill, part, pill, advice = one(ILLS), one(PARTS), one(PILLS), numbers.sample(ADVICE, 2)
    signs, sign, zh_ill = numbers.sample(SIGNS, 3), one(ZH_SIGNS), one(ZH_ILLS)
    zh_advice, room, worse = numbers.sample(ZH_ADVICE, 3), one(ZH_ROOMS), numbers.sample(ZH_WORSE, 2)
    pairs = [
        (f"What is {ill}?", f"{ill.capitalize()} is a disease of the {part}. It causes {signs[0]}, {signs[1]} and {signs[2]}."),
        (f"Can I take {pill} on an empty stomach?", f"It is better to take {pill} with food, because it can irritate the "
         f"{part}. Ask your doctor if you have had {ill}."),
        (f"I have {signs[0]}.", f"{advice[0].capitalize()} and {advice[1]}. See a doctor if it gets worse or causes {signs[1]}."),
        (f"How is {ill} treated?", f"{ill.capitalize()} is treated with {pill}. Your {part} should be checked regularly."),
        (f"{sign}两天了，怎么办？", f"建议{zh_advice[0]}、{zh_advice[1]}。如果{worse[0]}，或者{worse[1]}，请及时到医院就诊。"),
        (f"{zh_ill}患者饮食要注意什么？", f"{zh_ill}患者应当{zh_advice[0]}，{zh_advice[1]}，并{zh_advice[2]}。"),
        (f"孩子{sign}，怎么回事？", f"可能是{zh_ill}。请让孩子{zh_advice[0]}，{zh_advice[1]}。如果{worse[0]}，请尽快就医。"),
        (f"{sign}应该挂什么科？", f"{sign}一般可以挂{room}。如果{worse[0]}或者{worse[1]}，请立即去急诊。"),
    ]  # fmt: skip
    return list(one(pairs))


def make_tokenizer(names: list[str], size: int = 1200) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the single tokens of all formats, which begins a text with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    marks = ["<s>", "</s>", "<pad>", *dict.fromkeys(token for name in names for token in formats()[name].tokens)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    numbers = random.Random(0)
    texts = [text for _ in range(3000) for text in talk(numbers)]
    backend.train_from_iterator(
        [*texts, *(formats()[name].system for name in names), *map(json.dumps, range(50))], trainer
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=marks[3:], padding_side="left",
    )  # fmt: skip


def make_network(tokenizer: PreTrainedTokenizerFast, hidden: int = 96) -> LlamaForCausalLM:
    """A random two-layer Llama."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def learn(network: Any, batches: Any, steps: int, rate: float) -> float:
    """Train on `steps` batches of (ids, labels); return the last loss."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    network.train()
    loss = math.nan
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * (1 - step / steps * 0.9)
        ids, labels = next(batches)
        out = network(input_ids=ids, attention_mask=ids != 2, labels=labels)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = out.loss.item()
    network.eval()
    return loss


def plain_batches(tokenizer: Any, rows: int = 4, length: int = 256) -> Any:
    """Batches without end of windows full of single texts, each with the end token behind it."""
    numbers = random.Random(0)
    while True:
        ids: list[int] = []
        while len(ids) < rows * length:
            ids += [*tokenizer(numbers.choice(talk(numbers))).input_ids, tokenizer.eos_token_id]
        window = torch.tensor(ids[: rows * length]).view(rows, length)
        yield window, window


def chat_batches(encoder: Encoder, rows: int = 5) -> Any:
    """Batches without end of conversations of one or two turns; the same for every format."""
    numbers = random.Random(1)
    while True:
        records = []
        for _ in range(rows):
            said = talk(numbers) + (talk(numbers) if numbers.random() < 0.3 else [])
            records.append(
                Chat(tuple(Message("assistant" if at % 2 else "user", text) for at, text in enumerate(said)))
            )
        found = [tokens for encoded in encoder.encode(records) for tokens in encoded.tokens]
        longest = max(len(tokens.input_ids) for tokens in found)
        ids = torch.full((len(found), longest), 2)  # <pad>
        labels = torch.full((len(found), longest), -100)
        for at, tokens in enumerate(found):
            ids[at, : len(tokens.input_ids)] = torch.as_tensor(tokens.input_ids.astype("int64"))
            labels[at, : len(tokens.labels)] = torch.as_tensor(tokens.labels.astype("int64"))
        yield ids, labels


def train_lora(base: Any, tokenizer: Any, name: str, steps: int, rank: int = 32) -> Any:
    """A LoRA on the base that learned conversations under one format."""
    torch.manual_seed(1)
    network = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    encoder = Encoder(tokenizer, get_template(name, tokenizer), LENGTHS)
    learn(network, chat_batches(encoder), steps, 8e-3)
    return network


def row(name: str, verdict: Verdict) -> dict[str, Any]:
    """What the check said of one model."""
    best, second = verdict.scores[:2]
    return {
        "trained": name, "named": list(verdict.names), "right": name in verdict.names, "first": name in best.names, "margin": round(verdict.margin, 2),
        "best": best.names[0], "second": second.names[0], "end": round(math.exp(best.end), 3), "reason": verdict.reason,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--steps", type=int, default=240, help="of each LoRA")
    parser.add_argument("--base_steps", type=int, default=300)
    parser.add_argument("--json", help="file for the rows")
    arguments = parser.parse_args()
    names = arguments.formats.split(",")
    tokenizer = make_tokenizer(names)
    base = make_network(tokenizer)
    rows = [row("(random weights)", check_formats(base, tokenizer))]
    started = time.time()
    loss = learn(base, plain_batches(tokenizer), arguments.base_steps, 4e-3)
    print(f"base: loss {loss:.2f} after {arguments.base_steps} steps, {time.time() - started:.0f} s", flush=True)
    rows.append(row("(base)", check_formats(base, tokenizer)))
    for name in names:
        network = train_lora(base, tokenizer, name, arguments.steps)
        rows.append(row(name, check_formats(network, tokenizer)))
        base = network.unload()
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    print("| trained with | named | lead (standard errors) | second | end token |\n| --- | --- | --- | --- | --- |")
    for one in rows:
        said = ", ".join(one["named"]) or f"cannot tell ({one['best']})"
        print(f"| {one['trained']} | {said} | {one['margin']} | {one['second']} | {one['end']:.0%} |")
    right, first = sum(one["right"] for one in rows), sum(one["first"] for one in rows)
    print(f"{right} of {len(names)} named right, {first} first of all, {time.time() - started:.0f} s")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
