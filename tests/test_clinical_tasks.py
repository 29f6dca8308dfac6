"""carellama task: every row once and in order, what is invented is marked, and a code is always one of the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import preloaded
from carellama.batch import clinical_command
from carellama.batch.clinical_run import TaskReport
from carellama.batch.clinical_tasks import (
    BadReply,
    keyword_reason,
    load_task_file,
    load_tasks,
    read_json_reply,
    schema_reason,
)
from carellama.engine.base import Prompt, PromptTooLong, Unavailable
from carellama.engine.masked import MaskedEngine
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from task_command import SchemaEngine, report, run_task, written

REPORT = "CT chest. RUL nodule 8 mm. No effusion or fracture. Impression: nodule."
STRUCTURED = {
    "exam": "CT chest",
    "findings": [{"site": "RUL", "size": "8mm", "description": "nodule", "status": "present"}],
    "impression": ["nodule"],
    "measurements": [],
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- what is not in the text


def test_a_value_that_is_no_quotation_is_marked_and_counted() -> None:
    invented = json.loads(json.dumps(STRUCTURED))
    invented["findings"][0]["size"] = "18 mm"
    code, rows = run_task(ScriptedEngine([json.dumps(STRUCTURED), json.dumps(invented)]), "structure", [REPORT, REPORT])
    assert code == 0 and [row["unsupported"] for row in rows] == [False, True]
    assert rows[1]["checks"] == [{"field": "findings[0].size", "value": "18 mm", "issue": "not in the text"}]
    assert report()["issues"] == {"not in the text": 1} and report()["flagged_rows"] == 1


def test_a_finding_that_the_report_denies_is_not_present() -> None:
    turned = STRUCTURED | {
        "findings": [
            {"site": "", "size": "", "description": word, "status": "present"} for word in ("effusion", "nodule")
        ]
    }
    _, rows = run_task(ScriptedEngine(json.dumps(turned)), "structure", [REPORT])
    assert [one["field"] for one in rows[0]["checks"]] == ["findings[0].status"]


def test_medications_flag_what_is_not_written_and_units_that_are_none() -> None:
    one = {"drug": "二甲双胍", "dose": "0.5", "unit": "g", "route": "口服", "frequency": "每日2次", "duration": ""}
    reply = {"medications": [one, one | {"dose": "5", "unit": "坨"}]}
    _, rows = run_task(ScriptedEngine(json.dumps(reply)), "medications", ["二甲双胍 ０.５g 口服，每日2次；某药 3 坨"])
    assert [(one["field"], one["issue"]) for one in rows[0]["checks"]] == [
        ("medications[1].dose", "not in the text"),
        ("medications[1].unit", "unknown unit"),
    ]


def test_a_summary_with_another_number_or_medicine_is_marked() -> None:
    text = "68岁，胸痛3天。否认发热、咳嗽。予阿司匹林 100 mg 每日一次。"
    reply = {"problems": ["胸痛三天"], "course": "患者发热7天", "medications": ["华法林 100 mg"], "follow_up": ""}
    _, rows = run_task(ScriptedEngine(json.dumps(reply)), "summarize", [text])
    assert {(one["value"], one["issue"]) for one in rows[0]["checks"]} == {
        ("7", "number not in the text"),
        ("华法林", "medicine not in the text"),
        ("发热", "denied in the text, affirmed here"),
    }


def test_a_rewriting_that_loses_a_medicine_or_turns_a_negation_is_marked() -> None:
    text = "Denies fever. Metformin 500 mg bid, lisinopril 10 mg daily."
    good = {"text": "You do not have fever. Take metformin 500 mg twice a day and lisinopril 10 mg once a day."}
    bad = {"text": "You have fever. Take metformin 850 mg two times a day."}
    _, rows = run_task(ScriptedEngine([json.dumps(good), json.dumps(bad)]), "rewrite", [text, text])
    assert rows[0]["checks"] == []
    assert {(one["value"], one["issue"]) for one in rows[1]["checks"]} == {
        ("850", "number not in the text"),
        ("lisinopril", "medicine of the text is missing"),
        ("fever", "denied in the text, affirmed here"),
    }


# --- rows


def test_rows_keep_their_order_and_columns_and_the_language_of_their_text() -> None:
    engine = SchemaEngine(lambda messages: json.dumps(STRUCTURED | {"exam": messages[-1].content.split("no. ")[1][0]}))
    rows = [{"id": number, "text": f"{'胸片报告' * (number % 2)} no. {number}", "ward": "W"} for number in range(7)]
    code, found = run_task(engine, "structure", rows, "--batch_size", "3", "--text_column", "text")
    assert code == 0 and [row["result"]["exam"] for row in found] == list("0123456")
    assert [{key: row[key] for key in ("id", "text", "ward")} for row in found] == rows
    assert ["只回复" in asked[-1].content for asked in engine.asked] == [number % 2 == 1 for number in range(7)]


def test_a_row_that_fails_has_the_reason_and_the_others_go_on() -> None:
    def script(messages: Prompt) -> str:
        return "I cannot." if "bad" in messages[1].content else json.dumps(STRUCTURED)

    engine = ScriptedEngine(script, context_tokens=2000)
    code, rows = run_task(engine, "structure", [REPORT, "", "bad", "long " * 500, REPORT], "--retries", "1")
    assert code == 1 and [row["error"] for row in rows] == [
        None,
        "empty text",
        "unusable reply: the reply has no JSON object",
        rows[3]["error"],
        None,
    ]
    assert rows[3]["error"].startswith("too long for the model: 3,") and rows[3]["result"] is None
    assert report()["failed"] == {"empty text": 1, "unusable reply": 1, "too long for the model": 1}


def test_a_reply_that_cannot_be_used_is_asked_for_again_with_the_reason() -> None:
    engine = SchemaEngine(['{"exam": 7}', json.dumps(STRUCTURED)])
    code, rows = run_task(engine, "structure", [REPORT])
    assert code == 0 and rows[0]["result"] == STRUCTURED
    assert "has no 'findings'" in engine.asked[1][-1].content and engine.asked[1][-2].content == '{"exam": 7}'


def test_an_engine_that_takes_a_schema_is_given_it() -> None:
    engine = SchemaEngine(json.dumps(STRUCTURED))
    run_task(engine, "structure", [REPORT, REPORT])
    assert engine.schemas == [load_tasks()["structure"].schema] * 2


def test_a_prompt_that_only_the_server_finds_too_long_fails_its_own_row() -> None:
    class Server(ScriptedEngine):
        def answer(self, prompt, sampling):
            if "LONG" in prompt.messages[-1].content:
                raise PromptTooLong(9000, 4096)
            return super().answer(prompt, sampling)

    code, rows = run_task(Server(json.dumps(STRUCTURED)), "structure", [REPORT, "LONG", REPORT])
    assert code == 1 and [bool(row["error"]) for row in rows] == [False, True, False]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_tables_of_hospitals_are_read_with_what_is_wrong_in_them(tmp_path: Path, suffix: str) -> None:
    cells = [
        ["病历号", "检查所见", "检查结论"],
        ["001", "CT chest, 结节8mm", "结节"],
        ["002", "", " "],
        ["003", "甲\n乙", ""],
    ]
    file = tmp_path / f"ct{suffix}"
    if suffix == ".csv":
        lines = [",".join(f'"{cell}"' for cell in row) for row in cells]
        file.write_bytes(("\r\n".join(lines) + "\r\n004,缺列\r\n").encode("gb18030"))
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in cells:
            book.active.append(row)
        book.save(file)
    engine = ScriptedEngine(json.dumps(STRUCTURED))
    code, rows = run_task(engine, "structure", file.name, "--text_column", "检查所见,检查结论")
    assert code == 1 and [row.get("病历号") for row in rows] == ["001", "002", "003", None][: len(rows)]
    assert "检查所见: CT chest, 结节8mm\n检查结论: 结节" in engine.asked[0][-1].content
    errors = [row["error"] for row in rows]
    assert errors[:3] == [None, "empty text", None] and len(errors) == (4 if suffix == ".csv" else 3)
    assert suffix == ".xlsx" or "ct.csv:6: wrong number of fields" in errors[3]


def test_plain_text_is_lines_or_one_text_as_the_user_says(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes("MSH|^~\\&|LAB\rPID|1||42\rOBX|1|TX|CT||结节".encode("gb18030"))
    engine = ScriptedEngine(json.dumps(STRUCTURED))
    with pytest.raises(UserError, match="--text_unit line"):
        run_task(engine, "structure", "notes.txt")
    assert len(run_task(engine, "structure", "notes.txt", "--text_unit", "file")[1]) == 1
    assert "PID|1||42\nOBX|1|TX|CT||结节" in engine.asked[-1][-1].content
    assert len(run_task(engine, "structure", "notes.txt", "--text_unit", "line", "--overwrite", "true")[1]) == 3


def test_a_column_that_nobody_named_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    engine = ScriptedEngine(json.dumps(STRUCTURED))
    assert run_task(engine, "structure", [{"id": "7", "报告": REPORT}])[1][0]["id"] == "7"
    assert "the text is the column '报告'" in capsys.readouterr().err
    assert run_task(engine, "structure", [{"x": REPORT}], "--overwrite", "true")[0] == 0
    assert "the text is the column" not in capsys.readouterr().err


def test_a_folder_is_a_row_a_file(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "b.txt").write_text("b")
    (notes / "a.md").write_text("a")
    (notes / "c.png").write_bytes(b"\x89PNG\0\0")
    code, rows = run_task(ScriptedEngine(json.dumps(STRUCTURED)), "structure", "notes")
    assert code == 1 and [(row["file"], row["error"] is None) for row in rows] == [
        ("a.md", True), ("b.txt", True), ("c.png", False),
    ]  # fmt: skip
    with pytest.raises(UserError, match="in the folder of the input"):
        run_task(ScriptedEngine(""), "structure", "notes", "--output", "notes/out.jsonl")


# --- resume


def test_the_same_command_goes_on_and_other_options_are_refused() -> None:
    texts = [f"{REPORT} {number}" for number in range(5)]
    first = SchemaEngine(json.dumps(STRUCTURED))
    run_task(first, "structure", texts, "--max_rows", "2")
    with Path("out.jsonl").open("a") as file:
        file.write('{"text": "half a li')
    second = SchemaEngine(json.dumps(STRUCTURED))
    code, rows = run_task(second, "structure", texts)
    assert code == 0 and [row["text"] for row in rows] == texts
    assert (len(first.asked), len(second.asked)) == (2, 3)
    assert report()["rows"] == 5 and report()["prompt_tokens"] > 3 * len(REPORT)
    before = Path("out.jsonl").read_bytes()
    for flags, reason in (
        (("--language", "zh"), "--language was 'auto' and is 'zh'"),
        (("--temperature", "1"), "--temperature was 0.0 and is 1.0"),
        (("--resume", "false"), "is there already"),
    ):
        with pytest.raises(UserError, match=reason):
            run_task(second, "structure", texts, *flags)
    with pytest.raises(UserError, match="the input has changed"):
        run_task(second, "structure", texts[:4])
    assert Path("out.jsonl").read_bytes() == before
    assert len(run_task(second, "structure", texts[:4], "--overwrite", "true")[1]) == 4


def test_what_is_done_is_kept_when_the_endpoint_fails() -> None:
    def script(messages: Prompt) -> str:
        if "no. 3" in messages[-1].content:
            raise Unavailable("the server is gone")
        return json.dumps(STRUCTURED)

    texts = [f"no. {number}" for number in range(5)]
    with pytest.raises(Unavailable):
        run_task(ScriptedEngine(script), "structure", texts)
    assert [row["text"] for row in written()] == texts[:3]
    assert [row["text"] for row in run_task(ScriptedEngine(json.dumps(STRUCTURED)), "structure", texts)[1]] == texts


def test_columns_that_the_input_has_are_not_overwritten() -> None:
    rows = [{"text": REPORT, "result": "theirs"}]
    with pytest.raises(UserError, match="--prefix"):
        run_task(ScriptedEngine(json.dumps(STRUCTURED)), "structure", rows, "--text_column", "text")
    _, found = run_task(
        ScriptedEngine(json.dumps(STRUCTURED)), "structure", rows, "--text_column", "text", "--prefix", "ct_"
    )
    assert found[0]["result"] == "theirs" and found[0]["ct_result"] == STRUCTURED


KILLED = """
import json, sys
import carellama.engine.load
from carellama import cli
from carellama.engine.scripted import ScriptedEngine
carellama.engine.load.choose = lambda *_: ScriptedEngine('{"text": "ok"}', token_seconds=0.002)
cli.call("task", sys.argv[1:])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_writes_each_row_once(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(60)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = [sys.executable, "-c", KILLED, "rewrite", "in.jsonl", "--output", "out.jsonl",
             "--model_name_or_path", "m", "--batch_size", "4"]  # fmt: skip
    output = tmp_path / "out.jsonl"
    for wanted in (5, 17, 33):
        child = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not output.exists() or output.read_bytes().count(b"\n") < wanted:
            assert child.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == texts


FULL = """
import resource, signal, sys
from carellama import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
cli.call("task", sys.argv[1:])
"""


def test_a_full_disk_is_one_line_and_leaves_whole_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("code,name\nI10,Hypertension\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": f"Hypertension {n}"}) + "\n" for n in range(60)))
    words = ["normalize", "in.jsonl", "--table", "t.csv", "--by", "rules", "--output", "out.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "File too large: out.jsonl" in done.stderr and "Traceback" not in done.stderr
    rows = (tmp_path / "out.jsonl").read_text().splitlines()
    assert 3 < len(rows) < 60 and all(json.loads(row)["error"] is None for row in rows)
    again = subprocess.run(
        [preloaded.python(), "-m", "carellama", "task", *words], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert again.returncode == 0 and len((tmp_path / "out.jsonl").read_text().splitlines()) == 60


# --- tasks of one's own, options


OWN = """name: allergies
prompt: "List the allergies in: {text}"
schema:
  type: object
  properties: {allergens: {type: array, items: {type: string}}}
  required: [allergens]
checks: {quotes: [allergens]}
"""


def test_a_task_of_ones_own_runs_with_its_checks(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    engine = ScriptedEngine('{"allergens": ["penicillin", "latex"]}')
    _, rows = run_task(engine, "allergies", ["Allergic to Penicillin."], "--task_file", "own.yaml")
    assert [one["value"] for one in rows[0]["checks"]] == ["latex"]
    assert engine.asked[0][-1].content == "List the allergies in: Allergic to Penicillin."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("name:", "nam:"), "unknown key 'nam'. Did you mean 'name'"),
        (("allergies\n", "structure\n"), "the name 'structure' is taken"),
        (("{text}", "text"), "no {text}"),
        (("{text}", "{text} {age}"), "unknown {age}"),
        (("type: string}}", "type: string, pattern: x}}"), "the keyword 'pattern' is not known"),
        (("[allergens]\nchecks", "[allergen]\nchecks"), "'allergen' is required and no property"),
        (("quotes: [allergens]", "quotes: [drugs]"), "'drugs' is no field"),
        (("quotes: [", "quote: ["), "Did you mean 'quotes'"),
    ],
)
def test_a_wrong_task_file_is_refused_with_the_reason(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN.replace(*change))
    with pytest.raises(UserError) as caught:
        load_task_file(str(file))
    assert reason in str(caught.value)


