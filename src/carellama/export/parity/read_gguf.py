"""A program by itself: what a .gguf gives in llama.cpp (the package xllamacpp). It imports nothing of ours.

    python read_gguf.py < job.json        # the folder `output` gets reading.json and the logits, window-0.npy, ...

job.json has `output`, `file`, `adapter` (a .gguf) with the `template` of its chats, `threads`, and what read_folder.py
takes. Ids and prompts come from llama.cpp's server, as chats get them; logits of given ids and answers to many prompts
at once from its C functions, by ctypes. Keys and values are kept in 32 bits, so that differences are those of the file.
"""

import ctypes
import http.client
import importlib.metadata
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy
import xllamacpp

PARALLEL = 10  # conversations that are answered at once
BATCH = 512
# llama_context_params (llama.h) as 32-bit words: where a field is, and the default by which the layout is recognised
N_CTX, N_BATCH, N_UBATCH, SEQUENCES, THREADS, FLASH, TYPE_K, TYPE_V = 0, 1, 2, 3, (7, 8), 13, 26, 27
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
        pointer, number, flag = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
        functions: tuple[tuple[Any, ...], ...] = (
            ("llama_model_default_params", Words),
            ("llama_context_default_params", Words),
            ("llama_model_load_from_file", pointer, ctypes.c_char_p, Words),
            ("llama_init_from_model", pointer, pointer, Words),
            ("llama_model_get_vocab", pointer, pointer),
            ("llama_vocab_n_tokens", number, pointer),
            ("llama_vocab_is_eog", flag, pointer, number),
            ("llama_get_memory", pointer, pointer),
            ("llama_memory_seq_rm", flag, pointer, number, number, number),
            ("llama_detokenize", number, pointer, pointer, number, ctypes.c_char_p, number, flag, flag),
            ("llama_batch_init", Batch, number, number, number),
            ("llama_decode", number, pointer, Batch),
            ("llama_get_logits", ctypes.POINTER(ctypes.c_float), pointer),
            ("llama_adapter_lora_init", pointer, pointer, ctypes.c_char_p),
            ("llama_set_adapters_lora", number, pointer, pointer, ctypes.c_size_t, pointer),
        )
        for name, gives, *takes in functions:
            function = getattr(lib, name)
            function.restype, function.argtypes = gives, takes
        self.model = lib.llama_model_load_from_file(job["file"].encode(), lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {Path(job['file']).name}")
        settings = lib.llama_context_default_params()
        known = {place: settings.words[place] for place in LAYOUT}
        if known != LAYOUT:
            raise SystemExit("this version of xllamacpp has another llama_context_params: install 2026.10.11549")
        room = -(-max(longest, job["context"]) // 256) * 256  # tokens of one conversation, as llama.cpp rounds them
        settings.words[N_CTX], settings.words[N_BATCH], settings.words[SEQUENCES] = room * PARALLEL, room, PARALLEL
        settings.words[N_UBATCH] = min(BATCH, room)
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
        self.batch = lib.llama_batch_init(room, 0, 1)

    def ends(self) -> list[int]:
        """The ids at which llama.cpp ends an answer."""
        return [token for token in range(self.rows) if self.lib.llama_vocab_is_eog(self.vocabulary, token)]

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> Any:
        """The logits (T, V) behind tokens: each has its id, position and conversation, and whether it is asked."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for at, (token, position, conversation, asked) in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = conversation, int(asked)
        if self.lib.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp cannot compute these tokens")
        found = self.lib.llama_get_logits(self.context)
        return numpy.ctypeslib.as_array(found, shape=(sum(one[-1] for one in tokens), self.rows)).copy()

    def read(self, ids: list[int], conversation: int = 0, asked: int = 0) -> Any:
        """The logits of a new text, from the token number `asked` on."""
        self.forget(conversation)
        return self.decode([(token, at, conversation, at >= asked) for at, token in enumerate(ids)])

    def forget(self, conversation: int, kept: int = 0) -> bool:
        """Take all of a conversation but its first tokens from the memory; say whether that was possible."""
        memory = self.lib.llama_get_memory(self.context)
        return bool(self.lib.llama_memory_seq_rm(memory, conversation, kept or -1, -1))

    def greedy(self, start: list[int], new_tokens: int) -> list[int]:
        """The likeliest tokens after `start`, also behind one that ends an answer."""
        (found,) = self.answers([start], [[]], new_tokens, ())
        return found

    def answers(self, prompts: list[list[int]], drafts: Any, new_tokens: int, ends: Any) -> list[list[int]]:
        """The ids of the greedy answers to prompts. A draft is read in one pass, and only what differs is generated."""
        found = []
        for first in range(0, len(prompts), PARALLEL):
            some = prompts[first : first + PARALLEL]
            said = [
                self._begin(number, ids, drafts[first + number], new_tokens, ends) for number, ids in enumerate(some)
            ]
            while going := [at for at, one in enumerate(said) if one[-1] not in ends and len(one) < new_tokens]:
                places = [(said[at][-1], len(some[at]) + len(said[at]) - 1, at, True) for at in going]
                for at, choice in zip(going, self.decode(places).argmax(-1).tolist(), strict=True):
                    said[at].append(choice)
            found += said
        return found

    def _begin(self, number: int, prompt: list[int], draft: list[int], new_tokens: int, ends: Any) -> list[int]:
        """What of a draft is the model's own answer, and its next choice; the memory has the tokens before that."""
        choices = self.read(prompt + draft, number, len(prompt) - 1).argmax(-1).tolist()
        own = own_tokens(draft, choices, new_tokens, ends)
        if not self.forget(number, len(prompt) + len(own) - 1):  # a recurrent network keeps no single tokens
            self.read(prompt + own[:-1], number, len(prompt) + len(own) - 2)
        return own

    def text(self, ids: list[int]) -> str:
        """The text of ids, without marks."""
        given, space = (ctypes.c_int32 * len(ids))(*ids), 64 * len(ids) + 64
        content = ctypes.create_string_buffer(space)
        size = self.lib.llama_detokenize(self.vocabulary, given, len(ids), content, space, False, False)  # noqa: FBT003
        return content.raw[: max(size, 0)].decode(errors="replace")


def own_tokens(draft: list[int], choices: list[int], new_tokens: int, ends: Any) -> list[int]:
    """As many tokens of a draft as a model would choose itself, and its own choice behind them."""
    found = []
    for choice, guess in zip(choices, [*draft, None], strict=True):
        found.append(choice)
        if choice != guess or choice in ends or len(found) == new_tokens:
            break
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
        parameters.n_parallel = 1
        parameters.n_ctx = job["context"]
        parameters.fit_params = False
        parameters.cache_ram_mib = 0
        parameters.warmup = False
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = job["threads"]
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if job.get("adapter"):
            parameters.chat_template = job["template"]  # the base has its own
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(job["adapter"], 1.0)]
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

    def prompt(self, messages: Any) -> str:
        """The text that a chat gives the model."""
        return str(self.ask("/apply-template", {"messages": messages})["prompt"])


def read(job: Any, folder: Path) -> dict[str, Any]:
    """Return what the file gives; its logits are written beside."""
    network = Network(job, max([len(job["start"]) + job["new_tokens"], *map(len, job["windows"])]))
    for number, ids in enumerate(job["windows"]):
        numpy.save(folder / f"window-{number}.npy", network.read(ids))
    greedy, ends = network.greedy(job["start"], job["new_tokens"]), network.ends()
    with tempfile.TemporaryDirectory() as place:  # a socket's path is short
        server = Server(job, place)
        rendered = server.prompt(job["prompt"])
        prompts = [server.tokenize(server.prompt(one), begin=True) for one in job["conversations"]]
        found = {"text_ids": server.tokenize(job["text"]), "prompt_ids": server.tokenize(rendered, begin=True)}
    answers = network.answers(prompts, job["drafts"], job["answer_tokens"], {*ends})
    version = importlib.metadata.version("xllamacpp")
    return found | {
        "reader": f"llama.cpp (xllamacpp {version})",
        "dtype": "float32",
        "rendered": rendered,
        "ends": ends,
        "greedy": greedy,
        "answers": [network.text([token for token in ids if token not in ends]) for ids in answers],
    }


def main() -> None:
    """Do the job that comes in, and leave at once: llama.cpp's threads are not waited for."""
    job = json.load(sys.stdin)
    output = Path(job["output"])
    (output / "reading.json").write_text(json.dumps(read(job, output)), encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main()
