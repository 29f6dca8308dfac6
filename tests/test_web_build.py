"""The web pages: the files that are shipped are those that their source builds, small, and its own tests pass."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REPOSITORY

SOURCE = REPOSITORY / "web"
STATIC = REPOSITORY / "src" / "carellama" / "serve" / "web" / "static"
OFFLINE = REPOSITORY / "src" / "carellama" / "export" / "web" / "static"  # the page that runs without a server
FIRST_BYTES = 120 * 1024  # of what loads before the first question, by gzip
NODE = (20, 19)
# npm's words for a registry that cannot be reached
UNREACHABLE = re.compile(r"ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|ECONNRESET|ENETUNREACH|ERR_SOCKET_TIMEOUT")

pytestmark = pytest.mark.slow


def _run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "CI": "1", "NO_COLOR": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the page's source with its locked libraries."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the page's build is not checked: node or npm is missing")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if tuple(int(part) for part in version.lstrip("v").split(".")[:2]) < NODE:
        pytest.skip(f"the page's build is not checked: Node {NODE[0]}.{NODE[1]} or newer is needed, here is {version}")
    copy = tmp_path_factory.mktemp("page") / "web"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules"))
    done = _run("npm", "ci", "--no-audit", "--no-fund", cwd=copy)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("the page's build is not checked: npm's registry cannot be reached")
    assert done.returncode == 0, done.stderr
    yield copy
    shutil.rmtree(copy / "node_modules")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_shipped_files_are_what_the_source_builds(web: Path, tmp_path: Path) -> None:
    """Whoever changes the page and forgets `make web` would ship the old one."""
    places = {"CARELLAMA_WEB_OUT": str(tmp_path / "page"), "CARELLAMA_OFFLINE_OUT": str(tmp_path / "offline")}
    done = _run("npm", "run", "build", cwd=web, **places)
    assert done.returncode == 0, done.stdout + done.stderr
    for built, shipped in ((_files(tmp_path / "page"), STATIC), (_files(tmp_path / "offline"), OFFLINE)):
        kept = _files(shipped)
        assert sorted(built) == sorted(kept), f"run `make web` and commit {shipped.relative_to(REPOSITORY)}"
        assert [name for name in built if built[name] != kept[name]] == [], "run `make web`, as above"


def test_types_and_markup_are_clean(web: Path) -> None:
    done = _run("npm", "run", "check", cwd=web)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_own_tests_pass(web: Path) -> None:
    done = _run("npm", "test", cwd=web)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_loads_first_is_small() -> None:
    """index.html with the scripts and styles that it names; formulas and coloured code load when they are needed."""
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    names = re.findall(r'(?:src|href)="/(assets/[^"]+)"', index)
    assert {Path(name).suffix for name in names} == {".js", ".css"}
    first = [STATIC / "index.html", *(STATIC / name for name in names)]
    assert sum(len(gzip.compress(path.read_bytes(), 6, mtime=0)) for path in first) <= FIRST_BYTES
    assert not [path.name for path in first if path.name.startswith(("katex", "highlight"))]
    assert not [*STATIC.rglob("*.wasm")]  # of the page that runs without a server alone


def test_the_page_needs_nothing_that_its_policy_refuses() -> None:
    """`default-src 'self'; style-src 'self'` refuses scripts and styles within the document, and other hosts."""
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)|(?:src|href)=\"(?:https?:)?//", index)
    styles = "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("assets/*.css"))
    assert "@import" not in styles and not re.search(r"url\((?!#)", styles)
