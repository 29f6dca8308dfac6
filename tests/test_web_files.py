"""Files that are attached to a question: what is read of them, what is said, and that none can hurt the server."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from api_server import Running, running, until
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.data.documents.uploaded import Unreadable, read_apart
from carellama.engine.scripted import ScriptedEngine
from carellama.safety.layer import SafetyLayer
from carellama.serve.web import app as page
from carellama.serve.web import files
from test_documents import docx, run

fpdf = pytest.importorskip("fpdf", reason="PDFs to read are made with fpdf2")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    assistant = Assistant(ScriptedEngine("ok"), safety=SafetyLayer("on", "CN"))
    with running(assistant, extend=lambda app: page.add_page(app, WebOptions(file_bytes=300_000))) as one:
        yield one


def send(server: Running, name: str, content: bytes, **headers: str) -> Any:
    given = {"content-type": "application/octet-stream", "x-file-name": quote(name), **headers}
    return httpx2.post(f"{server.url}/web/files", content=content, headers=given, timeout=60)


def pdf(*pages: str, password: str = "") -> bytes:
    """A PDF with a page for each text; "": a page with a picture of a text, as a scan is."""
    made = fpdf.FPDF()
    if password:
        made.set_encryption(owner_password="owner", user_password=password)
    made.set_font("helvetica", size=12)
    for text in pages:
        made.add_page()
        if text:
            made.multi_cell(0, 8, text)
        else:
            made.rect(10, 10, 50, 50)
    return bytes(made.output())


def word(folder: Path, body: str) -> bytes:
    return docx(folder / "made.docx", body).read_bytes()


TEXT = "患者每次 1~2 片，每日 3 次；血红蛋白 135 g/L。"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
def test_a_text_is_read_as_written_in_each_encoding(server: Running, encoding: str) -> None:
    answer = send(server, "病历.txt", TEXT.encode(encoding))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "name": "病历.txt", "kind": "txt", "text": TEXT, "chars": len(TEXT), "cut": 0, "warnings": [],
    }  # fmt: skip


def test_pdf_docx_and_markdown_are_read(server: Running, tmp_path: Path) -> None:
    found = send(server, "report.pdf", pdf("Hemoglobin 13.5 g/dL", "Take 5 mg twice a day")).json()
    assert found["kind"] == "pdf" and found["pages"] == 2 and found["warnings"] == []
    assert found["text"].splitlines() == ["Hemoglobin 13.5 g/dL", "Take 5 mg twice a day"]
    found = send(server, "a.docx", word(tmp_path, f"<w:p>{run('血压 120/80 mmHg')}</w:p>")).json()
    assert (found["kind"], found["text"]) == ("docx", "血压 120/80 mmHg")
    found = send(server, "a.md", b"# Dose\n\n5*10 mg, 3~4 times").json()
    assert (found["kind"], found["text"]) == ("md", "# Dose\n\n5*10 mg, 3~4 times")


def test_the_content_decides_and_a_wrong_extension_is_said(server: Running, tmp_path: Path) -> None:
    found = send(server, "report.docx", pdf("Hemoglobin 13.5 g/dL")).json()
    assert found["kind"] == "pdf"
    assert found["warnings"] == [{"code": "wrong_extension", "given": "docx", "found": "pdf"}]
    found = send(server, "report.pdf", TEXT.encode()).json()
    assert found["kind"] == "txt" and found["warnings"][0]["code"] == "wrong_extension"
    found = send(server, "notes", word(tmp_path, f"<w:p>{run('x')}</w:p>")).json()
    assert found["warnings"] == [{"code": "wrong_extension", "given": "-", "found": "docx"}]


def test_what_is_left_out_is_counted(server: Running) -> None:
    most = WebOptions().file_chars
    found = send(server, "a.txt", b"word " * 5000).json()
    assert (found["chars"], found["cut"], len(found["text"])) == (most, 25_000 - most, most)
    found = send(server, "a.pdf", pdf("Hemoglobin 13.5 g/dL", "", "")).json()
    assert found["warnings"] == [{"code": "pages_without_text", "count": 2}]


def test_only_the_first_pages_of_a_long_pdf_are_read(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.write_bytes(pdf("first", "second", "third"))
    found = read_apart(path, "a.pdf", max_chars=1000, max_pages=2)
    assert found["text"].split() == ["first", "second"] and found["pages"] == 3
    assert found["warnings"] == [{"code": "pages_left_out", "count": 1}]


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.txt": (b"", "file_empty"),
    "blank.txt": (b" \n\t\r\n", "file_empty"),
    "scan.pdf": (pdf("", ""), "file_no_text"),
    "locked.pdf": (pdf("secret", password="x"), "file_encrypted"),
    "broken.pdf": (b"%PDF-1.7\nthis is none", "file_damaged"),
    "broken.docx": (b"PK\x03\x04this is none", "file_damaged"),
    "locked.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "file_encrypted"),
    "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", "file_unsupported"),
    "photo.jpg": (b"\xff\xd8\xff\xe0" + bytes(range(256)), "file_picture"),
    "program.txt": (bytes(range(256)) * 20, "file_unsupported"),
    "a.txt.gz": (b"\x1f\x8b\x08" + bytes(20), "file_unsupported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_said_by_a_code(server: Running, name: str) -> None:
    content, code = REFUSED[name]
    answer = send(server, name, content)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == code, answer.text
    assert "secret" not in answer.text


def test_the_limits_of_a_request(server: Running) -> None:
    assert send(server, "a.txt", b"x" * 300_001).status_code == 413
    parts = (b"x" * 100_000 for _ in range(4))  # of no declared length
    headers = {"content-type": "application/octet-stream", "x-file-name": "a.txt"}
    assert httpx2.post(f"{server.url}/web/files", content=parts, headers=headers).status_code == 413
    for kind in ("text/plain", "multipart/form-data", "application/json"):  # a foreign page may send the first two
        assert send(server, "a.txt", b"x", **{"content-type": kind}).status_code == 415
    assert send(server, "", b"x").json()["error"]["param"] == "x-file-name"
    text = {"messages": [{"role": "user", "content": "x"}]}
    other = {"content-type": "application/octet-stream"}
    assert httpx2.post(f"{server.url}/web/answers", json=text, headers=other).status_code == 415, "files only there"


def test_names_are_text_without_folders() -> None:
    assert files.name_of(quote("../../etc/病历 <b>.txt")) == "病历 <b>.txt"
    assert files.name_of("C%3A%5Cpatients%5Ca.pdf") == "a.pdf"
    assert files.name_of("a%0d%0ab.txt") == "ab.txt"
    long = files.name_of("x" * 500 + ".pdf")
    assert len(long) == files.NAME_CHARS and long.endswith(".pdf")


def test_nothing_of_a_file_is_kept_or_logged(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    def folders() -> set[Path]:
        return set(Path(tempfile.gettempdir()).glob("carellama-*/document*"))

    before = folders()
    with caplog.at_level(logging.DEBUG):
        assert send(server, "王小明.txt", TEXT.encode()).status_code == 200
        assert send(server, "王小明.pdf", b"%PDF-1.7\n" + TEXT.encode()).status_code == 400
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "/web/files" in logged and "王小明" not in logged and quote("王小明") not in logged and "135" not in logged
    assert folders() <= before


def test_a_file_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.write_bytes(b"text")
    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(Unreadable) as slow:
        read_apart(path, "a.txt", max_chars=10, seconds=0.01, on_start=started.append)
    assert slow.value.code == "file_too_slow" and started[0].poll() is not None


def test_a_bomb_of_a_document_ends_its_own_process(tmp_path: Path) -> None:
    """A docx of 1 MB that unpacks to a gigabyte of text."""
    path = tmp_path / "document"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("word/document.xml", "w") as part:
        for _ in range(1000):
            part.write(b"<w:p>" * 200_000)
    assert path.stat().st_size < 3 << 20
    before = _memory()
    with pytest.raises(Unreadable) as bomb:
        read_apart(path, "a.docx", max_chars=1000, seconds=20.0)
    assert bomb.value.code in ("file_too_big_inside", "file_damaged", "file_too_slow")
    assert _memory() - before < 100 << 20


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_leaves_ends_the_reading_and_others_are_answered_meanwhile(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def slow(path: Path, name: str, *, on_start: Any, **_: Any) -> dict[str, Any]:
        with subprocess.Popen(["sleep", "60"]) as child:
            children.append(child)
            on_start(child)
        raise Unreadable("file_damaged")

    monkeypatch.setattr(files, "read_apart", slow)

    def leave() -> None:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(
                f"{server.url}/web/files",
                content=b"x",
                headers={"content-type": "application/octet-stream", "x-file-name": "a"},
                timeout=1.0,
            )

    threads = [threading.Thread(target=leave) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(children) == 2)
    assert httpx2.get(f"{server.url}/health", timeout=5).status_code == 200
    assert len(children) == 2, "two are read at once"
    for thread in threads:
        thread.join()
    until(lambda: all(child.poll() is not None for child in children))


def test_the_page_is_told_and_the_operator_where_files_cannot_be_read(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = httpx2.get(f"{server.url}/web/config").json()
    assert config["files"] is True and config["limits"]["file_bytes"] == 300_000
    for options, libraries in ((WebOptions(file_bytes=0), files.LIBRARIES), (WebOptions(), ("no_such_library",))):
        monkeypatch.setattr(files, "LIBRARIES", libraries)
        with running(ScriptedEngine("ok"), extend=partial(page.add_page, options=options)) as other:
            assert httpx2.get(f"{other.url}/web/config").json()["files"] is False
            assert send(other, "a.txt", b"x").status_code in (404, 405, 415)


LONG = "The report is unremarkable. Blood count normal, cholesterol 4.2 mmol/L, no findings in the lungs.\n" * 150


@pytest.mark.parametrize(
    "content",
    [
        f"胸口压着疼，一身冷汗，左胳膊麻\n\n附件：report.txt\n```\n{LONG}```",
        f"My chest hurts, crushing, and my left arm is numb.\n\nAttached file: report.txt\n```\n{LONG}```",
        f"What does this say?\n\nAttached file: a.txt\n```\n{LONG}My chest hurts, my left arm is numb.\n```",
        f"这是什么意思？\n\n附件：notes.txt\n```\n{LONG}我现在胸口压着疼，一身冷汗。\n```",
    ],
)
def test_an_emergency_is_noticed_beside_and_inside_a_long_file(server: Running, content: str) -> None:
    assert len(content) > 14_000
    body = {"messages": [{"role": "user", "content": content}]}
    id = httpx2.post(f"{server.url}/web/answers", json=body).json()["id"]
    events = httpx2.get(f"{server.url}/web/answers/{id}", timeout=60).text
    assert '"level":"emergency"' in events, events[:600]


def test_reading_takes_no_time_of_the_event_loop(server: Running) -> None:
    """While two files are read, a request of the others is answered before they are."""
    done: list[float] = []

    def upload() -> None:
        send(server, "a.pdf", pdf(*["Hemoglobin 13.5 g/dL"] * 30))
        done.append(time.monotonic())

    threads = [threading.Thread(target=upload) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert httpx2.get(f"{server.url}/web/config", timeout=10).status_code == 200
    answered = time.monotonic()
    for thread in threads:
        thread.join()
    assert len(done) == 2 and answered < min(done)
