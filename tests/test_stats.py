"""Statistics and viewing: every row is measured or counted, the page holds itself, learned tokens are marked."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from carellama.config.data import DataOptions
from carellama.data.datasets import load_datasets
from carellama.data.stats import Stats, lines, measured, run, summary
from carellama.data.view import run as view
from carellama.errors import UserError

ROWS = [
    {
        "instruction": "头痛怎么办？",
        "output": "多休息。",
        "history": [["你好", "请讲"]],
        "meta": {"department": "内科"},
    },
    {"instruction": "", "output": "x"},
    {
        "instruction": "My knee <b>hurts</b>.",
        "output": "Rest it.",
        "system": "Be kind.",
        "meta": {"department": "<骨科>"},
    },
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_every_row_is_measured_or_counted(file: Path) -> None:
    (dataset,) = load_datasets([str(file)], DataOptions())
    stats = measured(dataset)
    assert (stats.rows, stats.usable, stats.skipped["empty question"]) == (3, 2, 1)
    assert stats.turns == {2: 1, 1: 1} and stats.with_system == 1
    assert stats.languages == {"zh": 1, "en": 1} and stats.groups == {"内科": 1, "<骨科>": 1}
    assert stats.asked.tolist() == [len("你好头痛怎么办？"), len("My knee <b>hurts</b>.")]
    assert stats.answered.tolist() == [len("请讲多休息。"), len("Rest it.")]
    text = "\n".join(lines(stats))
    assert "not usable 1: empty question" in text and "2: 1 (50.0%)" in text


def test_summary_is_what_it_says() -> None:
    mean, median, high, highest, most = summary(list(range(1, 101)))
    assert (mean, median, most) == (50.5, 50.5, 100) and 95 <= high <= 96 and 99 <= highest <= 100


class Tags(HTMLParser):
    """Collects what a page loads, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.bars = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        self.bars += tag == "rect"
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(file: Path, tmp_path: Path) -> None:
    run([str(file), "--html", str(tmp_path / "stats.html")])
    text = (tmp_path / "stats.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.open and not tags.loads and tags.bars > 20
    assert "&lt;骨科&gt;" in text and "<骨科>" not in text
    assert "轮数" in text and "turns" in text


def test_a_record_is_shown_with_its_place_and_its_faults(file: Path, capsys) -> None:
    view([str(file), "--records", "3"])
    said = capsys.readouterr().out
    assert f"--- 1 ({file}:1)" in said and "assistant: 请讲" in said and "[department: 内科]" in said
    assert f"--- 2 ({file}:2)\nnot usable: empty question" in said
    assert "system: Be kind." in said


def test_only_a_page_is_shown_off_a_terminal(file: Path, capsys) -> None:
    view([str(file), "--start", "2", "--records", "1"])
    said = capsys.readouterr().out
    assert "--- 2 " in said and "--- 1 " not in said and "--- 3 " not in said


def test_the_encoded_example_marks_what_is_learned(file: Path, tiny_folder: Path, capsys) -> None:
    view([str(file), "--records", "1", "--tokenizer", str(tiny_folder), "--template", "llama2"])
    said = capsys.readouterr().out
    learned = [piece.partition("]]")[0] for piece in said.split("[[")[1:]]
    assert len(learned) == 2 and "请讲" in learned[0] and "多休息。" in learned[1]
    assert "头痛怎么办" in said.partition("[[")[0] and "of them learned" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start", "0"], "at least 1"),
        (["--start", "4"], "no row of this number"),
        (["--template", "llama2"], "--template needs --tokenizer"),
    ],
)
def test_wrong_options_are_one_line(file: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        view([str(file), *words])
    assert message in str(caught.value)
    with pytest.raises(UserError, match="--max_samples"):
        run([str(file), "--max_samples", "0"])


@pytest.mark.parametrize(("name", "message"), [("a.jsonl", "does not end in .html"), ("folder.html", "is a folder")])
def test_a_page_replaces_nothing_else(file: Path, name: str, message: str) -> None:
    (file.parent / "folder.html").mkdir()
    before = file.read_bytes()
    with pytest.raises(UserError, match=message):
        run([str(file), "--html", str(file.parent / name)])
    assert file.read_bytes() == before


def test_a_record_can_not_move_the_cursor(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "a\x1b[2J\r?\tb", "output": "c\nd"}))
    view([str(path)])
    assert "user: a\\x1b[2J\\x0d?\tb\nassistant: c\nd\n" in capsys.readouterr().out


def test_turns_have_a_bar_each_and_many_turns_one_together(tmp_path: Path) -> None:
    from carellama.data.stats import MOST_TURNS, _turns

    stats = Stats("a", "a")
    stats.turns.update({1: 5, 3: 2, 40: 1, 58: 1})
    bars = _turns(stats)
    assert bars[:3] == [("1", 5), ("2", 0), ("3", 2)] and bars[-1] == (f"{MOST_TURNS + 1}+", 2)
    assert sum(count for _, count in bars) == 9
