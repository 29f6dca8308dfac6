"""`carellama data clean`: every row is written or counted, twice is as once, and no removed text is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carellama.config.datasets import CleanArguments
from carellama.data.clean import run as module
from carellama.data.clean.filters import boilerplate, repeats
from carellama.data.clean.run import clean, run
from carellama.errors import UserError
from test_contamination import ENGLISH
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


def test_twice_is_as_once_and_two_runs_give_the_same(source: Path) -> None:
    first, again, second = (str(source.with_name(name)) for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    clean(CleanArguments([str(source)], output=first))
    clean(CleanArguments([str(source)], output=again))
    account, written = clean(CleanArguments([first], output=second))
    assert Path(first).read_bytes() == Path(again).read_bytes() == Path(second).read_bytes()
    assert account.report.datasets[first].skipped == 0 and written


def test_identifiers_are_masked_and_counted(source: Path) -> None:
    output = source.with_name("clean.jsonl")
    account, _ = clean(CleanArguments([str(source)], output=str(output), deidentify="mask"))
    assert "13800138000" not in output.read_text(encoding="utf-8")
    assert account.masked["PHONE"] == 1 and account.changed == 1


def test_surrogates_are_the_same_with_the_same_secret(source: Path) -> None:
    secret = source.with_name("secret")
    secret.write_bytes(b"a secret of tests")
    made = []
    for name in ("a.jsonl", "b.jsonl"):
        output = source.with_name(name)
        clean(CleanArguments([str(source)], output=str(output), deidentify="surrogate", secret_file=str(secret)))
        made.append(output.read_text(encoding="utf-8"))
    assert made[0] == made[1] and "13800138000" not in made[0]


def test_languages_and_lengths(source: Path) -> None:
    output = source.with_name("clean.jsonl")
    account, written = clean(CleanArguments([str(source)], output=str(output), languages="zh", longest_answer=40))
    done = account.report.datasets[str(source)].done["skipped"]
    assert done["language"].count == 7 and done["answer too long"].count == 1 and written == 1


def test_removed_text_is_listed_only_when_asked(source: Path) -> None:
    removed = source.with_name("removed.jsonl")
    clean(
        CleanArguments([str(source)], output=str(source.with_name("c.jsonl")), removed=str(removed), removed_text=True)
    )
    assert REFUSED in {row["record"]["output"] for row in lines(removed) if "record" in row}


def test_a_failure_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = set(source.parent.iterdir())
    monkeypatch.setattr(module, "row_of", fail)
    with pytest.raises(OSError, match="No space"):
        clean(CleanArguments([str(source)], output=str(source.with_name("c.jsonl"))))
    assert set(source.parent.iterdir()) == before


@pytest.mark.parametrize(
    "options, said",
    [
        ({"threshold": 2.0}, "threshold 2 is not between"),
        ({"languages": "cn"}, "unknown language 'cn'"),
        ({"secret_file": "x"}, "--secret_file is for"),
        ({"deidentify": "surrogate", "secret_file": "nowhere"}, "can not read --secret_file"),
        ({"removed_text": True}, "needs --removed"),
        ({"exam_characters": 3}, "below 8"),
        ({"shortest_answer": 9999}, "no row is left"),
        ({"exams": ["data/consult_en.json"]}, "holds no exam question"),
    ],
)
def test_mistakes_are_one_line(source: Path, options: dict, said: str) -> None:
    output = source.with_name("c.jsonl")
    with pytest.raises(UserError, match=said) as error:
        clean(CleanArguments([str(source)], output=str(output), **options))
    assert "\n" not in str(error.value) and not output.exists()


def test_a_file_that_is_there_is_kept(source: Path) -> None:
    with pytest.raises(UserError, match="there already"):
        clean(CleanArguments([str(source)], output=str(source)))


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
