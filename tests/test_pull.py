"""Pulling from a server on this machine that resumes, breaks off, lies about sizes, and answers with pages."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from carellama.config.data_commands import ConvertOptions
from carellama.config.environment import dataset_home
from carellama.config.reader import parse_options
from carellama.data.catalogue import pull
from carellama.data.catalogue.entries import Entry, Part
from carellama.data.catalogue.pulled_files import unpack
from carellama.download import hosts, http
from carellama.download.hosts import Host
from carellama.errors import UserError

BODY = b'{"query": "A made-up question?", "response": "A made-up answer."}\n' * 4000


@dataclass
class Page:
    """What the server answers at one path."""

    body: bytes = BODY
    etag: str = '"one"'
    kind: str = "application/octet-stream"
    break_after: list[int] = field(default_factory=list)  # bytes after which each next answer breaks off
    headers: dict[str, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)  # status of each next answer


@dataclass
class Server:
    """A server of `pages`, and what was asked of it."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    sent: int = 0


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            page = state.pages.get(path)
            span = self.headers.get("Range", "")
            state.asked.append((self.command, path, span))
            status = page.failures.pop(0) if page and page.failures and body else 200
            if page is None or status != 200:
                self.send_response(404 if page is None else status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = page.body
            start = int(re.findall(r"\d+", span)[0]) if span else 0
            if start and self.headers.get("If-Range") == page.etag:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                content = content[start:]
            else:
                self.send_response(200)
            for name, value in {"ETag": page.etag, "Content-Type": page.kind, **page.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                content = content[: page.break_after.pop(0)] if page.break_after else content
                self.wfile.write(content)
                state.sent += len(content)
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield state
        running.shutdown()


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr(http, "RETRY_DELAYS", (0.0, 0.0))


def entry(*places: Host, **changes) -> Entry:
    part = Part("all", "sft", ("*.jsonl",), (), ("query-response",))
    made = Entry(
        "toy", "A toy", "en", "two", "MIT", "https://toy.example/terms", False, "https://toy.example", places, (part,)
    )
    return replace(made, **changes)


def run(monkeypatch, made: Entry, *argv: str) -> Path:
    monkeypatch.setattr(pull, "find", lambda name: (made, made.parts[0]))
    pull.run(["toy", *argv])
    return dataset_home() / "toy"


def at(server: Server, name: str = "a.jsonl", **changes) -> Host:
    return replace(Host("url", f"{server.url}/{name}"), **changes)


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_a_file_arrives_whole_with_its_record_and_is_kept_the_next_time(server, monkeypatch, capsys):
    server.pages["/a.jsonl"] = Page()
    made = entry(at(server, sha256=hashlib.sha256(BODY).hexdigest()))
    home = run(monkeypatch, made)
    assert (home / "files/a.jsonl").read_bytes() == BODY
    record = json.loads((home / "pulled.json").read_text())
    assert record["sources"][0]["source"] == "url" and record["licence"] == "MIT"
    assert record["files"]["a.jsonl"]["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert sorted(path.name for path in home.iterdir() if path.name != ".lock") == ["files", "pulled.json"]
    assert "licence MIT, terms: https://toy.example/terms" in capsys.readouterr().out
    run(monkeypatch, made)
    assert server.sent == len(BODY) and "kept a.jsonl" in capsys.readouterr().out
    (home / "files/a.jsonl").write_bytes(b"damaged")
    run(monkeypatch, made)
    assert (home / "files/a.jsonl").read_bytes() == BODY


def test_a_broken_connection_is_resumed_where_it_broke_and_said(server, monkeypatch, capsys):
    server.pages["/a.jsonl"] = Page(break_after=[50_000])
    home = run(monkeypatch, entry(at(server)))
    assert (home / "files/a.jsonl").read_bytes() == BODY
    assert server.sent == len(BODY)
    assert [span for method, _, span in server.asked if method == "GET"] == ["", "bytes=50000-"]
    assert "a.jsonl: " in capsys.readouterr().err


def test_the_next_pull_goes_on_and_a_changed_file_begins_anew(server, monkeypatch):
    for etag, sent in (('"one"', len(BODY)), ('"two"', len(BODY) + 30_000)):
        server.sent = 0
        server.pages["/a.jsonl"] = Page(break_after=[10_000, 10_000, 10_000])
        made = entry(at(server))
        with pytest.raises(UserError, match="the connection broke 3 times"):
            run(monkeypatch, made)
        home = dataset_home() / "toy"
        assert not (home / "files").exists()
        assert (home / "incoming/a.jsonl.part").stat().st_size == 30_000
        server.pages["/a.jsonl"] = Page(etag=etag)
        run(monkeypatch, made)
        assert (home / "files/a.jsonl").read_bytes() == BODY and server.sent == sent
        for path in (home / "files/a.jsonl", home / "pulled.json"):
            path.unlink()
        (home / "files").rmdir()


def test_a_killed_pull_goes_on(server, tmp_path, monkeypatch):
    server.pages["/a.jsonl"] = Page(break_after=[20_000])
    part = tmp_path / "a.jsonl"
    program = (
        "import os, sys; from pathlib import Path; from carellama.download import http\n"
        "http.time.sleep = lambda seconds: os._exit(9)\n"
        f"http.download(http.RemoteFile('a.jsonl', '{server.url}/a.jsonl'), Path(r'{part}'))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert not part.exists()
    http.download(http.RemoteFile("a.jsonl", f"{server.url}/a.jsonl"), part)
    assert part.read_bytes() == BODY and server.sent == len(BODY)


def test_a_busy_host_is_asked_again(server, monkeypatch, capsys):
    server.pages["/a.jsonl"] = Page(failures=[503])
    run(monkeypatch, entry(at(server)))
    assert "503" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "said"),
    [(Page(body=b"<html>quota</html>", kind="text/html; charset=utf-8"), "answers with a page"), (None, "not there")],
)
def test_a_page_or_nothing_in_place_of_the_file_is_refused_with_the_way_by_hand(server, monkeypatch, page, said):
    if page:
        server.pages["/get"] = page
    monkeypatch.setitem(hosts.BASE_URLS, "google-drive", server.url + "/get?id={repo}")
    with pytest.raises(UserError, match=rf"(?s){said}.*--from FOLDER"):
        run(monkeypatch, entry(Host("google-drive", "the-id", ("a.jsonl",))))
    assert not (dataset_home() / "toy/files").exists()


def test_a_file_with_another_sum_is_refused_and_the_next_host_is_tried(server, monkeypatch, capsys):
    server.pages |= {"/a.jsonl": Page(), "/b.jsonl": Page()}
    home = run(monkeypatch, entry(at(server, sha256="0" * 64), at(server, "b.jsonl")))
    assert [path.name for path in (home / "files").iterdir()] == ["b.jsonl"]
    assert "url: a.jsonl was changed or damaged" in capsys.readouterr().err


def test_a_size_other_than_announced_is_refused(server, tmp_path):
    server.pages["/a.jsonl"] = Page()
    with pytest.raises(http.DownloadError, match=r"instead of 7 bytes|instead of 7"):
        http.download(http.RemoteFile("a.jsonl", f"{server.url}/a.jsonl", size=7), tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_github_gives_chinese_names_pointers_and_older_branches(server, monkeypatch):
    for kind in ("github", "github-lfs"):
        monkeypatch.setitem(hosts.BASE_URLS, kind, f"{server.url}/{kind}/{{repo}}/{{revision}}/{{path}}")
    oid = hashlib.sha256(BODY).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(BODY)}\n".encode()
    server.pages |= {
        "/github/o/n/master/内科/a.jsonl": Page(pointer),
        "/github-lfs/o/n/master/内科/a.jsonl": Page(),
    }
    made = entry(Host("github", "o/n", ("内科/a.jsonl",)))
    home = run(monkeypatch, made)
    assert (home / "files/内科/a.jsonl").read_bytes() == BODY
    sent = server.sent
    run(monkeypatch, made)
    assert server.sent == sent


def test_patterns_are_listed_by_github_and_modelscope(server, monkeypatch):
    monkeypatch.setitem(hosts.BASE_URLS, "github", f"{server.url}/{{path}}")
    monkeypatch.setitem(hosts.BASE_URLS, "github-tree", server.url + "/tree")
    monkeypatch.setitem(hosts.BASE_URLS, "modelscope-tree", server.url + "/files")
    monkeypatch.setitem(hosts.BASE_URLS, "modelscope", f"{server.url}/{{path}}")
    blobs = [{"path": name, "type": "blob"} for name in ("a.jsonl", "b.jsonl", "README.md")]
    server.pages["/tree"] = Page(json.dumps({"tree": blobs, "truncated": False}).encode(), kind="application/json")
    listed = [{"Path": "a.jsonl", "Type": "blob", "Size": len(BODY)}, {"Path": "d", "Type": "tree"}]
    server.pages["/files"] = Page(json.dumps({"Code": 200, "Data": {"Files": listed}}).encode())
    server.pages |= {"/a.jsonl": Page(), "/b.jsonl": Page()}
    home = run(monkeypatch, entry(Host("github", "o/n", ("*.jsonl",))))
    assert sorted(path.name for path in (home / "files").iterdir()) == ["a.jsonl", "b.jsonl"]
    run(monkeypatch, entry(Host("github", "o/n"), Host("modelscope", "o/n")), "--source", "modelscope")
    assert [path.name for path in (home / "files").iterdir()] == ["a.jsonl"]  # the other was github's
    run(monkeypatch, entry(Host("modelscope", "o/n", ("*.jsonl", "*.parquet"))))  # whichever format it has
    for missing in ("c*", "c.jsonl"):
        with pytest.raises(UserError, match="has no file c"):
            run(monkeypatch, entry(Host("modelscope", "o/n", (missing,))))
    with pytest.raises(UserError, match="--source can be github"):
        run(monkeypatch, entry(Host("github", "o/n")), "--source", "url")


def test_a_zip_is_unpacked_and_kept(server, monkeypatch):
    server.pages["/a.zip"] = Page(zipped({"in/a.jsonl": BODY, "__MACOSX/in/._a.jsonl": b"x"}))
    made = entry(at(server, "a.zip"))
    home = run(monkeypatch, made)
    there = [path.relative_to(home / "files").as_posix() for path in (home / "files").rglob("*") if path.is_file()]
    assert there == ["a/in/a.jsonl"]
    sent = server.sent
    run(monkeypatch, made)
    assert server.sent == sent


def test_a_dataset_spread_over_repositories_is_fetched_whole(server, monkeypatch, capsys):
    server.pages |= {"/small/a.jsonl": Page(b"small"), "/large/a.jsonl": Page(), "/z.zip": Page(zipped({"b": b"b"}))}
    small, large, packed = (
        replace(at(server, name), holds=holds)
        for name, holds in (("small/a.jsonl", "small"), ("large/a.jsonl", "large"), ("z.zip", "packed"))
    )
    elsewhere = replace(at(server, "nowhere.jsonl"), holds="small")
    made = entry(elsewhere, small, large, packed)
    whole = {"small/a.jsonl": b"small", "large/a.jsonl": BODY, "packed/z/b": b"b"}
    for _ in range(2):
        files = run(monkeypatch, made) / "files"
        there = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in there.items()} == whole
        assert server.sent == sum(len(server.pages[path].body) for path in server.pages)
    assert capsys.readouterr().out.count("licence MIT") == 2
    run(monkeypatch, entry(large, replace(small, kind="github", repo="o/n")), "--source", "url")
    assert "not fetched: small" in capsys.readouterr().err
    assert (files / "small/a.jsonl").read_bytes() == b"small"


@pytest.mark.parametrize("name", ["../out.jsonl", "/out.jsonl", "in/../../out.jsonl", "..\\out.jsonl"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").write_bytes(zipped({"good.jsonl": BODY, name: b"bad"}))
    with pytest.raises(http.DownloadError, match="leads out"):
        unpack(tmp_path / "in/a.zip", tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.zip"]


def test_a_damaged_zip_is_one_line(server, monkeypatch):
    server.pages["/a.zip"] = Page(zipped({"a.jsonl": BODY})[:-40])
    with pytest.raises(UserError, match="not a whole zip"):
        run(monkeypatch, entry(at(server, "a.zip")))


def test_terms_that_have_to_be_accepted_are(server, monkeypatch):
    server.pages["/a.jsonl"] = Page()
    made = entry(at(server), accept=True)
    with pytest.raises(UserError, match=r"https://toy.example/terms, then --accept_licence"):
        run(monkeypatch, made)
    with pytest.raises(UserError, match="--accept_licence"):  # and not forgotten when the first host fails
        run(monkeypatch, replace(made, hosts=(Host("url", "http://127.0.0.1:9/a.jsonl"), at(server))))
    assert server.sent == 0
    run(monkeypatch, made, "--accept_licence")
    run(monkeypatch, made)  # remembered
    (dataset_home() / "toy/pulled.json").unlink()
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})("n\n"))
    monkeypatch.setattr("sys.stdout", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    with pytest.raises(UserError, match="not accepted"):
        run(monkeypatch, made)


def test_without_a_connection_one_line_says_so(monkeypatch, capsys):
    made = entry(Host("url", "http://127.0.0.1:9/a.jsonl", ("a.jsonl",)))
    with pytest.raises(UserError, match=r"no connection to 127.0.0.1; .*--from FOLDER"):
        run(monkeypatch, made)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        run(monkeypatch, made)
    assert capsys.readouterr() == ("", "")
    assert not (dataset_home() / "toy").exists()


def test_a_manual_dataset_names_its_page_and_takes_a_folder(tmp_path, monkeypatch, capsys):
    made = entry(Host("manual", "https://toy.example/apply", ("toy.zip", "b.jsonl")))
    with pytest.raises(UserError, match=r"by hand: download toy.zip, b.jsonl from https://toy.example/apply"):
        run(monkeypatch, made)
    folder = tmp_path / "Downloads"
    folder.mkdir()
    with pytest.raises(UserError, match="has no file of toy"):
        run(monkeypatch, made, "--from", str(folder))
    (folder / "toy.zip").write_bytes(zipped({"a.jsonl": BODY}))
    (folder / "letter.txt").write_text("not of the dataset")
    home = run(monkeypatch, made, "--from", str(folder))
    assert [path.name for path in (home / "files").rglob("*") if path.is_file()] == ["a.jsonl"]
    (folder / "b.jsonl").write_bytes(BODY)
    run(monkeypatch, made, "--from_folder", str(folder / "b.jsonl"))
    assert {path.name for path in (home / "files").rglob("*") if path.is_file()} == {"a.jsonl", "b.jsonl"}
    with pytest.raises(UserError, match="no such file"):
        run(monkeypatch, made, "--from", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"letter\.txt is not called as a file of toy, .*convert toy --from FILE"):
        run(monkeypatch, made, "--from", str(folder / "letter.txt"))
    with pytest.raises(UserError, match="--source github from a host"):
        run(monkeypatch, made, "--from", str(folder), "--source", "github")


def test_what_is_missing_of_a_folder_is_said(tmp_path, monkeypatch, capsys):
    part = Part("all", "sft", ("*train*.jsonl", "*train*.csv"), ("test.jsonl",), ("query-response",))
    made = entry(Host("manual", "https://toy.example/apply"), parts=(part,))
    (tmp_path / "my_train.jsonl").write_bytes(BODY)  # one of the two forms is enough
    run(monkeypatch, made, "--from", str(tmp_path))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("missing")]
    assert lines == ["missing: test.jsonl (toy:all, held out; see https://toy.example)"]
    (tmp_path / "test.jsonl").write_bytes(BODY)
    run(monkeypatch, made, "--from", str(tmp_path / "test.jsonl"))
    assert "missing:" not in capsys.readouterr().out


def test_both_spellings_of_from_are_options():
    for flag in ("--from", "--from_path"):
        assert parse_options((ConvertOptions,), ["x", flag, "a"], "carellama", positional="name")[0].from_path == "a"


def test_an_unknown_name_has_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'chatmed-consult'"):
        pull.run(["chatmed-consul"])


def test_a_disk_without_room_is_said_before_anything_comes(server, monkeypatch):
    server.pages["/a.jsonl"] = Page()
    monkeypatch.setattr(http, "FREE_SPACE_MARGIN", 1 << 60)
    with pytest.raises(UserError, match="GB are needed"):
        run(monkeypatch, entry(at(server)))
    assert server.sent == 0 or not list(dataset_home().rglob("*.part"))


def of_hub(server: Server, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    program = "from carellama.cli import main; main()"
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "NO_PROXY": "*",
    }
    command = [sys.executable, "-c", program, "data", "pull", "chatmed-consult"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_hub_and_its_mirrors(server, tmp_path):
    repo, name, commit = "michaelwzhu/ChatMed_Consult_Dataset", "ChatMed_Consult-v0.3.json", "a" * 40
    sha256 = hashlib.sha256(BODY).hexdigest()
    file = {"rfilename": name, "size": len(BODY), "lfs": {"sha256": sha256, "size": len(BODY), "pointerSize": 1}}
    info = {"id": repo, "sha": commit, "siblings": [{"rfilename": "README.md"}, file], "tags": []}
    listed = Page(json.dumps(info).encode(), kind="application/json")
    server.pages[f"/api/datasets/{repo}/revision/main"] = listed
    served = Page(etag=f'"{sha256}"', headers={"X-Repo-Commit": commit})
    server.pages[f"/datasets/{repo}/resolve/{commit}/{name}"] = served
    done = of_hub(server, tmp_path)
    assert done.returncode == 0, done.stderr
    home = tmp_path / "cache/datasets/chatmed-consult"
    assert (home / "files" / name).read_bytes() == BODY
    record = json.loads((home / "pulled.json").read_text())
    assert record["sources"][0]["revision"] == commit and record["files"][name]["sha256"] == sha256
    assert f"kept {name}" in of_hub(server, tmp_path).stdout
    listed.headers = {"X-Error-Code": "GatedRepo"}
    listed.failures = [403]
    refused = of_hub(server, tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


def test_a_pull_that_is_interrupted_keeps_what_came_and_says_so(server, monkeypatch, capsys):
    server.pages["/a.jsonl"] = Page(break_after=[20_000])
    made = entry(at(server))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, made)
    assert "what has arrived is kept" in capsys.readouterr().err
    run(monkeypatch, made)
    assert server.sent == len(BODY)
