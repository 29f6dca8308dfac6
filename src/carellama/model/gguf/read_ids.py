"""A program by itself: the ids that llama.cpp gives to texts, by pre-tokenizer. It imports nothing of ours.

    python read_ids.py < job.json > ids.json

job.json has `file` (a .gguf of a vocabulary alone), `names` (values of tokenizer.ggml.pre) and `texts`. The answer has
for each name the ids of each text, the mark of the beginning left out, and whether a prompt gets that mark; null for a
name that this llama.cpp does not know. The library is xllamacpp's, by ctypes; the name takes the place of the file's
own as a llama_model_kv_override (llama.h).
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import xllamacpp

# llama_model_params (llama.h) as 64-bit words: where a field is, and the default by which the layout is recognised
OVERRIDES, FLAGS = 8, 9
LAYOUT = {0: 0, 1: 0, 2: 0x1_FFFF_FFFF, 3: 0x1_FFFF_FFFF, 5: 0, 6: 0, 7: 0, OVERRIDES: 0}
FLAG_BYTES = [0, 0, 1, 0, 0, 0]  # the first: the vocabulary alone
STRING = 3  # LLAMA_KV_OVERRIDE_TYPE_STR
KEY = b"tokenizer.ggml.pre"


class Words(ctypes.Structure):
    """A structure that is handed over by value, larger than any of llama.cpp's."""

    _fields_: ClassVar = (("words", ctypes.c_int64 * 128),)


class Override(ctypes.Structure):
    """llama_model_kv_override of llama.h, its value a text."""

    _fields_: ClassVar = (
        ("tag", ctypes.c_int32),
        ("key", ctypes.c_char * 128),
        ("padding", ctypes.c_int32),
        ("value", ctypes.c_char * 128),
    )


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SILENT = LOG(lambda level, text, data: None)


def load_library() -> ctypes.CDLL:
    """xllamacpp's library with the types of its functions."""
    lib = ctypes.CDLL(str(Path(xllamacpp.__file__).with_name("xllamacpp.abi3.so")))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    for name, gives, *takes in (
        ("llama_log_set", None, LOG, pointer),
        ("llama_model_default_params", Words),
        ("llama_model_load_from_file", pointer, ctypes.c_char_p, Words),
        ("llama_model_free", None, pointer),
        ("llama_model_get_vocab", pointer, pointer),
        ("llama_vocab_get_add_bos", ctypes.c_bool, pointer),
        ("llama_tokenize", integer, pointer, ctypes.c_char_p, integer, pointer, integer, ctypes.c_bool, ctypes.c_bool),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = gives, takes
    return lib


def read(lib: ctypes.CDLL, file: str, name: str, texts: list[str]) -> Any:
    """The ids of the texts with one pre-tokenizer, and whether prompts begin with a mark; None: it is not known."""
    settings = lib.llama_model_default_params()
    flags = ctypes.cast(ctypes.byref(settings, 8 * FLAGS), ctypes.POINTER(ctypes.c_uint8))
    if {place: settings.words[place] for place in LAYOUT} != LAYOUT or flags[: len(FLAG_BYTES)] != FLAG_BYTES:
        raise SystemExit("this version of xllamacpp has another llama_model_params: install 2026.10.11549")
    overrides = (Override * 2)()
    overrides[0].tag, overrides[0].key, overrides[0].value = STRING, KEY, name.encode()
    settings.words[OVERRIDES] = ctypes.addressof(overrides)
    flags[0] = 1
    model = lib.llama_model_load_from_file(file.encode(), settings)
    if not model:
        return None
    vocabulary = lib.llama_model_get_vocab(model)
    found = []
    for text in texts:
        content = text.encode()
        room = (ctypes.c_int32 * (len(content) + 8))()
        count = lib.llama_tokenize(vocabulary, content, len(content), room, len(room), False, False)  # noqa: FBT003
        found.append(list(room[:count]))
    begins = bool(lib.llama_vocab_get_add_bos(vocabulary))
    lib.llama_model_free(model)
    return {"ids": found, "begins": begins}


def main() -> None:
    """Do the job that comes in, and leave at once."""
    job = json.load(sys.stdin)
    lib = load_library()
    lib.llama_log_set(SILENT, None)
    answer = {name: read(lib, job["file"], name, job["texts"]) for name in job["names"]}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
