"""A program that is not ours: reads model folders with plain transformers (5 or 4.57) or peft.

    python stranger.py jobs.json answers.json

jobs.json is a list of {"name", "folder", "text", "ids", "messages"}, with "adapter" for an adapter on that base and
"conversations" for a reward model. It must not import this project.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

transformers.logging.set_verbosity_error()


def read(job):
    folder = job["folder"]
    tokenizer = AutoTokenizer.from_pretrained(job.get("adapter", folder))
    answer = {"class": type(tokenizer).__name__} | read_tokenizer(tokenizer, job)
    if "conversations" in job:
        return answer | read_scores(tokenizer, folder, job["conversations"])
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    if "adapter" in job:
        from peft import PeftModel

        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # as peft's own guide says
            model.resize_token_embeddings(len(tokenizer))
        model = PeftModel.from_pretrained(model, job["adapter"])  # type: ignore[assignment]
    model.eval()
    with torch.no_grad():
        answer["logits"] = model(input_ids=torch.tensor([job["ids"]])).logits[0, -1].tolist()
    answer["rows"] = model.get_input_embeddings().weight.shape[0]
    if "messages" in job:
        prompt = tokenizer.apply_chat_template(job["messages"], tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():  # with all that the tokenizer gives, as every tutorial has it
            made = model.generate(**inputs, max_new_tokens=6, do_sample=False)  # type: ignore[misc]
        answer |= {"prompt": prompt, "answer": made[0, inputs["input_ids"].shape[1] :].tolist()}
        answer["generation_eos"] = GenerationConfig.from_pretrained(folder).eos_token_id
    answer["config_eos"] = model.config.eos_token_id
    answer["dtype"] = str(AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto").dtype)
    return answer


def read_tokenizer(tokenizer, job):
    ids = tokenizer(job["text"], add_special_tokens=False)["input_ids"]
    return {
        "ids": ids,
        "with_special_tokens": tokenizer(job["text"])["input_ids"],
        "decoded": tokenizer.decode(ids),
        "plain": tokenizer.decode(ids, skip_special_tokens=True),
        "inputs": sorted(tokenizer("a")),
        "length": len(tokenizer),
        "eos": tokenizer.eos_token_id,
        "special": sorted(tokenizer.all_special_tokens),
    }


def read_scores(tokenizer, folder, conversations):
    model = AutoModelForSequenceClassification.from_pretrained(folder, torch_dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model(**batch).logits[:, 0].tolist()
    return {"scores": scores, "rows": model.get_input_embeddings().weight.shape[0]}


def main(jobs, answers):
    assert not importlib.util.find_spec("carellama")
    torch.set_num_threads(1)  # sums in the same order everywhere
    found = {}
    for job in json.loads(Path(jobs).read_text()):
        try:
            found[job["name"]] = read(job)
        except Exception as error:
            found[job["name"]] = {"error": f"{type(error).__name__}: {error}"}
    Path(answers).write_text(json.dumps({"version": transformers.__version__, "answers": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
