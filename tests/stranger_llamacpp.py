"""A program that is not ours: reads .gguf files with llama.cpp (the package xllamacpp) and nothing else.

    python stranger_llamacpp.py jobs.json answers.json

jobs.json is a list of {"name", "file", "text", "ids", "prompt", "tokens"}: "prompt" are token ids to answer, greedily,
with "tokens" tokens. All sums are made in 32 bits, the cache of keys and values included.
"""

import http.client
import importlib.metadata
import importlib.util
import json
import socket
import sys
import tempfile
from pathlib import Path

import xllamacpp

LIKELIEST = 200  # tokens whose log-probabilities are told


def start(file, address):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.hostnames = [address]
    parameters.ui = False
    parameters.verbosity = 1
    parameters.n_parallel = 1
    parameters.n_ctx = 256
    parameters.fit_params = False
    parameters.n_gpu_layers = 0
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(parameters)


def ask(address, method, path, body=None):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(address)
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def read(job):
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder, "llama.sock"))
        server = start(job["file"], address)
        marked = {"content": job["text"], "parse_special": True}
        answer = {
            "ids": ask(address, "POST", "/tokenize", marked | {"add_special": False})["tokens"],
            "with_special_tokens": ask(address, "POST", "/tokenize", marked | {"add_special": True})["tokens"],
            "template": ask(address, "GET", "/props")["chat_template"],
        }
        answer["decoded"] = ask(address, "POST", "/detokenize", {"tokens": answer["ids"]})["content"]
        greedy = {"temperature": 0, "samplers": ["temperature"], "return_tokens": True, "cache_prompt": False}
        body = greedy | {"prompt": job["ids"], "n_predict": 1, "n_probs": LIKELIEST}
        (first,) = ask(address, "POST", "/completion", body)["completion_probabilities"]
        answer["logprobs"] = {token["id"]: token["logprob"] for token in first["top_logprobs"]}
        body = greedy | {"prompt": job["prompt"], "n_predict": job["tokens"]}
        answer["answer"] = ask(address, "POST", "/completion", body)["tokens"]
        answer["rows"] = ask(address, "GET", "/v1/models")["data"][0]["meta"]["n_vocab"]
        del server
    return answer


def main(jobs, answers):
    assert not importlib.util.find_spec("carellama") and not importlib.util.find_spec("torch")
    found = {}
    for job in json.loads(Path(jobs).read_text()):
        try:
            found[job["name"]] = read(job)
        except Exception as error:
            found[job["name"]] = {"error": f"{type(error).__name__}: {error}"}
    version = importlib.metadata.version("xllamacpp")
    Path(answers).write_text(json.dumps({"version": version, "answers": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
