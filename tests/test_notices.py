"""The licences of others' software go with both pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOTH = ("dompurify", "highlight.js", "katex", "marked")


@pytest.mark.parametrize(
    ("folder", "packages"), [("serve/web/static", BOTH), ("export/web/static", (*BOTH, "@wllama/wllama"))]
)
def test_a_page_carries_the_licences_of_what_it_contains(folder: str, packages: tuple[str, ...]) -> None:
    text = (ROOT / "src/carellama" / folder / "THIRD-PARTY-NOTICES.txt").read_text(encoding="utf-8")
    heads = {part.strip().splitlines()[0].split(",")[0] for part in text.split("-" * 80)[1:]}
    pinned = json.loads((ROOT / "web/package.json").read_text(encoding="utf-8"))["dependencies"]
    assert {f"{name} {pinned[name]}" for name in packages} <= heads
    assert any(head.startswith("svelte ") for head in heads)
    assert ("llama.cpp" in heads) == (folder == "export/web/static")
    assert text.count("Permission is hereby granted") + text.count("Apache License") + text.count("Redistribution") >= 5
