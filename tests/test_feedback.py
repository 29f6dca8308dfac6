"""Feedback on answers: nothing without consent, nothing that names a person, and training data that is read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api_server import Running, running
from carellama.config.serve import WebOptions
from carellama.data.from_feedback import training_data
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import JSONObject
from carellama.serve.web import app as page
from carellama.serve.web import feedback
from carellama.store.accounts import create_account, forget_account
from carellama.store.cipher import Cipher, new_key
from carellama.store.feedback import FeedbackStore
from store_places import clock, database, place, postgres_server

__all__ = ["clock", "database", "place", "postgres_server"]
QUESTION = "我叫王小明，电话13800138000，阿司匹林一次吃几片？"
GIVEN: dict[str, Any] = {
    "consent": True,
    "rating": "down",
    "reasons": ["unsafe", "wrong"],
    "comment": "王小明 says that 5 mg is wrong; mail to xiaoming@example.org",
    "correction": "王小明先生，请按医嘱，每次1~2片。",
    "messages": [{"role": "user", "content": QUESTION}],
    "answer": "王小明您好，每次5片。",
    "model": "carellama:cardio",
}


@contextmanager
def served(place: Path, **options: Any) -> Iterator[Running]:
    given = WebOptions(database=str(place), **options)

    def extend(app: Any) -> None:
        feedback.add_feedback(app, given, lambda: feedback.open_feedback(given))
        page.add_page(app, given)

    with running(ScriptedEngine("ok"), extend=extend) as server:
        yield server


def send(server: Running, **changes: Any) -> Any:
    return httpx2.post(f"{server.url}/web/feedback", json={**GIVEN, **changes}, timeout=60)


def bytes_of(place: Path) -> bytes:
    """All that is on the disk of a database, its journal too."""
    files = list(place.parent.glob(f"{place.name}*"))
    return b"".join(one.read_bytes() for one in files)


def test_nothing_is_stored_without_consent(tmp_path: Path) -> None:
    place = tmp_path / "f.db"
    with served(place) as server:
        assert httpx2.get(f"{server.url}/web/config").json()["feedback"] is True
        for changes in ({"consent": False}, {"consent": "true"}, {"consent": 1}):
            assert send(server, **changes).status_code == 400
        body = {name: value for name, value in GIVEN.items() if name != "consent"}
        assert httpx2.post(f"{server.url}/web/feedback", json=body).status_code == 400
        assert not place.exists()


def test_identifiers_are_masked_before_they_reach_the_disk_and_doses_are_not(tmp_path: Path) -> None:
    place = tmp_path / "f.db"
    with served(place) as server:
        answer = send(server)
        assert answer.status_code == 201, answer.text
        assert answer.json()["masked"]["NAME"] >= 4
        kept = bytes_of(place)
    assert "每次1~2片".encode() in kept and b"cardio" in kept and b"[NAME_1]" in kept
    for word in ("王小明", "13800138000", "xiaoming"):
        assert word.encode() not in kept, word


def test_feedback_is_withdrawn_by_its_id_alone(tmp_path: Path) -> None:
    place = tmp_path / "f.db"
    with served(place) as server:
        id = send(server).json()["id"]
        assert httpx2.delete(f"{server.url}/web/feedback/{id[:-1]}x").status_code == 404
        assert httpx2.delete(f"{server.url}/web/feedback/{id}").status_code == 204
        again = httpx2.delete(f"{server.url}/web/feedback/{id}")
        assert again.status_code == 404 and again.json()["error"]["code"] == "feedback_not_found"
        assert list(feedback.open_feedback(WebOptions(database=str(place))).read()) == []


def test_what_is_too_long_or_no_question_is_refused(tmp_path: Path) -> None:
    with served(tmp_path / "f.db") as server:
        assert send(server, answer="x" * (feedback.MOST_CHARS - 1)).json()["error"]["code"] == "feedback_too_long"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert send(server, messages=turns).status_code == 400
        assert send(server, reasons=["<script>"]).status_code == 400
        assert not (tmp_path / "f.db").exists()


def test_a_database_that_is_away_is_told_without_its_place(tmp_path: Path) -> None:
    place = tmp_path / "secret-place.db"
    with served(place) as server:
        kept = send(server).json()["id"]
        place.rename(tmp_path / "gone.db")
        withdrawn = httpx2.delete(f"{server.url}/web/feedback/{kept}")
        for refused in (send(server), withdrawn):
            assert refused.status_code == 503 and "secret" not in refused.text
        assert not place.exists()


def test_it_is_off_where_it_is_switched_off_or_cannot_be_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path / "f.db", feedback=False) as server:
        assert httpx2.get(f"{server.url}/web/config").json()["feedback"] is False
        assert send(server).status_code in (404, 405)
    monkeypatch.setattr(feedback, "LIBRARIES", ("no_such_library",))
    assert not feedback.feedback_is_masked()
    with served(tmp_path / "f.db") as server:
        assert httpx2.get(f"{server.url}/web/config").json()["feedback"] is False


def test_feedback_of_an_account_is_its_own_and_goes_with_it(database: Any) -> None:
    store = FeedbackStore(database, None)
    admin = create_account(database, "admin", "a long password", "admin")
    ann = create_account(database, "ann", "a long password", "patient")
    mine = store.add({"rating": "up"}, account_id=ann.id)
    other = store.add({"rating": "down"}, account_id=admin.id)
    nobody = store.add({"rating": None}, account_id=None)
    assert not store.delete(mine, account_id=admin.id) and not store.delete(mine, account_id=None)
    assert forget_account(database, ann.id)["feedback"] == 1
    assert {one["rating"] for one in store.read()} == {"down", None}
    assert store.delete(other, account_id=admin.id) and store.delete(nobody, account_id=None)


def test_feedback_is_encrypted_where_the_database_is(database: Any) -> None:
    cipher = Cipher([new_key()])
    FeedbackStore(database, cipher).add({"comment": "secret words"}, account_id=None)
    assert [one["comment"] for one in FeedbackStore(database, cipher).read()] == ["secret words"]
    with pytest.raises(UserError):
        FeedbackStore(database, None)


def said(answer: str, rating: str | None = None, question: str = "Is it high?", **more: Any) -> JSONObject:
    body = {"rating": rating, "correction": "", "rejected": "", "model": "carellama", "answer": answer, **more}
    return {"messages": [{"role": "user", "content": question}], **body}


def test_thumbs_corrections_and_choices_become_records_and_the_rest_is_counted() -> None:
    found = training_data(
        [
            said("A", "up"),
            said("A", "up"),
            said("B", "down", correction="C"),
            said("D", "up"),
            said("D", "down"),
            said("E", rejected="F"),
            said("G", rejected="H"),
            said("H", rejected="G"),
            said("I", correction=" I "),
            said(" ", "up"),
            said("J", "up", question=" "),
        ]
    )
    assert [(one.response, one.good) for one in found.judged] == [("A", True), ("B", False)]
    assert [(one.chosen, one.rejected) for one in found.pairs] == [("C", "B"), ("E", "F"), ("A", "B")]
    assert found.left_out == {
        "the same judgement of the same answer again": 1,
        "an answer that was judged both good and bad": 1,
        "a pair that was chosen both ways": 1,
        "two answers of a pair that are the same": 1,
        "an empty answer": 1,
        "a conversation without a question, or whose turns do not alternate": 1,
    }


def stored(place: Path, *bodies: JSONObject) -> None:
    store = feedback.open_feedback(WebOptions(database=str(place)))
    for body in bodies:
        store.add(body, account_id=None)
    store._database.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": None}, {"messages": [[]]}, {"messages": [{"role": "tool", "content": "x"}]}, {"answer": None},
        {"messages": [{"role": "user", "content": 5}]}, {"rating": "maybe"}, {"correction": None}, {"rejected": 7},
    ],
)  # fmt: skip
def test_a_row_that_is_no_feedback_is_counted(changes: dict[str, Any]) -> None:
    good = {"rating": "up", "correction": "", "rejected": "", "model": "m", "answer": "Rest.",
            "messages": [{"role": "user", "content": "What helps?"}]}  # fmt: skip
    found = training_data([{**good, **changes}, {}, [], good])  # type: ignore[list-item]
    assert found.left_out == {"a row that is no feedback of this version": 3} and len(found.judged) == 1


def test_the_files_are_named_in_dataset_info_and_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from carellama.data.check.check import run as check
    from carellama.data.from_feedback import run

    place, folder = tmp_path / "f.db", tmp_path / "out"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Dose?"}]
    bodies = [said("Yes, it is.", "up"), said("No, never.", "down", correction="Take 1~2 tablets.")]
    stored(place, *bodies, said("As the label says.", "up", messages=turns))
    folder.mkdir()
    (folder / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    run(["--database", str(place), "--output_dir", str(folder)])
    info = json.loads((folder / "dataset_info.json").read_text())
    assert list(info) == ["other", "feedback_kto", "feedback_pairs"]
    assert "answers that were judged: 3; pairs: 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="overwrite"):
        run(["--database", str(place), "--output_dir", str(folder)])
    run(["--database", str(place), "--output_dir", str(folder), "--overwrite", "true"])
    check([str(folder / "feedback_kto.jsonl"), str(folder / "feedback_pairs.jsonl")])
    with pytest.raises(UserError, match="no such database"):
        run(["--database", str(tmp_path / "none.db"), "--output_dir", str(folder / "new")])


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [("kto", "feedback_kto"), ("dpo", "feedback_pairs")])
def test_a_model_is_trained_on_them(tmp_path: Path, tiny_folder: Path, stage: str, name: str) -> None:
    from carellama.data.from_feedback import run
    from carellama.train.run import train

    place, folder = tmp_path / "f.db", tmp_path / "out"
    stored(place, *(said(f"A{n}", "up", f"Q{n}?", correction=f"C{n}") for n in range(4)), said("B", "down", "Q0?"))
    run(["--database", str(place), "--output_dir", str(folder)])
    where = f"--model_name_or_path {tiny_folder} --dataset_dir {folder} --output_dir {tmp_path / 'trained'}"
    what = f"--stage {stage} --dataset {name} --do_train --max_steps 1 --per_device_train_batch_size 2"
    train(f"{where} {what} --finetuning_type lora --template chatml".split())
    assert (tmp_path / "trained" / "adapter_model.safetensors").is_file()
