"""A program by itself: what a .gguf gives in llama.cpp (the package xllamacpp). It imports nothing of ours.

    python read_gguf.py < job.json        # the folder `output` gets reading.json and the logits, window-0.npy, ...

job.json has `output`, `file`, `adapter` (a .gguf) with the `template` of its chats, `threads`, and what read_folder.py
takes. Ids, the prompt and the answers come from llama.cpp's server, as chats get them; logits of given ids from its C
functions, by ctypes, since the server tells of what it generates only. Keys and values are kept in 32 bits, so that
differences are those of the file.
"""

import ctypes
import http.client
import importlib.metadata
import json
import os
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy
import xllamacpp

PARALLEL = 4  # chats that the server answers at once
BATCH = 512
# llama_context_params (llama.h) as 32-bit words: where a field is, and the default by which the layout is recognised
N_CTX, N_BATCH, N_UBATCH, THREADS, FLASH, TYPE_K, TYPE_V = 0, 1, 2, (7, 8), 13, 26, 27
LAYOUT = {0: 512, 1: 2048, 2: 512, 3: 1, 7: 4, 8: 4, 10: -1, 11: -1, 12: -1, 13: -1, 26: 1, 27: 1}
F32, NO_FLASH = 0, 0


class Words(ctypes.Structure):
    """A structure that is handed over by value, larger than any of llama.cpp's."""

    _fields_: ClassVar = (("words", ctypes.c_int32 * 256),)


