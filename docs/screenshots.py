"""Pictures of the page for the documentation, made of the built page over a scripted conversation.

    python docs/screenshots.py                # docs/assets/page-*.png
    python docs/screenshots.py --all FOLDER   # every state in both languages, light and dark, on a phone and a desktop

Needs what the tests of the page need: playwright, Debian's chromium, and a font with Chinese (fonts-noto-cjk).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # where the page's states are

from carellama.config.serve import WebOptions  # noqa: E402
from page_site import DESKTOP, PHONE, Visitor, chromium, site  # noqa: E402
from page_tour import LOCALES, WORDS, ask, scripted, tour  # noqa: E402

COLOURS = 128  # of a picture in the documentation
COUNTRIES = {"en": "US", "zh": "CN"}
SIZES = {"desktop": DESKTOP, "phone": PHONE}


@contextmanager
def visitor(browser: Any, profile: str, language: str, size: dict[str, int], **settings: Any) -> Iterator[Any]:
    """A visitor of the page, and the engine that answers."""
    engine = scripted()
    with site(engine, WebOptions(profile=profile), country=COUNTRIES[language]) as server:  # type: ignore[arg-type]
        one = Visitor(browser, server, size, locale=LOCALES[language], **settings)
        yield one, engine
        one.context.close()


def every_state(browser: Any, folder: Path) -> None:
    """Write a picture of each state."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in WORDS:
        for scheme in ("light", "dark"):
            for name, size in SIZES.items():
                with visitor(browser, "researcher", language, size, color_scheme=scheme) as (one, engine):
                    for number, state in enumerate(tour(one, engine, language)):
                        file = f"{language}-{scheme}-{name}-{number:02}-{state.replace(' ', '_')}.png"
                        one.page.screenshot(path=folder / file, animations="disabled")


def save(page: Any, file: Path) -> None:
    """Write a picture with few colours, which makes it small."""
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")


def for_documentation(browser: Any, folder: Path) -> None:
    """Write the pictures of docs/*/web.md; the README has page-notice-en.png."""
    for language, words in WORDS.items():
        with visitor(browser, "patient", language, DESKTOP) as (one, engine):
            one.page.get_by_role("button", name=words.understood).click()
            ask(one, engine, language, words.cold)
            one.page.get_by_role("link", name=words.new).click()
            ask(one, engine, language, words.emergency)
            save(one.page, folder / f"page-notice-{language}.png")
        with visitor(browser, "patient", language, PHONE) as (one, engine):
            one.page.get_by_role("button", name=words.understood).click()
            ask(one, engine, language, words.emergency)
            save(one.page, folder / f"page-phone-{language}.png")
        with visitor(browser, "researcher", language, DESKTOP) as (one, engine):
            one.page.get_by_role("button", name=words.understood).click()
            ask(one, engine, language, words.index)
            one.page.get_by_role("button", name=words.research).click()
            save(one.page, folder / f"page-researcher-{language}.png")


def main() -> None:
    """Read the options and make the pictures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--all", type=Path, metavar="FOLDER", help="every state into this folder")
    given = options.parse_args()
    with chromium() as browser:
        if given.all:
            every_state(browser, given.all)
        else:
            for_documentation(browser, ROOT / "docs" / "assets")


if __name__ == "__main__":
    main()
