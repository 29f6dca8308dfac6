"""A program by itself: what a model folder gives in transformers, peft or optimum-intel. It imports nothing of ours.

    python read_folder.py < job.json        # the folder `output` gets reading.json and the logits, window-0.npy, ...

job.json has `output`, `folder`; `adapter` (a folder that peft puts on it) or `reader` (openvino, auto-round); `dtype`;
`trust_remote_code`; `text`, `prompt` (messages), `windows` (lists of ids), `start` and `new_tokens` of a greedy
answer, `conversations` (messages) that are answered with `answer_tokens`; or `scored` (conversations) of a reward
model. The trained model is asked by the same functions, in its own process.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

BATCH = 25  # conversations that are answered together


def load(job: Any) -> Any:
    """Return the model, its tokenizer and the name of the program, all read as their guides say."""
    model: Any
    place, code = job["folder"], {"trust_remote_code": job["trust_remote_code"]}
    tokenizer = AutoTokenizer.from_pretrained(job.get("adapter") or place, **code)
    if job.get("reader") == "openvino":
        import openvino
        from optimum.intel.openvino.modeling_decoder import OVModelForCausalLM

        precise = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        model = OVModelForCausalLM.from_pretrained(place, ov_config=precise, **code)
        return model, tokenizer, f"OpenVINO {openvino.__version__.split('-')[0]}"
    family = AutoModelForSequenceClassification if "scored" in job else AutoModelForCausalLM
    if job.get("reader") == "auto-round":  # its own layers read GPTQ without a GPU
        code["quantization_config"] = transformers.AutoRoundConfig()
    model = family.from_pretrained(place, dtype=getattr(torch, job["stored"]), **code)
    name = f"transformers {transformers.__version__}"
    if job.get("adapter"):
        import peft

        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # as peft's own guide says
            model.resize_token_embeddings(len(tokenizer))
        model = peft.PeftModel.from_pretrained(model, job["adapter"])
        name += f", peft {peft.__version__}"
    # loaded in the precision it is stored in: some models compute their buffers in that one
    return model.eval().to(getattr(torch, job["dtype"])), tokenizer, name


def logits_of(model: Any, ids: Any) -> torch.Tensor:
    """The logits (T, V) of a list of ids, in float32."""
    given = torch.tensor([ids], device=getattr(model, "device", "cpu"))
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0].float().cpu()
    return found


def greedy(model: Any, start: list[int], new_tokens: int) -> list[int]:
    """The likeliest tokens after `start`, also behind one that ends an answer."""
    ids = torch.tensor([start], device=getattr(model, "device", "cpu"))
    made: Any = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=plain(new_tokens, None, 0)
    )
    found: list[int] = made[0, len(start) :].tolist()
    return found


def plain(new_tokens: int, ends: list[int] | None, pad: int) -> Any:
    """Settings of a greedy answer in which nothing else of the model's own settings counts."""
    return transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=pad, bos_token_id=None
    )


def answer(model: Any, tokenizer: Any, prompts: list[str], new_tokens: int, ends: Any) -> list[str]:
    """The greedy answers to rendered prompts, as text, `BATCH` at a time, those of like length together."""
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    order = sorted(range(len(encoded)), key=lambda at: len(encoded[at]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), 0)
    found = [""] * len(encoded)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        width = max(len(encoded[at]) for at in rows)
        ids = torch.tensor([[pad] * (width - len(encoded[at])) + encoded[at] for at in rows])
        mask = torch.tensor([[0] * (width - len(encoded[at])) + [1] * len(encoded[at]) for at in rows])
        device = getattr(model, "device", "cpu")
        made = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=plain(new_tokens, list(ends), pad),
        )
        for at, text in zip(rows, tokenizer.batch_decode(made[:, width:], skip_special_tokens=True), strict=True):
            found[at] = text
    return found


def scores(model: Any, tokenizer: Any, conversations: Any) -> dict[str, Any]:
    """The scores of a reward model, in one padded batch, and the ids of each conversation."""
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).logits[:, 0].float().tolist()
    return {"scores": found, "scored_ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]}


def ends_of(folder: str, model: Any) -> list[int]:
    """The ids that end an answer by the files of the folder."""
    try:
        ends = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        ends = model.config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def read(job: Any, folder: Path) -> dict[str, Any]:
    """Return what the model gives; its logits are written beside."""
    import numpy

    model, tokenizer, name = load(job)
    if "scored" in job:
        return {"reader": name, "dtype": job["dtype"]} | scores(model, tokenizer, job["scored"])
    rendered = tokenizer.apply_chat_template(job["prompt"], tokenize=False, add_generation_prompt=True)
    ends = ends_of(job.get("adapter") or job["folder"], model)
    for number, ids in enumerate(job["windows"]):
        numpy.save(folder / f"window-{number}.npy", logits_of(model, ids).numpy())
    prompts = [
        tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in job["conversations"]
    ]
    return {
        "reader": name,
        "dtype": job["dtype"],
        "text_ids": tokenizer(job["text"], add_special_tokens=False)["input_ids"],
        "rendered": rendered,
        "prompt_ids": tokenizer(rendered, add_special_tokens=False)["input_ids"],
        "ends": ends,
        "greedy": greedy(model, job["start"], job["new_tokens"]),
        "answers": answer(model, tokenizer, prompts, job["answer_tokens"], ends) if prompts else [],
    }


def main() -> None:
    """Do the job that comes in; an error is printed by Python, its reason in the last line."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    job = json.load(sys.stdin)
    output = Path(job["output"])
    (output / "reading.json").write_text(json.dumps(read(job, output)), encoding="utf-8")


if __name__ == "__main__":
    main()
