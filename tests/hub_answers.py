"""What the routes of tests/hub_double.py and hub_uploads.py share: the hub's state, and how a request is answered."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".bin", ".gguf", ".model", "tokenizer.json")  # kept in the storage (LFS)


@dataclass
class Repository:
    """What a hub has under an id. `breaks` counts down how often a file breaks off; the `damaged` come as zeros."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    gated: bool = False
    private: bool = False
    licence: str = ""  # that it was made with
    breaks: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)


@dataclass
class Hub:
    """The double: its address, its repositories, and what it was asked (method, path, Range)."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by SHA-256
    broken_uploads: int = 0  # how many of the next ones break off
    longest_list: int = 3000  # entries of one list of ModelScope's models
    fault: int | str = 0  # what each request is answered with: a status, a "page" of HTML, or "nothing"

    def add(self, repo: str, folder: Path, **options: Any) -> Repository:
        """Put the files of a folder under an id."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[repo] = Repository(files, **options)
        return self.repositories[repo]

    def create(self, repo: str, **options: Any) -> Repository:
        """Make an empty repository."""
        self.repositories[repo] = Repository({}, **options)
        return self.repositories[repo]

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment of a program that asks this hub, with caches in a folder."""
        return os.environ | {
            "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hub"),
            "MODELSCOPE_ENDPOINT": self.url, "NO_PROXY": "*", "CARELLAMA_CACHE": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "data"), "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip


class Answers(BaseHTTPRequestHandler):
    """The answers to one request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def _repository(self, repo: str, rest: str) -> Repository | None:
        """The repository of an id, or None where the answer has been given: moved, gated, not there."""
        if repo in self.hub.moved:
            self._send(307, b"", {"Location": rest.replace(repo, self.hub.moved[repo], 1)})
            return None
        found = self.hub.repositories.get(repo)
        if found is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        return found

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message} | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if length is not None and length != len(body):
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
