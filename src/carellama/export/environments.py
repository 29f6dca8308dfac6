"""Programs whose pins clash with those of this one, each in a virtual environment of its own.

    python = tool_environment("auto-round")                  # its interpreter; made at the first call
    answer = run_tool("auto-round", Path("write.py"), {"folder": "output_export"})

They are kept in the user's cache folder, under `environments/`, and may be deleted at any time. What is installed is
pinned in environments.yaml, and comes from the index that the user's pip is set to. torch, of up to several GB, is a
link to the one of this program. Nothing of this package can be imported there: a script gets JSON and prints JSON.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from carellama.config.environment import environment_home
from carellama.errors import UserError, lookup
from carellama.files import create_once, print_status
from carellama.package_data import package_yaml
from carellama.records import JSONObject

PINS = "export/environments.yaml"
TORCH = (  # it and the large ones of what it requires
    "torch", "torch-*", "torchgen", "functorch", "nvidia*", "triton*", "cuda*",
    "sympy", "sympy-*", "mpmath*", "networkx*",
)  # fmt: skip
NO_INDEX = re.compile(
    r"No matching distribution|ConnectionError|NewConnectionError|name resolution|ProxyError|timed out"
)
PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
LONGEST_REASON = 300  # characters of what another program says


def tool_environment(name: str) -> Path:
    """Return the Python of a program's environment; install it first where it is not there yet.

    Raises `UserError` in one line: an unknown name, no index or disk, packages that cannot be installed or imported.
    """
    pins = lookup(package_yaml(PINS), name, "environment")
    torch, links = _torch()
    key = hashlib.sha256(repr((pins, torch, str(links), sys.version)).encode()).hexdigest()[:8]
    folder = environment_home() / f"{name}-{key}"
    if folder.is_dir() and not _python(folder).exists():  # the Python that it was made from is gone
        shutil.rmtree(folder)
    with create_once(folder) as making:
        if making:
            _check_space(folder, name, pins["megabytes"])
            print_status(
                f"installing {pins['what']}, in an environment of its own: {environment_home()} "
                f"(about {pins['megabytes']} MB, some minutes, once)"
            )
            _make(making / "env", name, pins, torch, links)
    return _python(folder)


def run_tool(name: str, script: Path, given: Mapping[str, object]) -> JSONObject:
    """Run a script in the environment of a program: `given` goes in as JSON, the last line that it prints comes back.

    Raises `UserError` with the last line of its stderr where it fails.
    """
    command = [str(tool_environment(name)), "-I", str(script)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, encoding="utf-8")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise UserError(f"{name} failed: {_reason(done.stderr) or f'exit code {done.returncode}'}")
    found: JSONObject = json.loads(lines[-1])
    return found


def _torch() -> tuple[str, list[Path]]:
    """The version of this program's torch, and the folders of it and what it requires."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise UserError("torch is not installed, which this export needs")
    packages = Path(found.origin).resolve().parents[1]
    return version("torch"), sorted(path for pattern in TORCH for path in packages.glob(pattern))


def _make(folder: Path, name: str, pins: Mapping[str, list[str]], torch: str, links: Sequence[Path]) -> None:
    """Make an environment in a new folder."""
    own_pip = importlib.util.find_spec("pip") is not None
    venv = [sys.executable, "-m", "venv", *(["--without-pip"] if own_pip else []), str(folder)]
    made = subprocess.run(venv, capture_output=True, text=True)
    if made.returncode:
        raise UserError(f"cannot make the environment of {name}: {_reason(made.stderr or made.stdout)}")
    python = _python(folder.parent)
    _link(folder, links)
    pip = [sys.executable, "-m", "pip", "--python", str(python)] if own_pip else [str(python), "-m", "pip"]
    _install(pip, name, [*pins["packages"], f"torch=={torch}"])
    if pins["alone"]:
        _install(pip, name, ["--no-deps", *pins["alone"]])
    tried = subprocess.run([str(python), "-I", "-c", f"import {pins['check']}"], capture_output=True, text=True)
    if tried.returncode:
        raise UserError(f"the environment of {name} does not work: {_reason(tried.stderr)}")


def _link(folder: Path, links: Sequence[Path]) -> None:
    """Let the environment import packages of this program, from a folder outside of it, which pip never changes.

    With links in its own folder, an installation that replaces torch would do so here as well.
    """
    packages = next(folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages")
    outside = folder.parent / "linked"
    outside.mkdir()
    try:
        for link in links:
            (outside / link.name).symlink_to(link, target_is_directory=link.is_dir())
    except OSError:  # Windows without the right to make links: pip brings another torch
        return
    beside = "import os, sys; sys.path.append(os.path.join(os.path.dirname(sys.prefix), 'linked'))"
    (packages / "linked.pth").write_text(f"{beside}\n", encoding="utf-8")


def _install(pip: Sequence[str], name: str, words: Sequence[str]) -> None:
    """Install by the user's own settings of pip."""
    options = ["--no-compile", "--no-user"]  # the first import compiles what is used
    command = [*pip, "--quiet", "--disable-pip-version-check", "--no-input", "install", *options, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode:
        return
    output = done.stderr or done.stdout
    if "No space left on device" in output:
        raise UserError(
            f"cannot install {name}: the disk of {environment_home()} is full; make room there, or set CARELLAMA_CACHE "
            "to a folder of another disk"
        )
    if NO_INDEX.search(output):
        raise UserError(
            f"cannot install {name}: no package index has the packages, or none can be reached ({_reason(output)}); "
            "check the network and pip's settings (`pip config list`: index-url, proxy)"
        )
    raise UserError(f"cannot install {name}: {_reason(output)}")


def _reason(output: str) -> str:
    """The line of another program's output that says why it failed, without passwords of addresses."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return PASSWORD.sub("", errors[-1].removeprefix("ERROR: "))[:LONGEST_REASON] if errors else ""


def _python(folder: Path) -> Path:
    return folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _check_space(folder: Path, name: str, megabytes: int) -> None:
    free = shutil.disk_usage(next(parent for parent in folder.absolute().parents if parent.exists())).free
    if free < megabytes * 1_000_000:
        raise UserError(
            f"{name} takes {megabytes} MB, and the disk of {folder.parent} has {free / 1e6:,.0f} MB free: make room "
            "there, or set CARELLAMA_CACHE to a folder of another disk"
        )