def test_an_own_prompt_takes_the_place_of_the_tasks() -> None:
    Path("p.txt").write_text("Fill the form for: {text}")
    engine = ScriptedEngine(json.dumps(STRUCTURED))
    run_task(engine, "structure", [REPORT], "--prompt", "p.txt", "--system_prompt", "Be exact.")
    assert [message.content for message in engine.asked[0]] == ["Be exact.", f"Fill the form for: {REPORT}"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["structure"], "write carellama task NAME FILE"),
        (["structur", "in.jsonl"], "Did you mean 'structure'"),
        (["structure", "none.jsonl", "--model_name_or_path", "m"], "no such file"),
        (["structure", "in.jsonl"], "needs --model_name_or_path or --endpoint"),
        (["structure", "in.jsonl", "--by", "rules"], "--by belongs to normalize"),
        (["structure", "in.jsonl", "--model_name_or_path", "m", "--output", "x.csv"], "JSON Lines"),
        (["structure", "in.jsonl", "--model_name_or_path", "m", "--output", "in.jsonl"], "is the input"),
        (["structure", "two.jsonl", "--model_name_or_path", "m"], "give --text_column"),
        (
            ["structure", "in.jsonl", "--model_name_or_path", "m", "--text_column", "txt"],
            "no column 'txt'; it has text",
        ),
        (["structure", "in.jsonl", "--model_name_or_path", "m", "--reading_length", "90"], "no {reading_length}"),
    ],
)
def test_mistakes_are_one_line_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"text": "x"}\n')
    Path("two.jsonl").write_text('{"a": "x", "b": "y"}\n')
    with pytest.raises(UserError) as caught:
        clinical_command.run(words)
    assert reason in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "two.jsonl"}


