"""A program by itself: what a model folder gives in transformers, peft or optimum-intel. It imports nothing of ours.

    python read_folder.py < job.json        # the folder `output` gets reading.json and the logits, window-0.npy, ...

job.json has `output`, `folder`; `adapter` (a folder that peft puts on it) or `reader` (openvino, auto-round); `dtype`;
`trust_remote_code`; `text`, `prompt` (messages), `windows` (lists of ids), `start` and `new_tokens` of a greedy
answer, `conversations` (messages) that are answered with `answer_tokens` and have `drafts` (ids of the trained model's
answers); or `scored` (conversations) of a reward model. The trained model is asked by the same functions, in its own
process.
"""

import inspect
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


def logits_of(model: Any, ids: Any, last: int = 0) -> torch.Tensor:
    """The logits (T, V) of a list of ids, in float32; `last`: of so many at the end alone, 0: of all."""
    given = torch.tensor([ids], device=getattr(model, "device", "cpu"))
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = "logits_to_keep" in inspect.signature(network.forward).parameters
    some = {"logits_to_keep": last} if last and known else {}
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=given, attention_mask=torch.ones_like(given), **some).logits[0]
    return found[-last:].float().cpu()


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


def own_tokens(draft: list[int], choices: list[int], new_tokens: int, ends: Any) -> list[int]:
    """What a model says itself: as many tokens of a draft as it would choose, and its own choice behind them.

    `choices` are its likeliest tokens at each place of the draft and behind it.
    """
    found = []
    for choice, guess in zip(choices, [*draft, None], strict=True):
        found.append(choice)
        if choice != guess or choice in ends or len(found) == new_tokens:
            break
    return found


def answer(
    model: Any, tokenizer: Any, prompts: list[str], new_tokens: int, ends: Any, drafts: Any = None
) -> list[list[int]]:
    """The ids of the greedy answers to rendered prompts.

    A draft is read in one pass, which tells how much of it the model says as well; it generates the rest, `BATCH` at a
    time, those of like length together.
    """
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    found = list[list[int]]([] for _ in rows)
    for at, draft in enumerate(drafts or ()):
        choices = logits_of(model, rows[at] + draft, len(draft) + 1).argmax(-1).tolist()
        found[at] = own_tokens(draft, choices, new_tokens, ends)
    order = [at for at, one in enumerate(found) if not one or (one[-1] not in ends and len(one) < new_tokens)]
    order.sort(key=lambda at: (new_tokens - len(found[at]), len(rows[at])))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), 0)
    for first in range(0, len(order), BATCH):
        some = order[first : first + BATCH]
        made = generate(model, [rows[at] + found[at] for at in some], new_tokens - min(len(found[at]) for at in some),
            list(ends), pad)  # fmt: skip
        for at, ids in zip(some, made, strict=True):
            ended = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
            found[at] = (found[at] + ids[:ended])[:new_tokens]
    return found


def generate(model: Any, rows: list[list[int]], new_tokens: int, ends: list[int], pad: int) -> list[list[int]]:
    """The likeliest tokens behind each row, in one batch."""
    width = max(map(len, rows))
    device = getattr(model, "device", "cpu")
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    made: Any = model.generate(input_ids=ids, attention_mask=mask, generation_config=plain(new_tokens, ends, pad))
    found: list[list[int]] = made[:, width:].tolist()
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
    said = answer(model, tokenizer, prompts, job["answer_tokens"], ends, job["drafts"])
    return {
        "reader": name,
        "dtype": job["dtype"],
        "text_ids": tokenizer(job["text"], add_special_tokens=False)["input_ids"],
        "rendered": rendered,
        "prompt_ids": tokenizer(rendered, add_special_tokens=False)["input_ids"],
        "ends": ends,
        "greedy": greedy(model, job["start"], job["new_tokens"]),
        "answers": tokenizer.batch_decode(said, skip_special_tokens=True) if said else [],
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