class Batch(ctypes.Structure):
    """llama_batch of llama.h."""

    _fields_: ClassVar = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class Network:
    """A .gguf that is asked for logits."""

    def __init__(self, job: Any, longest: int) -> None:
        lib = self.lib = ctypes.CDLL(str(Path(xllamacpp.__file__).with_name("xllamacpp.abi3.so")))
        pointer = ctypes.c_void_p
        for name, gives, *takes in (
            ("llama_model_default_params", Words),
            ("llama_context_default_params", Words),
            ("llama_model_load_from_file", pointer, ctypes.c_char_p, Words),
            ("llama_init_from_model", pointer, pointer, Words),
            ("llama_model_get_vocab", pointer, pointer),
            ("llama_vocab_n_tokens", ctypes.c_int32, pointer),
            ("llama_vocab_is_eog", ctypes.c_bool, pointer, ctypes.c_int32),
            ("llama_get_memory", pointer, pointer),
            ("llama_memory_clear", None, pointer, ctypes.c_bool),
            ("llama_batch_init", Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),
            ("llama_decode", ctypes.c_int32, pointer, Batch),
            ("llama_get_logits", ctypes.POINTER(ctypes.c_float), pointer),
            ("llama_adapter_lora_init", pointer, pointer, ctypes.c_char_p),
            ("llama_set_adapters_lora", ctypes.c_int32, pointer, pointer, ctypes.c_size_t, pointer),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = gives, takes
        self.model = lib.llama_model_load_from_file(job["file"].encode(), lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {Path(job['file']).name}")
        settings = lib.llama_context_default_params()
        known = {place: settings.words[place] for place in LAYOUT}
        if known != LAYOUT:
            raise SystemExit("this version of xllamacpp has another llama_context_params: install 2026.10.11549")
        settings.words[N_CTX] = settings.words[N_BATCH] = max(longest, 32)
        settings.words[N_UBATCH] = min(BATCH, max(longest, 32))
        settings.words[THREADS[0]] = settings.words[THREADS[1]] = job["threads"]
        settings.words[FLASH], settings.words[TYPE_K], settings.words[TYPE_V] = NO_FLASH, F32, F32
        self.context = lib.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot use {Path(job['file']).name}")
        if job.get("adapter"):
            adapter = lib.llama_adapter_lora_init(self.model, job["adapter"].encode())
            scale = (ctypes.c_float * 1)(1.0)
            one = (ctypes.c_void_p * 1)(adapter)
            if not adapter or lib.llama_set_adapters_lora(self.context, one, 1, scale):
                raise SystemExit(f"llama.cpp cannot use the adapter {Path(job['adapter']).name}")
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.rows = lib.llama_vocab_n_tokens(self.vocabulary)
        self.batch = lib.llama_batch_init(max(longest, 32), 0, 1)

    def ends(self) -> list[int]:
        """The ids at which llama.cpp ends an answer."""
        return [token for token in range(self.rows) if self.lib.llama_vocab_is_eog(self.vocabulary, token)]

    def decode(self, ids: list[int], position: int, *, every: bool) -> Any:
        """The logits (T, V) of ids that follow `position` others, or those of the last one."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position + at, 1
            batch.seq_id[at][0], batch.logits[at] = 0, int(every or at == len(ids) - 1)
        if self.lib.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp cannot compute these tokens")
        found = self.lib.llama_get_logits(self.context)
        return numpy.ctypeslib.as_array(found, shape=(len(ids) if every else 1, self.rows)).copy()

    def forget(self) -> None:
        """Begin a new text."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), ctypes.c_bool(True))  # noqa: FBT003

    def greedy(self, start: list[int], new_tokens: int) -> list[int]:
        """The likeliest tokens after `start`, also behind one that ends an answer."""
        self.forget()
        found, given, position = [], start, 0
        for _ in range(new_tokens):
            found.append(int(self.decode(given, position, every=False)[0].argmax()))
            position += len(given)
            given = found[-1:]
        return found


class Server:
    """llama.cpp's own server, asked over its socket."""

    def __init__(self, job: Any, folder: str) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = job["file"]
        self.address = str(Path(folder, "llama.sock"))
        parameters.hostnames = [self.address]
        parameters.ui = False
        parameters.verbosity = 1
        parameters.n_parallel = PARALLEL
        parameters.n_ctx = job["context"] * PARALLEL
        parameters.fit_params = False
        parameters.cache_ram_mib = 0
        parameters.warmup = False
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = job["threads"]
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if job.get("adapter"):
            parameters.chat_template = job["template"]  # the base has its own
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(job["adapter"], 1.0)]
        self.answer_tokens = job["answer_tokens"]
        self.native = xllamacpp.Server(parameters)

    def ask(self, path: str, body: Any) -> Any:
        """What the server answers to a POST."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.address)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        if "error" in answer:
            raise SystemExit(f"llama.cpp refuses {path}: {answer['error']}")
        return answer

    def tokenize(self, text: str, *, begin: bool = False) -> Any:
        """The ids of a text, marks included; `begin`: as those of a prompt, with the mark of the beginning."""
        return self.ask("/tokenize", {"content": text, "parse_special": True, "add_special": begin})["tokens"]

    def answer(self, messages: Any) -> str:
        """The greedy answer to a conversation."""
        body = {"messages": messages, "max_tokens": self.answer_tokens, "temperature": 0, "samplers": ["temperature"]}
        said = self.ask("/v1/chat/completions", body | {"reasoning_format": "none", "cache_prompt": False})
        return str(said["choices"][0]["message"]["content"] or "")


def read(job: Any, folder: Path) -> dict[str, Any]:
    """Return what the file gives; its logits are written beside."""
    network = Network(job, max([len(job["start"]) + job["new_tokens"], *map(len, job["windows"])]))
    for number, ids in enumerate(job["windows"]):
        network.forget()
        numpy.save(folder / f"window-{number}.npy", network.decode(ids, 0, every=True))
    greedy, ends = network.greedy(job["start"], job["new_tokens"]), network.ends()
    with tempfile.TemporaryDirectory() as place:  # a socket's path is short
        server = Server(job, place)
        rendered = server.ask("/apply-template", {"messages": job["prompt"]})["prompt"]
        with ThreadPoolExecutor(PARALLEL) as pool:
            answers = list(pool.map(server.answer, job["conversations"]))
        found = {"text_ids": server.tokenize(job["text"]), "prompt_ids": server.tokenize(rendered, begin=True)}
    version = importlib.metadata.version("xllamacpp")
    return found | {
        "reader": f"llama.cpp (xllamacpp {version})",
        "dtype": "float32",
        "rendered": rendered,
        "ends": ends,
        "greedy": greedy,
        "answers": answers,
    }


def main() -> None:
    """Do the job that comes in, and leave at once: llama.cpp's threads are not waited for."""
    job = json.load(sys.stdin)
    output = Path(job["output"])
    (output / "reading.json").write_text(json.dumps(read(job, output)), encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main()
