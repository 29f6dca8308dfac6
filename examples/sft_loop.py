"""Supervised fine-tuning as one readable script: what `carellama train --stage sft --finetuning_type full` computes.

    python examples/sft_loop.py MODEL_FOLDER data/consult_en.json --steps 3 --batch_size 2 --accumulate 2

Use it to see what is learned, or as a start for a loop of your own. It needs torch and transformers, and nothing of
CareLlama. A test holds its losses equal to those that `carellama train` logs, to 1e-5.

What it leaves out: packing, LoRA, quantisation, mixed precision, several processes, cutting long records, checkpoints,
shuffling (it takes the records in the order of the file).

The loss of a step is the mean over all answer tokens of the step, however they fall into batches:

    loss = - 1/N sum_t log p(y_t | y_<t)    over the N answer tokens, end tokens included
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100  # the label of a position that bears no loss


def conversation(row: dict) -> list[dict]:
    """Return the messages of an alpaca row: history, question, answer."""
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for question, answer in row.get("history") or []:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def encode(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    r"""Return (ids, labels) of a conversation; only answers and the tokens that end them have labels.

        text    <|im_start|>user\nI cough.<|im_end|>\n<|im_start|>assistant\n Rest.<|im_end|> \n<|im_start|>user ...
        labels  -100 ................................................. ids of Rest.<|im_end|>  -100 ...

    Prompts and answers are tokenised one by one, so that a prompt has the ids that it has when the model is asked.
    """

    def render(part: list[dict], *, start: bool) -> str:
        return tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=start)

    ids, labels, done = [], [], 0  # `done`: characters of the conversation that are tokenised
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:at], start=True)
        answer = render(messages[: at + 1], start=False).rstrip()  # what follows the end token is not learned
        assert answer.startswith(prompt), "the chat template writes answers in another way than it asks for them"
        for text, learned in ((prompt[done:], False), (answer[len(prompt) :], True)):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += tokens
            labels += tokens if learned else [IGNORED] * len(tokens)
        done = len(answer)
    return ids, labels


def collate(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Fill up to the longest on the right: (B, T) ids, labels and mask."""
    longest = max(len(ids) for ids, _ in examples)
    fill = [longest - len(ids) for ids, _ in examples]
    return {
        "input_ids": torch.tensor([ids + [0] * n for (ids, _), n in zip(examples, fill, strict=True)]),
        "labels": torch.tensor([labels + [IGNORED] * n for (_, labels), n in zip(examples, fill, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * n for (ids, _), n in zip(examples, fill, strict=True)]),
    }


def loss_sum(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of the losses of all positions that have a label."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # (B, T, V)
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),  # position t predicts token t + 1
        batch["labels"][:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


def main(words: list[str] | None = None) -> list[float]:
    """Train, print the loss of each step, and return them."""
    parser = argparse.ArgumentParser(description="supervised fine-tuning, all weights, one process")
    parser.add_argument("model", help="folder or hub id of the base, with a chat template")
    parser.add_argument("data", type=Path, help="JSON file of alpaca rows")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=4, help="records of a batch")
    parser.add_argument("--accumulate", type=int, default=1, help="batches of a step")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--output_dir", type=Path, help="where the trained model goes; default: nowhere")
    args = parser.parse_args(words)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device).train()
    examples = [encode(tokenizer, conversation(row)) for row in json.loads(args.data.read_text(encoding="utf-8"))]

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / args.steps)  # linear, to 0
    losses, at = [], 0
    for step in range(args.steps):
        batches = []
        for _ in range(args.accumulate):
            chosen = [examples[(at + n) % len(examples)] for n in range(args.batch_size)]
            batches.append({name: one.to(device) for name, one in collate(chosen).items()})
            at += args.batch_size
        count = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)  # N, of the whole step
        total = 0.0
        for batch in batches:
            loss = loss_sum(model, batch) / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(total)
        print(f"step {step + 1}: loss {total:.6f}, {count} answer tokens", flush=True)
    if args.output_dir:
        model.save_pretrained(args.output_dir)
        tokenizer.save_pretrained(args.output_dir)
    return losses


if __name__ == "__main__":
    main()
