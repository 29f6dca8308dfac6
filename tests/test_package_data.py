"""Data files of the package: patterns are regular expressions, and those that the code names are there."""

from __future__ import annotations

import ast
import re

import pytest

from carellama.package_data import Patterns, package_folder
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "carellama"


def uses() -> list[tuple[str, set[str]]]:
    """The files of patterns, and the names that modules ask of each."""
    found: dict[str, set[str]] = {}
    for module in PACKAGE.rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        for path in re.findall(r'^PATTERNS = Patterns\("([\w/.]+)"', text, re.MULTILINE):
            names = {
                node.slice.value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Name)
                and node.value.id == "PATTERNS"
                and isinstance(node.slice, ast.Constant)
            }
            found.setdefault(path, set()).update(names)  # type: ignore[arg-type]
    return sorted(found.items())


@pytest.mark.parametrize(("path", "named"), uses())
def test_patterns_compile_and_those_that_are_named_are_there(path: str, named: set[str]) -> None:
    patterns = Patterns(path)
    assert named <= set(patterns.names())
    for name in patterns.names():
        assert all(isinstance(word, str) and word for word in patterns.words(name)), name
        re.compile(patterns.source(name))
    if path == "evaluate/guard_harm.yaml":
        return  # asked by the names of the guard's categories
    unused = set(patterns.names()) - named
    sources = " ".join(word for name in patterns.names() for word in patterns.words(name))
    code = (PACKAGE / path).parent.rglob("*.py")
    text = " ".join(module.read_text(encoding="utf-8") for module in code)
    assert not [name for name in unused if f"{{{name}}}" not in sources and f'"{name}"' not in text], (
        "nobody uses these"
    )


def test_an_entry_is_alternatives_and_names_others(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"pain": ["pain", "ache"], "no_pain": r"\bno {pain}", "often": "a{0,3}"}
    monkeypatch.setattr("carellama.package_data.package_yaml", lambda path: given)
    patterns = Patterns("x.yaml")
    assert patterns.source("no_pain") == r"\bno (?:pain|ache)" and patterns.source("often") == "a{0,3}"
    assert patterns["no_pain"].search("i have no ache") and patterns["no_pain"] is patterns["no_pain"]
    with pytest.raises(KeyError):
        patterns["other"]


def test_a_folder_is_read_by_name() -> None:
    names = [path for path, _ in package_folder("safety/triage/red_flags")]
    assert names == sorted(names) and names[0].startswith("safety/triage/red_flags/")
