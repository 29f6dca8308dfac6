"""A hub on this machine with the routes of the real ones, for programs that ask them: huggingface_hub and ours.

    with hub_double() as hub:
        hub.add("someone/model", folder)
        environment = hub.environment(tmp_path)     # HF_ENDPOINT, MODELSCOPE_ENDPOINT, caches of its own

Hugging Face (huggingface_hub/hf_api.py, file_download.py): model info, tree, resolve with ETag, X-Repo-Commit and
X-Linked-*, large files by a redirect to a storage that takes ranges, 401 and 403 of gated repositories, 404 with
X-Error-Code, 307 of moved ones. ModelScope (modelscope/hub/api.py): list of files, file. A repository can be gated,
moved, and break off in a file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_answers import LARGE, Hub, Repository
from hub_uploads import Uploads

TOKEN = "hf_accepted"  # whose owner has accepted the terms of every gated repository


@contextmanager
def hub_double() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()

    class Bound(Handler):
        pass

    Bound.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(Uploads):
    """One request."""

    def do_GET(self) -> None:
        """Answer by the route."""
        asked = urlsplit(self.path)
        self.hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        if self.hub.fault:
            return self._faulty(self.hub.fault)
        path = unquote(asked.path).strip("/")
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        if path.startswith("storage/"):
            _, owner, name, file = path.split("/", 3)
            return self._bytes(f"{owner}/{name}", file)
        if path.startswith("openapi/v1/models/"):
            return self._about(path.removeprefix("openapi/v1/models/"))
        if path.startswith("api/v1/models/"):
            return self._modelscope(path.removeprefix("api/v1/models/"), query)
        if path.startswith("api/models/"):
            return self._info(path.removeprefix("api/models/"))
        parts = path.split("/")
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._refuse(404, "RepoNotFound", "Repository not found")

    do_HEAD = do_GET

    def _faulty(self, fault: int | str) -> None:
        """A server that is down or wants another token, a login page in its place, or a connection that is closed."""
        if fault == "nothing":
            self.close_connection = True
            self.connection.close()
        elif fault == "page":
            self._send(200, b"<html>Log in</html>", {"Content-Type": "text/html"})
        else:
            self._send(int(fault), b"", {})

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _allowed(self, found: Repository) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not found.gated or token == TOKEN:
            return True
        status = 403 if token else 401
        self._refuse(status, "GatedRepo", "Access to this model is restricted")
        return False

    def _info(self, path: str) -> None:
        parts = path.split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        found = self._repository(repo, self.path)
        if found is None:
            return None
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", found.commit):
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if rest[:1] == ["tree"]:
            listed = [
                {"type": "file", "path": name, "size": len(body), "oid": _git_id(body), **_lfs(name, body)}
                for name, body in sorted(found.files.items())
            ]
            return self._json(listed)
        siblings = [
            {"rfilename": name, "size": len(body), "blobId": _git_id(body), **_lfs(name, body)}
            for name, body in sorted(found.files.items())
        ]
        about = {"_id": "1", "id": repo, "modelId": repo, "sha": found.commit, "siblings": siblings, "tags": []}
        return self._json(about | {"private": found.private, "gated": "auto" if found.gated else False})

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        found = self._repository(repo, self.path)
        if found is None or not self._allowed(found):
            return None
        if revision not in ("main", found.commit):
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        body = found.files.get(name)
        commit = {"X-Repo-Commit": found.commit}
        if body is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", commit)
        if not name.endswith(LARGE):
            return self._send(200, body, commit | {"ETag": f'"{_git_id(body)}"'})
        linked = {"X-Linked-ETag": f'"{_sha256(body)}"', "X-Linked-Size": str(len(body))}
        # another host than the hub's, as in truth: huggingface_hub follows a redirect within a host by itself
        place = {"Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{repo}/{quote(name)}"}
        return self._send(302, b"", commit | linked | place | {"ETag": f'"{_git_id(body)}"'})

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        owner, name, *rest = path.split("/")
        if not rest and "FilePath" not in query:
            return self._about(path)
        found = self.hub.repositories.get(f"{owner}/{name}")
        if found is None:
            about = {"Code": 10010205001, "Message": "record not found", "Success": False}
            return self._json(about, status=404)
        if rest == ["repo", "files"]:
            files = self._modelscope_entries(found, query.get("Root", ""), deep=query.get("Recursive") == "True")
            listed = {"Files": files[: self.hub.longest_list]}  # the rest is cut off, as by the real one
            return self._json({"Code": 200, "Data": listed, "Message": "success", "Success": True})
        if query.get("FilePath") not in found.files:
            return self._json({"Code": 10010205001, "Message": "file not found", "Success": False}, status=404)
        return self._bytes(f"{owner}/{name}", query["FilePath"])

    def _about(self, repo: str) -> None:
        """What ModelScope says of a repository."""
        found = self.hub.repositories.get(repo)
        if found is None:
            about = {"Code": 10010205001, "Message": "record not found", "Success": False, "success": False}
            return self._json(about, status=404)
        owner, name = repo.split("/")
        facts = {"id": repo, "owner": owner, "name": name, "private": found.private}
        return self._json({"Code": 200, "Data": facts, "data": facts, "Success": True, "success": True})

    def _modelscope_entries(self, found: Repository, folder: str, *, deep: bool) -> list[dict[str, Any]]:
        """The files and folders of a folder, with those below it where `deep`."""
        entries: dict[str, dict[str, Any]] = {}
        for file, body in sorted(found.files.items()):
            if folder and not file.startswith(f"{folder}/"):
                continue
            rest = file.removeprefix(f"{folder}/" if folder else "").split("/")
            for depth in range(1, len(rest) if deep else min(len(rest), 2)):
                place = "/".join([*([folder] if folder else []), *rest[:depth]])
                entries[place] = {"Name": rest[depth - 1], "Path": place, "Type": "tree"}
            if deep or len(rest) == 1:
                about = {"Name": rest[-1], "Path": file, "Type": "blob", "Size": len(body), "Sha256": _sha256(body)}
                entries[file] = about
        return list(entries.values())

    def _bytes(self, repo: str, name: str) -> None:
        """A file of the storage, whole or from where a range begins; it breaks off where that was asked for."""
        found = self.hub.repositories[repo]
        body = found.files[name]
        headers = {"ETag": f'"{_sha256(body)}"', "Accept-Ranges": "bytes"}
        if name in found.damaged:
            body = bytes(len(body))
        begins = 0
        if (asked := self.headers.get("Range", "")).startswith("bytes="):
            begins = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {begins}-{len(body) - 1}/{len(body)}"
        breaks = found.breaks.get(name, 0)
        if breaks and self.command == "GET":
            found.breaks[name] = breaks - 1
            half = begins + (len(body) - begins) // 2
            return self._send(206 if begins else 200, body[begins:half], headers, length=len(body) - begins)
        return self._send(206 if begins else 200, body[begins:], headers)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _lfs(name: str, body: bytes) -> dict[str, Any]:
    if not name.endswith(LARGE):
        return {}
    return {"lfs": {"oid": _sha256(body), "sha256": _sha256(body), "size": len(body), "pointerSize": 134}}
