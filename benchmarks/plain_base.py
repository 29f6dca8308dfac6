"""Make a small base model that knows no chat format, as those were that the projects of 2023 trained on.

    python benchmarks/plain_base.py FOLDER [--steps 2000]

A Llama of 2.5 million weights, with a tokenizer that carries the tokens of every format, is pretrained on our own texts
(docs/, the bundled consultations and pretraining texts). It takes about a quarter of an hour on two cores. LoRAs of it
show `carellama template check` a training alone: a model that chats already knows many formats before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from carellama.files import print_status
from carellama.templates.format import formats

REPOSITORY = Path(__file__).resolve().parent.parent
WORDS = 4000  # of the vocabulary
ROWS, TOKENS = 16, 128  # of a step
WARMUP, RATE, LEAST_SHARE = 50, 2e-3, 0.1


def texts() -> Iterator[str]:
    """Texts in both languages, without any chat format."""
    for language in ("en", "zh"):
        for row in json.loads((REPOSITORY / f"data/consult_{language}.json").read_text(encoding="utf-8")):
            yield f"{row['instruction']}\n{row['output']}"
        yield from (REPOSITORY / f"data/pretrain_{language}.txt").read_text(encoding="utf-8").split("\n\n")
        for file in sorted((REPOSITORY / "docs" / language).glob("*.md")):
            yield file.read_text(encoding="utf-8")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of these texts with the tokens of all formats."""
    special = dict.fromkeys(
        ["<pad>", "<s>", "</s>", *sorted({one for form in formats().values() for one in form.tokens})]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def pretrain(tokenizer: PreTrainedTokenizerFast, steps: int) -> LlamaForCausalLM:
    """A Llama of hidden size 192 and four layers, trained on random windows of the texts."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    network = LlamaForCausalLM(config).train()
    ids = torch.tensor(
        [number for text in texts() for number in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    )
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - (1 - LEAST_SHARE) * step / steps)
        batch = torch.stack([ids[at : at + TOKENS] for at in torch.randint(len(ids) - TOKENS, (ROWS,)).tolist()])
        loss = network(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print_status(f"step {step + 1} of {steps}: loss {loss.item():.2f}, {time.monotonic() - started:.0f} s")
    return network.eval()


def main() -> None:
    """Write the model and its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    tokenizer = make_tokenizer()
    network = pretrain(tokenizer, given.steps)
    tokenizer.save_pretrained(given.folder)
    network.save_pretrained(given.folder)


if __name__ == "__main__":
    main()
