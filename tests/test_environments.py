"""Environments of other programs: installed once, by the user's pip settings, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from carellama.config.environment import environment_home
from carellama.errors import UserError
from carellama.export import environments
from carellama.export.environments import run_tool, tool_environment
from carellama.package_data import package_yaml

PINS = {"what": "a tool", "packages": ["tinytool==1.0"], "alone": [], "check": "tinytool", "megabytes": 1}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, which is all that pip may look into, and a cache folder of this test."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinytool-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinytool.py", "import json\ndef double(number):\n    return 2 * number\n")
        wheel.writestr("tinytool-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinytool\nVersion: 1.0\n")
        wheel.writestr("tinytool-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tinytool-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "package_yaml", lambda path: {"tool": PINS})
    links = []
    for name in ("torch", "linkedtool"):  # which are linked, whatever they require
        package, facts = (tmp_path / "site-packages" / part for part in (name, f"{name}-2.0.dist-info"))
        package.mkdir(parents=True)
        facts.mkdir()
        (package / "__init__.py").touch()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (facts / "RECORD").write_text(f"{name}/__init__.py,,\n{name}-2.0.dist-info/METADATA,,\n")
        links += [package, facts]
    monkeypatch.setattr(environments, "_torch", lambda: ("2.0", links))
    return folder


def test_an_environment_is_made_once_and_runs_scripts(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tool_environment("tool")
    assert "installing a tool" in capsys.readouterr().err
    (index / "tinytool-1.0-py3-none-any.whl").unlink()
    assert tool_environment("tool") == python and python.is_relative_to(environment_home())
    assert capsys.readouterr().err == ""

    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, tinytool, torch\nprint('noise')\ngiven = json.load(sys.stdin)\n"
        "given |= {'doubled': tinytool.double(given['number']), 'torch': torch.__file__}\nprint(json.dumps(given))"
    )
    answer = run_tool("tool", script, {"number": 21, "text": "发烧"})
    assert answer["doubled"] == 42 and answer["text"] == "发烧"
    assert Path(answer["torch"]).resolve().is_relative_to(tmp_path / "site-packages")  # not a second one

    script.write_text("import sys\nprint('{}')\nprint('one', file=sys.stderr)\nraise SystemExit('no such layer')")
    with pytest.raises(UserError, match=r"^tool failed: no such layer$"):
        run_tool("tool", script, {})


def test_an_environment_whose_python_is_gone_is_made_again(index: Path) -> None:
    python = tool_environment("tool")
    python.unlink()
    assert tool_environment("tool") == python and python.exists()


def test_an_installation_into_an_environment_leaves_linked_packages_alone(index: Path, tmp_path: Path) -> None:
    """Once pip followed a link in an environment's own folder, and replaced the torch of the program itself."""
    python = tool_environment("tool")
    with zipfile.ZipFile(index / "linkedtool-3.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("linkedtool/__init__.py", "newer = True\n")
        wheel.writestr("linkedtool-3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: linkedtool\nVersion: 3.0\n")
        wheel.writestr(
            "linkedtool-3.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("linkedtool-3.0.dist-info/RECORD", "linkedtool/__init__.py,,\n")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "linkedtool==3.0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site-packages" / "linkedtool" / "__init__.py").read_text() == ""
    assert (tmp_path / "site-packages" / "linkedtool-2.0.dist-info" / "METADATA").is_file()


def test_without_an_index_one_line_says_so_and_nothing_is_left(index: Path) -> None:
    (index / "tinytool-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match="no package index has the packages, or none can be reached") as raised:
        tool_environment("tool")
    assert "\n" not in str(raised.value) and "tinytool==1.0" in str(raised.value)
    assert [path.name for path in environment_home().iterdir() if not path.name.endswith(".lock")] == []


def test_an_environment_that_cannot_be_imported_is_not_kept(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PINS, "check", "no_such_module_anywhere")
    with pytest.raises(UserError, match="the environment of tool does not work: ModuleNotFoundError"):
        tool_environment("tool")
    assert not list(environment_home().glob("tool-*"))


def test_a_disk_without_room_is_seen_before_anything_is_installed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PINS, "megabytes", 10**12)
    with pytest.raises(UserError, match="MB free: make room there, or set CARELLAMA_CACHE"):
        tool_environment("tool")


def test_an_unknown_environment_is_named(index: Path) -> None:
    with pytest.raises(UserError, match=r"unknown environment 'tol'\. Did you mean 'tool'"):
        tool_environment("tol")


def test_a_reason_names_no_password_of_an_index() -> None:
    said = "WARNING: retrying\nERROR: cannot reach https://ward:secret@pypi.example.org/simple/x\n"
    assert environments._reason(said) == "cannot reach https://pypi.example.org/simple/x"


def test_pins_name_exact_versions() -> None:
    pins = package_yaml(environments.PINS)
    assert set(pins) >= {"openvino", "auto-round"}
    words = [word for entry in pins.values() for word in [*entry["packages"], *entry["alone"]]]
    assert len(words) > 4 and [word for word in words if word.count("==") != 1] == []
