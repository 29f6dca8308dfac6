"""carellama task normalize: a code is always one of the table, and no near name of another disease is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carellama.batch.code_table import CodeTable, Entry, contrast, split_diagnoses
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from task_command import SchemaEngine, run_task

TABLE = """疾病编码,疾病名称
E11.9,2型糖尿病
E10.9,1型糖尿病
I10,原发性高血压
N20.1,左侧输尿管结石
N20.2,右侧输尿管结石
J20,急性支气管炎
J42,慢性支气管炎
E78.5,Hyperlipidemia
E78.6,Hypolipidemia
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "icd.csv").write_bytes(TABLE.encode("gb18030"))
    return "icd.csv"


def codes(rows: list[dict]) -> list[str | None]:
    return [one["code"] for row in rows for one in row["result"]["diagnoses"]]


def test_rules_find_exact_and_near_names_and_nothing_that_only_looks_near(table: str) -> None:
    texts = [
        "1.2型糖尿病 2.原发性高血压",
        "Ⅱ型糖尿病",
        "右侧输尿管结石?",
        "输尿管结石",
        "3型糖尿病",
        "胃癌",
        "e10.9",
        "hyper lipidemia",
    ]
    code, rows = run_task(None, "normalize", texts, "--table", table, "--by", "rules", "--min_score", "0.5")
    assert code == 0 and codes(rows) == ["E11.9", "I10", "E11.9", "N20.2", None, None, None, "E10.9", "E78.5"]
    reasons = [one["reason"] for row in rows for one in row["result"]["diagnoses"] if one["code"] is None]
    assert reasons[0].startswith("entries are equally near") and "differs: numbers" in reasons[1]
    assert reasons[2].startswith("no entry of the table")


@pytest.mark.parametrize("text", ["左侧输尿管结石症", "急性支气管炎症", "1型糖尿病症", "Hyperlipidemias"])
def test_a_near_name_of_the_other_side_is_never_taken(table: str, text: str) -> None:
    found = TABLE.replace("左侧输尿管结石\n", "其他\n").replace("急性支气管炎\n", "其他病\n")
    Path(table).write_text(found.replace("1型糖尿病\n", "其他症\n").replace("Hyperlipidemia\n", "其他项\n"))
    _, rows = run_task(None, "normalize", [text], "--table", table, "--by", "rules", "--min_score", "0.3")
    assert codes(rows) == [None] and "differs" in rows[0]["result"]["diagnoses"][0]["reason"]


def test_the_model_picks_among_entries_and_cannot_name_another_code(table: str) -> None:
    def picked(reply: str, *flags: str) -> tuple[int, list[dict], ScriptedEngine]:
        engine = SchemaEngine(json.dumps({"entry": reply}))
        given = ("--table", table, "--overwrite", "true", *flags)
        return (*run_task(engine, "normalize", ["输尿管的结石"], *given), engine)

    code, rows, engine = picked("B")
    listed = engine.asked[0][-1].content
    assert code == 0 and codes(rows) == ["N20.2" if "B. 右侧" in listed else "N20.1"]
    assert engine.schemas[0]["properties"]["entry"]["enum"][-1] == "none"  # type: ignore[attr-defined]
    assert codes(picked("none")[1]) == [None]
    code, rows, _ = picked("Z99.9", "--retries", "0")
    assert code == 1 and rows[0]["result"] is None and "entry must be one of" in rows[0]["error"]


def test_a_pick_that_differs_from_the_text_is_flagged(table: str) -> None:
    script = SchemaEngine(
        lambda messages: json.dumps({"entry": messages[-1].content.split(". 右侧")[0][-1]})  # the letter before it
    )
    _, rows = run_task(script, "normalize", ["左侧输尿管的结石"], "--table", table)
    assert codes(rows) == ["N20.2"] and rows[0]["checks"][0]["issue"] == "differs from the text: 左 / 右"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "needs --table"),
        (("--table", "none.csv"), "no such file"),
        (("--table", "icd.csv", "--name_column", "名"), "no column '名'; it has 疾病编码, 疾病名称"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_of(table: str, flags: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        run_task(None, "normalize", ["x"], *flags)


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("2型糖尿病", "1型糖尿病", "numbers"),
        ("Ⅱ型糖尿病", "2型糖尿病", ""),
        ("type II diabetes", "Type 2 diabetes", ""),
        ("糖尿病伴肾病", "糖尿病不伴肾病", "伴 / 不伴"),
        ("Fracture without shock", "Fracture with shock", "with / without"),
        ("Hypokalemia", "Hyperkalemia", "hyper / hypo"),
        ("left ureter stone", "Right ureter stone", "left / right"),
    ],
)
def test_names_that_differ_in_one_word_are_other_diseases(first: str, second: str, difference: str) -> None:
    assert contrast(first, second) == contrast(second, first) == difference


def test_diagnoses_are_divided_where_lists_are_and_names_of_the_table_are_not() -> None:
    table = CodeTable([Entry("J20", "急性支气管炎、毛细支气管炎")])
    assert split_diagnoses("1.2型糖尿病 2.高血压3级；(3)肺炎、冠心病\n4、血压1.5", table) == [
        "2型糖尿病", "高血压3级", "肺炎", "冠心病", "血压1.5",
    ]  # fmt: skip
    assert split_diagnoses("急性支气管炎、毛细支气管炎", table) == ["急性支气管炎、毛细支气管炎"]


def test_the_search_is_the_cosine_of_tf_idf() -> None:
    names = ["acute gastritis", "chronic gastritis", "acute bronchitis"]
    table = CodeTable(Entry(str(number), name) for number, name in enumerate(names))
    for number, name in enumerate(names):
        (best, entry), (second, _), *_ = table.search(name, 3)
        assert entry.code == str(number) and best == pytest.approx(1) and second < 1
    assert table.search("qqqq", 3) == []


def test_names_of_icd_10_cm_need_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "simple_icd_10_cm", None)
    with pytest.raises(UserError, match="pip install simple-icd-10-cm"):
        CodeTable.read("icd10cm")
