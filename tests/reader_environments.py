"""The environments that other programs run in, and the tokenizer of Qwen2; each made once in the user's cache.

    python = environment("openvino")         # the interpreter; the test skips without a package index

An environment has no package of this project. torch alone, half a gigabyte, is a link to the one that runs the tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from carellama.config.environment import cache_home
from carellama.files import create_once
from hub_bases import CHATML, QWEN_SPLIT

LINKED = ("torch", "torch-*", "torchgen", "functorch", "nvidia*", "triton*", "cuda*")
DASHSCOPE = "dashscope==2.0.2"  # has the vocabulary of Qwen2, Apache-2.0
# What is installed with what it requires, and what without.
PACKAGES: dict[str, tuple[list[str], list[str]]] = {
    "transformers 4.57": (["transformers==4.57.6", "peft==0.21.2", "torch"], []),
    "transformers 5": ([f"transformers=={version('transformers')}", "peft==0.21.2", "torch"], []),
    "tokenizers": ([], [f"tokenizers=={version('tokenizers')}"]),
    "llama.cpp": ([], ["xllamacpp==2026.10.11549"]),
    "modelscope": (["modelscope==1.40.2"], []),
    # optimum-intel asks for nncf and torchvision, which text models do not need
    "openvino": (
        ["openvino-genai==2026.4.1.0", "transformers==4.57.6", "requests", "setuptools", "torch"],
        ["optimum-intel==2.2.0", "optimum==2.3.0"],
    ),
}


def environment(name: str) -> Path:
    """Return the Python of a reader's environment; skip the test if its packages cannot be installed."""
    wanted, alone = PACKAGES[name]
    packages = Path(sysconfig.get_paths()["purelib"])
    links: list[Path] = []
    if "torch" in wanted:
        import torch

        packages = Path(torch.__file__).resolve().parents[1]
        links = [path for pattern in LINKED for path in packages.glob(pattern)]
        wanted = [*(package for package in wanted if package != "torch"), f"torch=={torch.__version__}"]
    key = hashlib.sha256(repr((wanted, alone, str(packages), sys.version)).encode()).hexdigest()[:8]
    folder = cache_home() / "tests" / f"{name.replace(' ', '-')}-{key}"
    with create_once(folder) as making:
        if making:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(making)], check=True)
            place = making / packages_of(making)
            for link in links:
                (place / link.name).symlink_to(link)
            pip("--python", str(making / "bin/python"), "install", *wanted)
            pip("--python", str(making / "bin/python"), "install", "--no-deps", *alone)
    return folder / "bin" / "python"


def packages_of(folder: Path) -> Path:
    """Return where an environment keeps its packages, from its own folder."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found.relative_to(folder)


def pip(*words: str) -> None:
    """Run pip; skip the test if it fails. Nothing is done without a package."""
    if not any("==" in word for word in words):
        return
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"cannot install {words[-1]}: {done.stderr.strip().splitlines()[-1:]}")


def qwen2_tokenizer() -> Path:
    """Return a folder with the tokenizer of Qwen2, which llama.cpp's converter knows; skip without an index.

    The merges are found as Qwen's own were: of each token the two parts that it is made of before its last merge.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    folder = cache_home() / "tests" / f"qwen2-{DASHSCOPE.replace('==', '-')}"
    with create_once(folder) as making:
        if making:
            pip("download", "--no-deps", "--dest", str(making), DASHSCOPE)
            (wheel,) = making.glob("*.whl")
            lines = zipfile.ZipFile(wheel).read("dashscope/resources/qwen.tiktoken").splitlines()
            wheel.unlink()
            ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
            letters = byte_letters()
            words = {token: "".join(letters[byte] for byte in token) for token in ranks}
            merges = [merge for token in ranks if len(token) > 1 for merge in [last_merge(token, ranks)]]
            tokenizer = Tokenizer(
                models.BPE(
                    {words[token]: rank for token, rank in ranks.items()},
                    [(words[left], words[right]) for left, right in merges],
                )
            )
            tokenizer.normalizer = normalizers.NFC()
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ])  # fmt: skip
            tokenizer.decoder = decoders.ByteLevel()
            for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
                tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            tokenizer.save(str(making / "tokenizer.json"))
            config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
            (making / "tokenizer_config.json").write_text(json.dumps(config))
            (making / "chat_template.jinja").write_text(CHATML)
    return folder


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts that byte-pair encoding has of a token before it merges them."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda place: ranks.get(parts[place] + parts[place + 1], len(ranks)))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in a byte-level vocabulary (openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
