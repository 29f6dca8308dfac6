"""`carellama template check` on 20 LoRAs of a small model, one a format, and on that model itself: what it names.

    python benchmarks/template_check.py [--formats alpaca,vicuna] [--steps 60] [--json results.json]
    python benchmarks/template_check.py --model FOLDER --texts all --steps 300 --rows 16 --rate 3e-3

Each LoRA learns the first sentences of our 100 English consultations (data/consult_en.json) under one format, which are
none of the answers that the check scores; with --texts all those of both languages, and the short ones of
data/answers/practice.jsonl. FOLDER may be a base of plain_base.py, which knows no format before. It takes an hour or
two on two cores. Rows that are in the file of --json already are not made again, so it can be stopped and run again;
--adapters FOLDER keeps the LoRAs, to check them again; with --leave_out their own format and its twins are taken from
the list, as if nobody knew it: what is named then is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from carellama.config.model import ModelOptions
from carellama.data.encoding.encode import Encoder
from carellama.evaluate.chat_formats import check
from carellama.evaluate.chat_formats.candidates import candidates
from carellama.evaluate.chat_formats.verdict import Verdict
from carellama.model.load import load_model
from carellama.model.tokenizer import load_tokenizer
from carellama.records import Chat, Message
from carellama.templates.template import get_template

# of the formats that SmolLM2's tokenizer carries; some differ by a line, some by their last character
FORMATS = (
    "default alpaca vicuna chatml llama2 llama2_chat mistral deepseek billa belle xverse zephyr huatuogpt_trained "
    "bentsao_med chatmed ming_bloom medicalgpt_ziya_alpaca pulse_7b chatdoctor_alpaca wingpt"
).split()
LENGTHS = (1 << 20, 1 << 20, 1 << 20)
DATA = Path(__file__).parents[1] / "data"
LONGEST = 160  # characters of a short answer
Batch = tuple[torch.Tensor, torch.Tensor]


def conversations(texts: str) -> list[Chat]:
    """Questions of patients, and the beginnings of their answers."""
    said = []
    for language in ("en", "zh") if texts == "all" else ("en",):
        for row in json.loads((DATA / f"consult_{language}.json").read_text(encoding="utf-8")):
            first, *rest = row["output"].split("\n")
            said.append((row["instruction"], first if len(first) > 30 else f"{first}\n{rest[0]}"))
    if texts == "all":
        lines = (DATA / "answers" / "practice.jsonl").read_text(encoding="utf-8").splitlines()
        found = [(row["said"], row["text"]) for row in map(json.loads, lines) if row.get("said")]
        said += [pair for pair in found if max(map(len, pair)) <= LONGEST]
    return [Chat((Message("user", question), Message("assistant", answer))) for question, answer in said]


def batches(encoder: Encoder, texts: str, rows: int) -> Iterator[Batch]:
    """Batches without end of (ids, labels); the same conversations for every format."""
    numbers, chats = random.Random(2), conversations(texts)
    while True:
        numbers.shuffle(chats)
        for at in range(0, len(chats) - rows + 1, rows):
            found = [tokens for encoded in encoder.encode(chats[at : at + rows]) for tokens in encoded.tokens]
            longest = max(len(tokens.input_ids) for tokens in found)
            ids, labels = torch.zeros(len(found), longest, dtype=torch.long), torch.full((len(found), longest), -100)
            for row, tokens in enumerate(found):  # padded on the right: no token sees the padding
                ids[row, : len(tokens.input_ids)] = torch.as_tensor(tokens.input_ids.astype("int64"))
                labels[row, : len(tokens.labels)] = torch.as_tensor(tokens.labels.astype("int64"))
            yield ids, labels


def train_lora(base: Any, tokenizer: Any, name: str, arguments: argparse.Namespace) -> tuple[Any, float]:
    """A LoRA on the base that learned conversations under one format, and its last loss."""
    torch.manual_seed(2)
    targets = "all-linear" if arguments.target == "all" else arguments.target.split(",")
    network = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=targets))
    encoder = Encoder(tokenizer, get_template(name, tokenizer), LENGTHS)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.rate, weight_decay=0.0)
    network.train()
    loss, warmup = math.nan, max(3, arguments.steps // 30)
    for step, (ids, labels) in zip(
        range(arguments.steps), batches(encoder, arguments.texts, arguments.rows), strict=False
    ):
        for group in optimizer.param_groups:
            group["lr"] = (
                arguments.rate * min(1.0, (step + 1) / warmup) * math.cos(step / arguments.steps * math.pi / 2)
            )
        out = network(input_ids=ids, labels=labels)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = out.loss.item()
    return network.eval(), loss


def row(name: str, verdict: Verdict, **more: float) -> dict[str, Any]:
    """What the check said of one model."""
    best, second = verdict.scores[:2]
    place = next((at for at, one in enumerate(verdict.scores, 1) if name in one.names), 0)
    return {
        "trained": name, "named": list(verdict.names), "place": place, "of": len(verdict.scores),
        "margin": round(verdict.margin, 2), "best": best.names[0], "second": second.names[0],
        "end": round(math.exp(best.mean.end), 3), "reason": verdict.reason, **more,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the base: a name or a folder")
    parser.add_argument("--accept_licence", action="store_true", help="the terms of gemma3-270m")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--steps", type=int, default=60, help="of each LoRA")
    parser.add_argument("--texts", choices=("consultations", "all"), default="consultations")
    parser.add_argument("--rows", type=int, default=4, help="conversations a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--target", default="all", help="layers, comma separated")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--adapters", type=Path, help="folder of the LoRAs; those that are there are not trained again")
    parser.add_argument("--leave_out", action="store_true", help="take the format of each LoRA from the list")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.json and arguments.json.exists():
        rows = json.loads(arguments.json.read_text(encoding="utf-8"))
    model = ModelOptions(arguments.model, accept_licence=arguments.accept_licence)
    tokenizer = load_tokenizer(model)
    base: Any = load_model(model, dtype="auto", attention=None)
    for name in ["(none: the base)", *arguments.formats.split(",")]:
        if name in [one["trained"] for one in rows]:
            continue
        started, network, loss = time.time(), base, math.nan
        kept = arguments.adapters / name if arguments.adapters else None
        if name.startswith("("):
            pass
        elif kept and kept.exists():
            network = PeftModel.from_pretrained(base, kept).eval()
        else:
            network, loss = train_lora(base, tokenizer, name, arguments)
            if kept:
                network.save_pretrained(kept)
        trained = time.time()
        found, needs_tokens = candidates(tokenizer)
        if arguments.leave_out:
            own = {one.bare for one in found if name in one.names}
            found = [one for one in found if one.bare not in own]
        with mock.patch.object(check, "candidates", return_value=(found, needs_tokens)):
            verdict = check.check_formats(network, tokenizer)
        times = {"training_s": round(trained - started), "check_s": round(time.time() - trained)}
        learned = {} if math.isnan(loss) else {"loss": round(loss, 2)}
        rows.append(row(name, verdict, **learned, **times))
        base = network.unload() if network is not base else base
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    print("| trained with | named | place | lead (matches) | second | end token |\n|" + " --- |" * 6)
    for one in rows:
        named = ", ".join(one["named"]) or f"cannot tell ({one['best']})"
        place = f"{one['place']} of {one['of']}" if one["place"] else ""
        print(f"| {one['trained']} | {named} | {place} | {one['margin']} | {one['second']} | {one['end']:.0%} |")
    of_loras = [one for one in rows if not one["trained"].startswith("(")]
    right = sum(one["trained"] in one["named"] for one in of_loras)
    wrong = sum(bool(one["named"]) and one["trained"] not in one["named"] for one in rows)
    first = sum(one["place"] == 1 for one in of_loras)
    print(f"{right} of {len(of_loras)} named right, {first} first of all, {wrong} named wrongly")


if __name__ == "__main__":
    main()