@pytest.mark.parametrize("name", ["structure", "normalize", "summarize", "medications", "rewrite"])
def test_show_prints_prompts_in_both_languages_and_the_schema(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    clinical_command.run(["show", name])
    shown = capsys.readouterr().out
    assert "# prompt (en)" in shown and "# prompt (zh)" in shown and '"additionalProperties": false' in shown
    task = load_tasks()[name]
    assert keyword_reason(task.schema, "schema") == "" and set(task.prompt) == {"en", "zh"} == set(task.about)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"exam": "x"}, "has no 'findings'"),
        (STRUCTURED | {"exam": None}, "exam must be string"),
        (STRUCTURED | {"more": 1}, "'more', which was not asked for"),
        (STRUCTURED | {"findings": [{"site": ""}]}, "findings[0] has no 'size'"),
        (STRUCTURED | {"impression": ["x"] * 21}, "impression has 21 items"),
        (STRUCTURED | {"measurements": [True]}, "measurements[0] must be object"),
        ([], "the object must be object"),
    ],
)
def test_a_schema_is_checked_to_the_last_field(value: object, reason: str) -> None:
    assert reason in schema_reason(value, load_tasks()["structure"].schema)


def test_json_is_found_in_a_fence_and_behind_reasoning() -> None:
    task, text = load_tasks()["rewrite"], '<think>\n{"no": 1}\n</think>\n\nHere:\n```json\n{"text": "a"}\n```'
    assert task.parse(text) == {"text": "a"}
    with pytest.raises(BadReply, match="broken"):
        task.parse('{"text": "a')


