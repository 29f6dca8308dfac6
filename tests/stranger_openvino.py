"""A program that is not ours: reads model folders with optimum-intel, and .gguf files with OpenVINO GenAI.

    python stranger_openvino.py jobs.json answers.json

jobs.json is a list of {"name", "folder", "text", "ids", "prompt", "tokens"}; with "file", a path, that .gguf continues
"ids" with "tokens" tokens. All sums are made in 32 bits.
"""

import importlib.util
import json
import logging
import sys
import warnings
from pathlib import Path

import numpy
import openvino
import openvino_genai
import torch
import transformers
from optimum.intel.openvino.modeling_decoder import OVModelForCausalLM
from transformers import AutoTokenizer

PRECISE = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}


def read_folder(job):
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    model = OVModelForCausalLM.from_pretrained(job["folder"], export=True, load_in_8bit=False, ov_config=PRECISE)
    ids, prompt = torch.tensor([job["ids"]]), torch.tensor([job["prompt"]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
    made = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=job["tokens"], do_sample=False
    )
    return {
        "ids": tokenizer(job["text"], add_special_tokens=False)["input_ids"],
        "with_special_tokens": tokenizer(job["text"])["input_ids"],
        "logits": logits.tolist(),
        "answer": made[0, prompt.shape[1] :].tolist(),
        "generation_eos": model.generation_config.eos_token_id,
    }


def read_gguf(job):
    scheduler = openvino_genai.SchedulerConfig()
    model = openvino_genai.ContinuousBatchingPipeline(job["file"], scheduler, "CPU", PRECISE)
    config = openvino_genai.GenerationConfig(max_new_tokens=job["tokens"], do_sample=False, apply_chat_template=False)
    config.ignore_eos, config.logprobs = True, 1
    (result,) = model.generate([openvino.Tensor(numpy.array([job["ids"]], dtype=numpy.int64))], [config])
    ids = model.get_tokenizer().encode(job["text"], add_special_tokens=False).input_ids.data[0].tolist()
    return {"ids": ids, "answer": list(result.m_generation_ids[0]), "score": result.m_scores[0]}


def main(jobs, answers):
    assert not importlib.util.find_spec("carellama")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = {}
    for job in json.loads(Path(jobs).read_text()):
        try:
            found[job["name"]] = (read_gguf if "file" in job else read_folder)(job)
        except Exception as error:
            found[job["name"]] = {"error": f"{type(error).__name__}: {error}"}
    Path(answers).write_text(json.dumps({"version": openvino.__version__, "answers": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
