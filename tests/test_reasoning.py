"""Reasoning is told apart from the answer wherever a model answers, and the model is asked as it was trained (T21)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.config.model import ModelOptions
from carellama.config.reader import to_flags
from carellama.engine.base import Event, Piece, Reply, Sampling, Tool
from carellama.engine.generate import stream as stream_of
from carellama.engine.reasoning import split_reasoning
from carellama.engine.scripted import ScriptedEngine
from carellama.evaluate.predict import PREDICTIONS, predict
from carellama.model.tokenizer import load_tokenizer
from carellama.records import Chat, Message
from carellama.templates.template import get_template
from carellama.train import run as runs
from carellama.train.options import run_options
from conftest import make_model, make_tokenizer
from test_reasoning_templates import EMPTY, MARKS, QWEN3

ASKED = (Message("user", "I cough."),)
ANSWERS = [
    ("<think>\nA virus.\n</think>\n\nRest.", "A virus.", "Rest."),
    ("<think>\n\n</think>\n\nRest.", "", "Rest."),
    (" \n<think>a</think>b", "a", "b"),
    ("<think>cut off", "cut off", ""),
    ("Rest. <think>no</think>", "", "Rest. <think>no</think>"),
    ("  Rest.\n", "", "  Rest.\n"),
    ("<thin", "", "<thin"),
    ("<think>a </thin k>\n b</think> c <think>", "a </thin k>\n b", "c <think>"),
    ("", "", ""),
]


PLAIN = Sampling()


def read(*texts: str, sampling: Sampling = PLAIN, begun: bool = False) -> tuple[list[Piece], Reply]:
    """The pieces and the reply of an answer that comes in these texts."""
    events: list[Event] = []
    take = split_reasoning(events.append, sampling, begun=begun)
    for text in texts:
        take(Piece(text))
    take(Reply("".join(texts), "stop", 1, len(texts)))
    reply = events.pop()
    assert isinstance(reply, Reply)
    return [event for event in events if isinstance(event, Piece)], reply


@pytest.mark.parametrize(("text", "reasoning", "answer"), ANSWERS)
@given(data=st.data())
def test_however_it_is_streamed_the_reasoning_is_told_apart(text, reasoning, answer, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found, reply = read(*parts)
    assert ("".join(piece.reasoning for piece in found), "".join(piece.text for piece in found)) == (reasoning, answer)
    assert (reply.reasoning, reply.text, reply.completion_tokens) == (reasoning, answer, len(parts))


def test_a_prompt_that_opens_the_reasoning_is_known():
    reply = read("A vir", "us.\n</th", "ink>\n\nRest.", begun=True)[1]
    assert (reply.reasoning, reply.text) == ("A virus.", "Rest.")
    held = read('{"a": 1}', sampling=Sampling(json_schema={}), begun=True)[1]
    assert held.text == '{"a": 1}'


def test_a_call_behind_reasoning_is_a_call():
    said = '<think>\nWeather.\n</think>\n\n<tool_call>\n{"name": "rain", "arguments": {}}\n</tool_call>'
    stream = stream_of(ScriptedEngine(said), ASKED, Sampling(tools=(Tool("rain"),)))
    found = []
    while True:
        try:
            found.append(next(stream))
        except StopIteration as end:
            reply = end.value
            break
    assert (reply.text, reply.reasoning, [call.name for call in reply.calls]) == ("", "Weather.", ["rain"])
    assert "".join(piece.reasoning for piece in found) == "Weather."


def test_predict_compares_answers_alone(tmp_path: Path):
    chats = [
        Chat((*ASKED, Message("assistant", "<think>\nHm.\n</think>\n\nRest."))),
        Chat((*ASKED, Message("assistant", "Rest."))),
    ]
    engine = ScriptedEngine("<think>\nA virus.\n</think>\n\nRest.")
    results = predict(engine, chats, Sampling(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    assert [(row["label"], row["predict"], row["reasoning"]) for row in rows] == [("Rest.", "Rest.", "A virus.")] * 2
    assert results is not None and results.to_dict()["predict_rouge-1"] == 100


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    """A folder of the tiny model with the rule of Qwen3's template."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(MARKS)
    tokenizer.chat_template = QWEN3
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("thinks", [False, True])
def test_a_model_is_asked_as_its_records_taught_it(qwen: Path, tmp_path: Path, thinks: bool):
    """Without reasoning in the data the empty block is asked, by every command that reads the checkpoint."""
    answer = "<think>\nA virus.\n</think>\n\nRest." if thinks else "Rest."
    rows = [{"instruction": "I cough.", "input": "", "output": answer}] * 4
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": qwen, "dataset": tmp_path / "data.json", "output_dir": tmp_path / "out",
        "data_cache_dir": tmp_path / "cache", "do_train": True, "max_steps": 1, "per_device_train_batch_size": 4,
        "lora_target": "all", "bf16": False, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    runs.run(run_options(to_flags(given)))
    tokenizer = load_tokenizer(ModelOptions(str(qwen), checkpoint_dir=str(tmp_path / "out")))
    served = get_template(None, tokenizer).render(ASKED, add_generation_prompt=True)
    assert served.endswith("<|im_start|>assistant\n" + ("" if thinks else EMPTY))
    plain = tokenizer.apply_chat_template(
        [{"role": "user", "content": "I cough."}], tokenize=False, add_generation_prompt=True
    )
    assert plain == served, "other programs render the same"
    untouched = get_template(None, load_tokenizer(ModelOptions(str(qwen))))
    assert untouched.render(ASKED, add_generation_prompt=True).endswith("<|im_start|>assistant\n")