def test_an_endpoint_sees_no_name_and_the_row_has_it_again() -> None:
    pytest.importorskip("phonenumbers")
    from carellama.privacy.deidentify import Deidentifier

    inner = ScriptedEngine(lambda messages: json.dumps({"text": messages[-1].content.split("<record>")[1][:60]}))
    _, rows = run_task(
        MaskedEngine(inner, Deidentifier()), "rewrite", ["Patient: John Smith, phone 555-867-5309. Cough."]
    )
    assert "Smith" not in "".join(message.content for asked in inner.asked for message in asked)
    assert "John Smith" in rows[0]["result"]["text"]


def test_a_report_counts_reasons_by_their_kind() -> None:
    found = TaskReport("structure", "in.jsonl", {})
    found.count([], "too long for the model: 9,000 tokens")
    found.count([{"field": "a", "value": "b", "issue": "not in the text"}], None)
    assert found.failed == {"too long for the model": 1} and found.rows == 2 and found.flagged_rows == 1


@pytest.mark.slow
def test_a_real_model_picks_codes_of_the_table_in_both_languages(tmp_path: Path) -> None:
    table = {
        "N20.1": "左侧肾结石",
        "N20.2": "右侧肾结石",
        "I10": "Essential hypertension",
        "I15": "Secondary hypertension",
    }
    (tmp_path / "t.csv").write_text("code,name\n" + "".join(f"{code},{name}\n" for code, name in table.items()))
    texts = ["左肾结石", "high blood pressure (hypertension)"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["normalize", "in.jsonl", "--table", "t.csv", "--model_name_or_path", "smollm2-135m"]
    done = subprocess.run(
        [preloaded.python(), "-m", "carellama", "task", *words, "--max_new_tokens", "20"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "without it" not in done.stderr, done.stderr  # it kept to the schema
    rows = [json.loads(line) for line in (tmp_path / "in.jsonl.normalize.jsonl").read_text().splitlines()]
    found = [one for row in rows for one in row["result"]["diagnoses"]]
    assert [one["text"] for one in found] == texts
    assert all(one["code"] is None or table[one["code"]] == one["name"] for one in found)
    assert json.loads((tmp_path / "in.jsonl.normalize.jsonl.json").read_text())["completion_tokens"] > 0


def test_two_equal_keys_are_no_reply() -> None:
    with pytest.raises(BadReply, match="two equal keys"):
        read_json_reply('{"dose": "5 mg", "dose": "50 mg"}')
