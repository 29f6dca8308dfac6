"""Where the built files of the page are, and which paths of the server are the page and say nothing of anybody.

paths = page_paths(STATIC)
paths.has("/assets/index-1a2b.js")       # True
paths.has("/web/config")                 # False
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

STATIC = Path(str(resources.files("carellama"))) / "serve/web/static"
VIEWS = ("/login", "/invite", "/c/{id}")  # paths that the page itself reads: each gets index.html


@dataclass(frozen=True)
class PagePaths:
    """The paths of the files of the page, and of its views."""

    files: frozenset[str]

    def has(self, path: str) -> bool:
        """Whether a path is the page, whoever asks."""
        return path in self.files or (path.startswith("/c/") and "/" not in path[3:])


def page_paths(folder: Path) -> PagePaths:
    """Return the paths of a built page."""
    files = {"/" + file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return PagePaths(frozenset({"/", "/login", "/invite", *files}))
