"""`carellama data clean`: every row is written or counted, twice is as once, and no removed text is shown."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import preloaded
from carellama.config.data_commands import CleanOptions
from carellama.data.catalogue.convert import run as convert
from carellama.data.catalogue.entries import entries
from carellama.data.clean import clean as module
from carellama.data.clean.clean import clean, run
from carellama.data.clean.filters import boilerplate, refusal, repeats
from carellama.errors import UserError
from carellama.records import Chat, Message, Pair
from test_contamination import CHINESE as EXAM_CHINESE
from test_contamination import EDITED_CHINESE, ENGLISH
from test_duplicates import CHINESE, LONG, OTHER

REFUSED = "很抱歉，我是一个人工智能语言模型，无法回答。"
ROWS = [
    ("What is asthma?", LONG),
    ("什么是哮喘？", CHINESE),
    ("what is ASTHMA", LONG),
    ("What is asthma?", LONG + " Thanks."),
    ("怎么办？", REFUSED),
    ("Hello", "Hello! How can I help you today?"),
    ("What is reflux?", OTHER),
    ("Which one?", "Rest and drink water. " * 30),
    (ENGLISH, "Asthma is likely; a clinician can test for it."),
    ("", "no question"),
    ("哮喘怎么办？", "如果症状加重，请咨询医生。我叫王小明，电话 13800138000。"),
]


@pytest.fixture(autouse=True)
def _no_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"instruction": one, "input": "", "output": two}) + "\n" for one, two in ROWS),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    path = tmp_path / "exam.jsonl"
    row = {"id": "7", "question": ENGLISH, "options": {"A": "asthma", "B": "reflux"}, "answer": "A"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


NO_PROCESS = (1 << 22) + 1  # above the highest number that Linux gives


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_row_is_written_or_listed_with_its_reason(source: Path, exam: Path, capsys) -> None:
    output, removed = source.with_name("clean.jsonl"), source.with_name("removed.jsonl")
    run([str(source), "--output", str(output), "--removed", str(removed), "--exams", str(exam)])
    assert [row["instruction"] for row in lines(output)] == [ROWS[at][0] for at in (0, 1, 6, 10)]
    reasons = {int(row["place"].rpartition(":")[2]): row for row in lines(removed)}
    assert {line: row["reason"] for line, row in reasons.items()} == {
        3: "exact duplicate", 4: "near duplicate", 5: "boilerplate", 6: "boilerplate", 8: "repetition",
        9: "exam question", 10: "empty question",
    }  # fmt: skip
    assert len(lines(output)) + len(reasons) == len(ROWS)
    assert reasons[3]["partner"] == reasons[4]["partner"] == f"{source}:1"
    assert reasons[4]["similarity"] < 1 and reasons[9]["question"] == "7"
    said = "".join(capsys.readouterr())
    assert f"{len(ROWS)} rows, 4 used, 7 skipped" in said and "cmexam:exam" in said
    for shown in (said, removed.read_text(encoding="utf-8")):
        assert "人工智能" not in shown and "Thanks" not in shown and "clinician" not in shown


def test_removed_rows_are_listed_in_the_order_of_the_input(source: Path, exam: Path) -> None:
    second, removed = source.with_name("second.jsonl"), source.with_name("removed.jsonl")
    second.write_bytes(source.read_bytes())  # all of it is there already
    names = [str(source), str(second)]
    clean(CleanOptions(names, output=str(source.with_name("c.jsonl")), removed=str(removed), exams=[str(exam)]))
    places = [row["place"] for row in lines(removed)]
    assert places == [
        *(f"{source}:{line}" for line in (3, 4, 5, 6, 8, 9, 10)),
        *(f"{second}:{line}" for line in range(1, len(ROWS) + 1)),
    ]


def test_an_edited_exam_question_is_listed_with_its_partner_and_how_much_of_it(source: Path, exam: Path) -> None:
    row = {"id": "8", "question": EXAM_CHINESE, "options": {"A": "哮喘", "B": "反流"}, "answer": "A"}
    with exam.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    turns = [[CHINESE, "好的。"], [f"请问：{EDITED_CHINESE}", "哮喘。"]]
    source.write_text(
        json.dumps({"instruction": "谢谢", "input": "", "output": OTHER, "history": turns})
        + "\n"
        + json.dumps({"instruction": "What is reflux?", "input": "", "output": OTHER})
    )
    removed = source.with_name("removed.jsonl")
    _, written = clean(
        CleanOptions([str(source)], output=str(removed.with_name("c")), removed=str(removed), exams=[str(exam)])
    )
    (entry,) = lines(removed)
    assert written == 1 and entry["reason"] == "near an exam question"
    assert (entry["exam"], entry["question"]) == (str(exam), "8") and 0.75 <= entry["similarity"] < 1
    arguments = CleanOptions([str(source)], output=str(removed.with_name("d")), exams=[str(exam)], exam_similarity=0)
    assert clean(arguments)[1] == 2


def test_twice_is_as_once_and_two_runs_give_the_same(source: Path) -> None:
    first, again, second = (str(source.with_name(name)) for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    clean(CleanOptions([str(source)], output=first))
    clean(CleanOptions([str(source)], output=again))
    account, written = clean(CleanOptions([first], output=second))
    assert Path(first).read_bytes() == Path(again).read_bytes() == Path(second).read_bytes()
    assert account.report.datasets[first].skipped == 0 and written


def test_identifiers_are_masked_and_counted(source: Path) -> None:
    output = source.with_name("clean.jsonl")
    account, _ = clean(CleanOptions([str(source)], output=str(output), deidentify="mask"))
    assert "13800138000" not in output.read_text(encoding="utf-8")
    assert account.masked["PHONE"] == 1 and account.changed == 1


META = {
    "patient": "王小明",
    "name": "Jane Doe",
    "联系电话": "138 0013 8000",
    "title": "张伟医生的回答",
    "department": "内科",
}


@pytest.mark.parametrize("mode", ["mask", "surrogate"])
def test_identifiers_beside_the_texts_go_as_well(source: Path, mode: Any) -> None:
    row = {"instruction": "咳嗽怎么办？", "input": "", "output": "王小明可以多喝水。Jane should rest.", "meta": META}
    source.write_text(json.dumps(row), encoding="utf-8")
    output = source.with_name("clean.jsonl")
    account, _ = clean(CleanOptions([str(source)], output=str(output), deidentify=mode))
    (cleaned,) = lines(output)
    assert set(cleaned["meta"]) == {"title", "department"} and cleaned["meta"]["department"] == "内科"
    for said in ("王小明", "Jane", "Doe", "8000", "张伟"):
        assert said not in output.read_text(encoding="utf-8")
    assert account.masked["NAME"] == 5 and account.masked["PHONE"] == 1 and account.changed == 1


def test_what_names_nobody_beside_the_texts_stays(source: Path) -> None:
    meta = {"id": "20190115-12", "source": "a/b.jsonl", "drug_name": "aspirin", "author": "Zhang Zhongjing"}
    row = {"instruction": "What is asthma?", "input": "", "output": LONG, "meta": meta}
    source.write_text(json.dumps(row), encoding="utf-8")
    output = source.with_name("clean.jsonl")
    account, _ = clean(CleanOptions([str(source)], output=str(output), deidentify="mask"))
    assert lines(output)[0]["meta"] == meta and not account.masked


def test_surrogates_are_the_same_with_the_same_secret(source: Path) -> None:
    secret = source.with_name("secret")
    secret.write_bytes(b"a secret of tests")
    made: list[Any] = []
    for name in ("a.jsonl", "b.jsonl"):
        output = source.with_name(name)
        clean(CleanOptions([str(source)], output=str(output), deidentify="surrogate", secret_file=str(secret)))
        made.append(output.read_text(encoding="utf-8"))
    assert made[0] == made[1] and "13800138000" not in made[0]


def test_languages_and_lengths(source: Path) -> None:
    output = source.with_name("clean.jsonl")
    account, written = clean(CleanOptions([str(source)], output=str(output), languages="zh", longest_answer=40))
    done = account.report.datasets[str(source)].done["skipped"]
    assert done["language"].count == 7 and done["answer too long"].count == 1 and written == 1


def test_languages_that_name_none_remove_no_record(source: Path) -> None:
    """A comma alone named no language, which every record then was not of."""
    output = source.with_name("clean.jsonl")
    account, written = clean(CleanOptions([str(source)], output=str(output), languages=","))
    assert written > 1 and "language" not in account.report.datasets[str(source)].done.get("skipped", {})


def test_removed_text_is_listed_only_when_asked(source: Path) -> None:
    removed = source.with_name("removed.jsonl")
    clean(CleanOptions([str(source)], output=str(source.with_name("c.jsonl")), removed=str(removed), removed_text=True))
    assert REFUSED in {row["record"]["output"] for row in lines(removed) if "record" in row}


def test_a_failure_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = set(source.parent.iterdir())
    monkeypatch.setattr(module, "row_of", fail)
    with pytest.raises(OSError, match="No space"):
        clean(CleanOptions([str(source)], output=str(source.with_name("c.jsonl"))))
    assert set(source.parent.iterdir()) == before


def test_a_killed_run_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    source, folder = tmp_path / "rows.jsonl", tmp_path / "out"
    rows = [f"患者王小明，第{number}次复诊，电话 13800138000。{CHINESE}" for number in range(20_000)]
    row = '{{"instruction": "{}", "input": "", "output": "{}"}}\n'
    source.write_text("".join(row.format(question, CHINESE) for question in rows), encoding="utf-8")
    options = [
        "--output",
        "out/clean.jsonl",
        "--removed",
        "out/removed.jsonl",
        "--removed_text",
        "--deidentify",
        "mask",
    ]
    command = [sys.executable, "-m", "carellama", "data", "clean", "rows.jsonl", *options, "--deidentify", "mask"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while "not looked for" not in running.stderr.readline():  # then it begins to read
            assert running.poll() is None
        until_something_waits(running.pid)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert list(folder.rglob("*")) == [] and set(tmp_path.iterdir()) - {tmp_path / "cache"} == {source, folder}
    # the output of a run that was killed while it wrote, and one of a run that goes on
    killed, other = (folder / f".clean.jsonl.{platform.node()}-{number}.tmp" for number in (NO_PROCESS, os.getppid()))
    killed.write_text(rows[0], encoding="utf-8")
    other.touch()
    source.write_text(row.format(rows[0], CHINESE), encoding="utf-8")
    subprocess.run([preloaded.python(), *command[1:]], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in folder.iterdir()} == {"clean.jsonl", "removed.jsonl", other.name}
    assert "13800138000" not in (folder / "clean.jsonl").read_text(encoding="utf-8")


def until_something_waits(process: int) -> None:
    """Wait until a process has written to a file without a name; where that cannot be seen, a second."""
    for _ in range(600):
        if not (files := Path(f"/proc/{process}/fd")).is_dir():
            time.sleep(1)
            return
        with contextlib.suppress(FileNotFoundError):  # it may close one while they are looked at
            if any("(deleted)" in str(file.readlink()) and file.stat().st_size for file in files.iterdir()):
                return
        time.sleep(0.05)
    raise AssertionError("nothing was written")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"threshold": 2.0}, "at least 0 and at most 1"),
        ({"languages": "cn"}, "unknown language 'cn'"),
        ({"secret_file": "x"}, "--secret_file is for"),
        ({"deidentify": "surrogate", "secret_file": "nowhere"}, "cannot read --secret_file"),
        ({"removed_text": True}, "needs --removed"),
        ({"exam_characters": 3}, "at least 8"),
        ({"exam_similarity": 0.2}, "neither 0 nor between"),
        ({"shortest_answer": 9999}, "no row is left"),
        ({"exams": ["data/consult_en.json"]}, "holds no exam question"),
    ],
)
def test_mistakes_are_one_line(source: Path, options: dict, said: str) -> None:
    output = source.with_name("c.jsonl")
    with pytest.raises(UserError, match=said) as error:
        clean(CleanOptions([str(source)], output=str(output), **options))
    assert "\n" not in str(error.value) and not output.exists()


def test_texts_and_conversations_do_not_come_into_one_file(source: Path) -> None:
    texts = source.with_name("texts.jsonl")
    texts.write_text(json.dumps({"text": LONG}))
    with pytest.raises(UserError, match=r"holds conversations and .* holds texts"):
        clean(CleanOptions([str(source), str(texts)], output=str(source.with_name("c.jsonl"))))


def test_a_file_that_is_there_is_kept(source: Path) -> None:
    other = source.with_name("other.jsonl")
    other.write_text("mine", encoding="utf-8")
    for output, says in ((source, "the original stays"), (other, "there already")):
        with pytest.raises(UserError, match=says):
            clean(CleanOptions([str(source)], output=str(output)))
    assert other.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("answer", ["你好！", "Hi.", "https://example.org/a", "As an AI language model, I can not."])
def test_boilerplate_is_seen(answer: str) -> None:
    assert boilerplate(answer)


@pytest.mark.parametrize("answer", [LONG, CHINESE, "您好，多喝水，三天不退烧请咨询医生。", "Sorry to hear that. Rest."])
def test_real_answers_are_not_boilerplate_nor_repetition(answer: str) -> None:
    assert boilerplate(answer) is None and not repeats(answer)


@pytest.mark.parametrize("text", ["多喝水，注意休息。" * 20, "\n".join([LONG, LONG, OTHER])])
def test_repetition_is_seen(text: str) -> None:
    assert repeats(text)


def test_a_short_chinese_text_may_name_its_subject_twice() -> None:
    text = "支气管哮喘急性发作时应尽快就医。" + CHINESE + "支气管哮喘急性发作时要保持镇静。"
    assert len(text) < 100 and not repeats(text)


@pytest.mark.parametrize(
    "text",
    [
        "\n\n".join(
            f"{at}.{name}\n类型：未提及\n大小：未提及\n数量：未提及" for at, name in enumerate(["结石", "囊肿"] * 4)
        ),
        "哮喘的诱因："
        + "".join(
            f"哮喘患者接触{name}后可能发作。"
            for name in ["尘螨", "花粉", "烟雾", "冷空气", "油漆", "香水", "猫毛", "霉菌"]
        ),
    ],
)
def test_forms_and_lists_are_not_repetition(text: str) -> None:
    assert len(text) > 100 and not repeats(text)


def test_a_conversation_stays_while_one_of_its_answers_is_of_use() -> None:
    def chat(*answers: str) -> Chat:
        return Chat(tuple(message for one in answers for message in (Message("user", "?"), Message("assistant", one))))

    bounds = CleanOptions(["a"], shortest_answer=2)
    assert refusal(chat(CHINESE, "不客气！"), bounds) is None and refusal(chat(CHINESE, "嗯"), bounds) is None
    assert refusal(chat("您好", "不客气！"), bounds) == ("boilerplate", "nothing but a phrase (zh)")
    assert refusal(chat("嗯", "…………"), bounds) == ("answer too short", "1 character")
    assert refusal(chat("7"), CleanOptions(["a"], shortest_answer=1)) is None


def test_the_worse_answer_of_a_pair_may_be_bad() -> None:
    asked = (Message("user", "什么是哮喘？"),)
    assert refusal(Pair(asked, CHINESE, REFUSED), CleanOptions(["a"])) is None
    assert refusal(Pair(asked, CHINESE, "多喝水，注意休息。" * 20), CleanOptions(["a"])) is None
    assert refusal(Pair(asked, REFUSED, CHINESE), CleanOptions(["a"])) is not None


def test_a_refusal_that_gives_its_reason_is_an_answer() -> None:
    short = "抱歉，我不能提供这个剂量。"
    assert boilerplate(short) and boilerplate(short + "超过说明书的剂量会伤害肝脏，请先问开药的医生。") is None


REAL = (
    "carellama-upstream/drug.head.json",
    "chinese-medical-dialogue/内科.head.txt",
    "chatmed-consult/ChatMed-Consult_test.json",
    "imcs-v2/IMCS-V2_dev_conversation.head.json",
)


@pytest.fixture
def real_files(real_data: Path, tmp_path: Path) -> list[str]:
    """Some real files as records: texts, then questions with answers and conversations."""
    made: list[Any] = []
    for name in REAL:
        dataset, file = name.split("/")[0], str(real_data / name)
        made.append(str(tmp_path / f"{len(made)}.jsonl"))
        words = [dataset, "--from_path", file] if dataset in entries() else [file]
        convert([*words, "--output", made[-1]])
    return made


@pytest.mark.parametrize("first, last", [(0, 1), (1, len(REAL))])
def test_every_row_of_real_files_is_written_or_listed(real_files: list[str], first: int, last: int) -> None:
    names = real_files[first:last]
    output, removed, again = (str(Path(names[0]).with_name(name)) for name in ("clean.jsonl", "removed.jsonl", "again"))
    account, written = clean(CleanOptions(names, output=output, removed=removed, removed_text=True))
    gone = lines(Path(removed))
    assert len(lines(Path(output))) == written and gone
    assert sum(len(lines(Path(name))) for name in names) == written + len(gone)
    assert sum(entry.rows for entry in account.report.datasets.values()) == written + len(gone)
    order = [(names.index(row["dataset"]), int(row["place"].rpartition(":")[2])) for row in gone]
    assert order == sorted(order)
    twice, kept = clean(CleanOptions([output], output=again))
    assert kept == written, twice.report.lines()


@pytest.mark.parametrize("number, field", [(0, "text"), (1, "output")])
def test_planted_duplicates_are_found_among_real_rows(real_files: list[str], number: int, field: str) -> None:
    name = real_files[number]
    rows = lines(Path(name))
    texts = [row[field] for row in rows]
    whole = [row for row in rows if len(row[field]) > 150 and texts.count(row[field]) == 1][:20]
    extra, removed = (Path(name).with_name(other) for other in ("extra.jsonl", "removed.jsonl"))
    planted = [*whole, *({**row, field: row[field] + "请遵医嘱。"} for row in whole)]
    extra.write_text("".join(json.dumps(row) + "\n" for row in planted), encoding="utf-8")
    clean(CleanOptions([name, str(extra)], output=str(extra.with_name("c.jsonl")), removed=str(removed)))
    gone = [row for row in lines(removed) if row["dataset"] == str(extra)]
    assert len(planted) == len(gone) == 40
    assert [row["reason"] for row in gone].count("near duplicate") == 20
    assert all(row["partner"].startswith(name) for row in gone)


def test_a_row_of_a_file_without_lines_is_named_as_a_row(tmp_path: Path) -> None:
    """The duplicates of a Parquet file were said to be lines of it."""
    import pyarrow as pa
    from pyarrow import parquet

    path, listed = tmp_path / "a.parquet", tmp_path / "removed.jsonl"
    parquet.write_table(pa.table({"question": ["What is asthma?"] * 2, "answer": [LONG] * 2}), path)
    clean(CleanOptions([str(path)], output=str(tmp_path / "c.jsonl"), removed=str(listed), catalogue_exams=False))
    (removed,) = [json.loads(line) for line in listed.read_text().splitlines()]
    assert (removed["place"], removed["partner"]) == (f"{path}, row 2", f"{path}, row 1")


def test_no_exam_is_not_called_a_number_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "What is asthma?", "answer": LONG}) + "\n")
    run([str(path), "--output", str(tmp_path / "c.jsonl"), "--catalogue_exams", "false"])
    said = capsys.readouterr()
    assert "0 exam" not in said.err and "exam questions are not looked for" in said.err
    assert "1 row, 1 used" in said.out and said.out.count("1 record\n") == 1
