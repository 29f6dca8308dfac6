"""Predictions: one line a record in the order given, results by the seed's names, nothing lost silently."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import preloaded
from carellama.config.engine import GenerationOptions
from carellama.engine.base import Sampling
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.evaluate.predict import PREDICTIONS, RESULTS, TOO_LONG, predict
from carellama.records import Chat, Message, Place

SAMPLING = Sampling.of(GenerationOptions(do_sample=False, max_new_tokens=40))


def chats(n: int = 5) -> list[Chat]:
    return [
        Chat(
            (
                Message("system", "Be brief."),
                Message("user", "first"),
                Message("assistant", "one"),
                Message("user", f"发烧 {at}"),
                Message("assistant", f"label {at}"),
            ),
            Place("a.jsonl", at + 1),
        )
        for at in range(n)
    ]


def echo(messages) -> str:
    return messages[-1].content.replace("发烧", "label")


def lines(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()]


def test_files_and_results(tmp_path: Path) -> None:
    engine = ScriptedEngine(echo)
    results = predict(engine, chats(), SAMPLING, tmp_path / "new" / "out")
    rows = lines(tmp_path / "new" / "out")
    assert [row["predict"] for row in rows] == [row["label"] for row in rows] == [f"label {at}" for at in range(5)]
    assert rows[3]["prompt"] == engine.prepare(chats()[3].prompt).text
    assert engine.asked[0] == chats()[0].prompt
    written = json.loads((tmp_path / "new" / "out" / RESULTS).read_text())
    assert written == results.to_dict()
    assert written["predict_bleu-4"] == 100.0
    assert written["predict_rouge-l_low"] == pytest.approx(100.0, abs=1e-3)
    assert written["predict_samples"] == 5 and written["predict_empty"] == written["predict_cut"] == 0
    assert {"predict_rouge-1", "predict_rouge-2", "predict_runtime", "predict_samples_per_second"} <= set(written)
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [PREDICTIONS, RESULTS]


def test_empty_and_cut_answers_are_counted(tmp_path: Path) -> None:
    results = predict(ScriptedEngine(["", " ", "x" * 50, "a", "b"]), chats(), SAMPLING, tmp_path)
    assert (results.empty, results.cut, results.samples) == (2, 1, 5)


def test_a_prompt_without_room_is_skipped_and_told(tmp_path: Path, caplog) -> None:
    records = chats()
    long = Chat((Message("user", "x" * 500), Message("assistant", "y")), Place("b.jsonl", 9))
    engine = ScriptedEngine(echo, context_tokens=200)
    results = predict(
        engine,
        [records[0], long, records[1]],
        SAMPLING,
        tmp_path,
    )
    assert (results.samples, results.skipped) == (2, 1)
    assert f"skipped 1: {TOO_LONG} (b.jsonl:9)" in caplog.text
    assert [row["label"] for row in lines(tmp_path)] == ["label 0", "label 1"]


def test_an_interrupted_prediction_keeps_its_answers(tmp_path: Path) -> None:
    def interrupted(messages) -> str:
        if messages[-1].content.endswith("3"):
            raise KeyboardInterrupt
        return "answer"

    with pytest.raises(KeyboardInterrupt):
        predict(ScriptedEngine(interrupted, parallel=1), chats(), SAMPLING, tmp_path)
    kept = (tmp_path / "generated_predictions.partial-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["label"] for line in kept] == ["label 0", "label 1", "label 2"]
    assert not (tmp_path / PREDICTIONS).exists()


def test_no_answer_at_all_is_no_score_of_zero(tmp_path: Path) -> None:
    """A dataset of prompts that are all too long got a BLEU-4 of 0.0 and exit code 0."""
    long = [Chat((Message("user", "x" * 500), Message("assistant", "y")), Place("b.jsonl", n)) for n in (1, 2)]
    with pytest.raises(UserError, match="no record could be answered: each of the 2 prompts"):
        predict(ScriptedEngine("x", context_tokens=200), long, SAMPLING, tmp_path)


def test_what_cannot_work_is_refused_before_any_answer(tmp_path: Path) -> None:
    engine = ScriptedEngine("x")
    with pytest.raises(UserError, match="no records"):
        predict(engine, [], SAMPLING, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        predict(engine, chats(), SAMPLING, tmp_path / "file" / "out")
    assert not engine.asked


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_predict import *\n"
        "engine = ScriptedEngine(echo)\n"
        "results = predict(engine, chats(7), SAMPLING, Path(sys.argv[1]))\n"
        "assert len(engine.asked) in (3, 4), engine.asked\n"
        "assert (results is None) == (len(engine.asked) == 3)\n"
    )
    done = subprocess.run(
        [*preloaded.torchrun(2, 29518), str(script), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    predict(ScriptedEngine(echo), chats(7), SAMPLING, tmp_path / "one")
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [PREDICTIONS, RESULTS]
