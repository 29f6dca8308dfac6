"""A program that is not ours: reads tokenizer.json with the package tokenizers and nothing else.

    python stranger_tokenizers.py jobs.json answers.json

jobs.json is a list of {"name", "folder", "text"}, with "adapter" for the folder of an adapter.
"""

import importlib.util
import json
import sys
from pathlib import Path

import tokenizers


def read(job):
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(job.get("adapter", job["folder"]), "tokenizer.json")))
    ids = tokenizer.encode(job["text"], add_special_tokens=False).ids
    return {
        "ids": ids,
        "with_special_tokens": tokenizer.encode(job["text"]).ids,
        "decoded": tokenizer.decode(ids, skip_special_tokens=False),
        "plain": tokenizer.decode(ids, skip_special_tokens=True),
    }


def main(jobs, answers):
    assert not importlib.util.find_spec("carellama") and not importlib.util.find_spec("transformers")
    found = {job["name"]: read(job) for job in json.loads(Path(jobs).read_text())}
    Path(answers).write_text(json.dumps({"version": tokenizers.__version__, "answers": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
