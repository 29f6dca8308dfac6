"""The routes of a hub that take uploads, for tests/hub_double.py (huggingface_hub/hf_api.py, _commit_api.py, lfs.py;
modelscope_hub/_legacy_api.py).

A repository is made, asked which files go to the storage (preupload), the storage is asked which it lacks (LFS batch),
gets these (PUT), and a commit names all. A token that may only read is refused with 403, none with 401.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from hub_answers import LARGE, Answers

READER = "hf_reader"  # a token that may not write


class Uploads(Answers):
    """What a handler of the double does with POST and PUT."""

    def do_POST(self) -> None:
        """Answer by the route."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(("POST", self.path, ""))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self._may_write():
            return None
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "v1"]:
            return self._to_modelscope(parts[2:], json.loads(body))
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "models"] and parts[4] == "preupload":
            return self._preupload(json.loads(body))
        if parts[:2] == ["api", "models"] and parts[4] == "commit":
            return self._commit("/".join(parts[2:4]), body)
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._refuse(404, "RepoNotFound", "Repository not found")

    def do_PUT(self) -> None:
        """Keep a large file in the storage; the hub may be told to break off so many times."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(("PUT", self.path, ""))
        if self.hub.broken_uploads:
            self.hub.broken_uploads -= 1
            return self._refuse(400, "Broken", "the connection broke off")
        self.hub.stored[self.path.rpartition("/")[2]] = body
        return self._send(200, b"", {"ETag": '"x"'})

    def _may_write(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != READER:
            return True
        self._refuse(
            403 if token else 401, "", "You don't have the rights" if token else "Invalid username or password."
        )
        return False

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.hub.repositories:
            return self._json(
                {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, status=409
            )
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.create(repo, private=private)
        return self._json({"url": f"{self.hub.url}/{repo}", "name": repo})

    def _to_modelscope(self, parts: list[str], asked: dict[str, Any]) -> None:
        """ModelScope: a repository is made, the storage is asked which files it lacks, a commit names all."""
        if parts == ["models"]:
            repo = f"{asked['Path']}/{asked['Name']}"
            if repo in self.hub.repositories:
                return self._json({"Code": 10020101001, "Message": "already exists", "Success": False}, status=409)
            self.hub.create(repo, private=asked["Visibility"] == 1, licence=asked["License"])
            return self._json({"Code": 200, "Data": {"Id": 1}, "Success": True})
        if parts[-1] == "batch":
            objects = [
                {"oid": one["oid"], "size": one["size"]}
                | ({} if one["oid"] in self.hub.stored else {"actions": {"upload": {"href": self._place(one["oid"])}}})
                for one in asked["objects"]
            ]
            return self._json({"Code": 200, "Data": {"objects": objects}, "Success": True})
        found = self.hub.repositories["/".join(parts[2:4])]
        for one in asked["actions"]:
            large = one["type"] == "lfs"
            found.files[one["path"]] = self.hub.stored[one["sha256"]] if large else base64.b64decode(one["content"])
        return self._json({"Code": 200, "Data": {"oid": found.commit}, "Success": True})

    def _preupload(self, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": one["path"],
                "shouldIgnore": False,
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
            }
            for one in asked["files"]
        ]
        self._json({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        """The objects, each with an address to send it to unless it is there."""
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | ({} if one["oid"] in self.hub.stored else {"actions": {"upload": {"href": self._place(one["oid"])}}})
            for one in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _place(self, oid: str) -> str:
        return f"{self.hub.url}/upload/{oid}"

    def _commit(self, repo: str, body: bytes) -> None:
        found = self._repository(repo, self.path)
        if found is None:
            return
        for line in body.decode().splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.stored[value["oid"]]
        self._json(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{found.commit}", "commitOid": found.commit, "success": True}
        )
