"""The environments that other programs run in, and the tokenizer of Qwen2; each made once in the user's cache.

    python = environment("openvino")         # the interpreter; the test skips without a package index

An environment has no package of this project. Packages that the one that runs the tests has in the same version are
links to it: pip takes most of a minute for those of transformers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from carellama.config.environment import cache_home
from carellama.export import environments
from carellama.files import create_once
from hub_bases import CHATML, QWEN_SPLIT

DASHSCOPE = "dashscope==2.0.2"  # has the vocabulary of Qwen2, Apache-2.0
# What is installed with what it requires, and what without; a name without a version is one that a link is taken of.
PACKAGES: dict[str, tuple[list[str], list[str]]] = {
    "transformers 4.57": (["transformers==4.57.6", "peft==0.21.2", "torch", "requests"], []),
    "transformers 5": ([f"transformers=={version('transformers')}", "peft==0.21.2", "torch"], []),
    "tokenizers": ([], [f"tokenizers=={version('tokenizers')}"]),
    "llama.cpp": ([], ["xllamacpp==2026.10.11549"]),
    "modelscope": (["modelscope==1.40.2", "pyyaml", "requests", "tqdm"], []),
    # optimum-intel asks for nncf and torchvision, which text models do not need
    "openvino": (
        ["openvino-genai==2026.4.1.0", "transformers==4.57.6", "requests", "setuptools", "torch"],
        ["optimum-intel==2.2.0", "optimum==2.3.0"],
    ),
}

REQUIRED = {"auto-round": ["datasets", "requests"]}  # of what does not run here, what it requires


def environment(name: str) -> Path:
    """Return the Python of a reader's environment; skip the test if its packages cannot be installed."""
    wanted, alone = PACKAGES[name]
    links = [*links_of(here(wanted).values()), *links_of(one for text in alone if (one := same_version(text)))]
    key = hashlib.sha256(repr((wanted, alone, links, sys.version)).encode()).hexdigest()[:8]
    folder = cache_home() / "tests" / f"{name.replace(' ', '-')}-{key}"
    with create_once(folder) as making:
        if making:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(making / "env")], check=True)
            environments._link(making / "env", links)
            for words in (wanted, ["--no-deps", *alone]):
                if any("==" in word and not same_version(word) for word in words):
                    pip("--python", str(making / "env/bin/python"), "install", "--no-compile", *words)
    return folder / "env" / "bin" / "python"


@contextmanager
def linked_tools() -> Iterator[None]:
    """Let the environments of `export --to openvino,gptq,awq` have links as those of readers."""
    make = environments._make

    def make_with_links(folder: Path, name: str, pins: Any, torch: str, links: list[Path]) -> None:
        own = links_of(here([*pins["packages"], *REQUIRED.get(name, ())]).values())
        make(folder, name, pins, torch, list({link.name: link for link in (*own, *links)}.values()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "_make", make_with_links)
        patch.setattr(environments, "environment_home", lambda: cache_home() / "tests" / "tools")
        yield


def here(wanted: Iterable[str]) -> dict[str, Distribution]:
    """The packages that requirements ask for, and those that these require in turn, of the version that runs here."""
    waiting, found, walked = [Requirement(one) for one in wanted], dict[str, Distribution](), set[str]()
    while waiting:
        one = waiting.pop(0)  # what is asked for first, in its version
        name = canonicalize_name(one.name)
        if name in walked or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        walked.add(name)
        waiting += [Requirement(text) for text in package.requires or ()]
        if one.specifier.contains(package.version, prereleases=True):
            found[name] = package
    return found


def same_version(requirement: str) -> Distribution | None:
    """The package that runs here, if it is the one that is asked for."""
    name, _, wanted = requirement.partition("==")
    try:
        package = distribution(name)
    except (PackageNotFoundError, ValueError):
        return None
    return package if package.version == wanted else None


def links_of(packages: Iterable[Distribution]) -> list[Path]:
    """The files and folders of packages at the top of site-packages."""
    tops = {Path(str(package.locate_file(file.parts[0]))) for package in packages for file in package.files or ()}
    return sorted(path for path in tops if path.name not in ("..", "__pycache__"))


def pip(*words: str) -> None:
    """Run pip; skip the test if it fails."""
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
