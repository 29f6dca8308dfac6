"""axe finds nothing serious or critical in any state of the page: two languages, light and dark, phone and desktop."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest

from carellama.config.serve import WebOptions
from page_site import DESKTOP, MARKS, PHONE, Visitor, browser, site, visit
from page_tour import LOCALES, scripted, tour

pytestmark = MARKS
AXE = resources.files("axe_playwright_python") / "axe.min.js"
FINDINGS = """(only) => axe.run({ resultTypes: ['violations'], ...(only ? { runOnly: only } : {}) }).then((found) =>
  found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))
    .map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(' | ')}`))"""


def findings(page: Any, state: str) -> list[str]:
    """What axe finds in a state, by light and size."""
    found: list[str] = []
    for scheme, only in (("light", None), ("dark", ["color-contrast"])):  # all that differs there are colours
        page.emulate_media(color_scheme=scheme)
        for name, size in {"desktop": DESKTOP, "phone": PHONE}.items():
            page.set_viewport_size(size)
            found += [f"{state}, {scheme}, {name}: {one}" for one in page.evaluate(FINDINGS, only)]
    page.set_viewport_size(PHONE)
    return found


@pytest.mark.parametrize("language", LOCALES)
def test_axe_finds_nothing_serious_in_any_state(visit: Callable[..., Visitor], language: str) -> None:
    engine = scripted()
    with site(engine, WebOptions(profile="researcher")) as server:
        one = visit(server, PHONE, locale=LOCALES[language])
        one.page.evaluate(AXE.read_text(encoding="utf-8"))
        found, states = [], 0
        for state in tour(one, engine, language):
            states += 1
            found += findings(one.page, state)
        assert states >= 11
        assert not found, "\n".join(found)
