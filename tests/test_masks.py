"""What is learned: weights of turns, the last answer alone, tool calls that do not fit, marks that a person types."""

from __future__ import annotations

import json

import pytest

from carellama.config.data import DataOptions
from carellama.data.convert import BadRecord
from carellama.data.datasets import load_datasets
from carellama.data.encoding.encode import Encoder
from carellama.data.encoding.prepare import RowEncoder, last_answer_only
from carellama.data.readers import Row
from carellama.records import IGNORED, Chat, Message, Place, Tool, ToolCall
from carellama.stages import STAGES
from carellama.templates.template import Template, get_template
from carellama.templates.tokenize import GroupEncoder
from conftest import CHATML, make_tokenizer
from test_reasoning_templates import MARKS

WIDE = (1000, 1000, 1000)
TURNS = [("I cough.", "Rest."), ("How long?", "Two days."), ("And then?", "See a doctor.")]


def chat(*learned: bool) -> Chat:
    messages: list[Message] = []
    for (question, answer), on in zip(TURNS, learned, strict=True):
        messages += [Message("user", question), Message("assistant", answer, learned=on)]
    return Chat(tuple(messages), Place("a.jsonl", 1))


def said(tokenizer, encoded) -> str:
    return "|".join(
        tokenizer.decode([token for token in tokens.labels.tolist() if token != IGNORED], skip_special_tokens=True)
        for tokens in encoded.tokens
    )


@pytest.mark.parametrize(
    ("learned", "expected"),
    [
        ((True, True, True), "Rest.Two days.See a doctor."),
        ((False, True, False), "Two days."),
        ((False, False, True), "See a doctor."),
        ((True, False, True), "Rest.See a doctor."),
    ],
)
@pytest.mark.parametrize("whole", [1000, 60])
def test_only_answers_with_weight_are_learned_however_the_record_is_cut(tiny_tokenizer, learned, expected, whole):
    """T10. Parts in which nothing is learned are left out."""
    encoder = Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), (whole, whole, whole))
    (encoded,) = encoder.encode([chat(*learned)])
    assert said(tiny_tokenizer, encoded).replace("|", "") == expected
    assert all((tokens.labels != IGNORED).any() for tokens in encoded.tokens)


def test_mask_history_learns_the_last_answer(tmp_path, tiny_tokenizer):
    history = [list(one) for one in TURNS[:2]]
    row = {"instruction": "And then?", "input": "", "output": "See a doctor.", "history": history}
    (tmp_path / "a.json").write_text(json.dumps([row]), encoding="utf-8")
    (dataset,) = load_datasets([str(tmp_path / "a.json")], DataOptions())
    found = []
    for masked in (False, True):
        options = DataOptions(mask_history=masked)
        encoder = RowEncoder(dataset, tiny_tokenizer, get_template(None, tiny_tokenizer), STAGES["sft"], options)
        tokens, _, report = encoder.encode([row for row in dataset.rows() if isinstance(row, Row)])
        found.append((len(tokens[0]), int((tokens[0].labels != IGNORED).sum())))
        assert not report.datasets[dataset.name].skipped
    (whole, all_learned), (same, last_learned) = found
    assert whole == same and last_learned == len(tiny_tokenizer("See a doctor.").input_ids) + 1 < all_learned


def test_mask_history_and_weight_may_leave_nothing():
    with pytest.raises(BadRecord, match="no answer is learned"):
        last_answer_only(chat(True, True, False))


def test_tool_calls_that_do_not_fit_are_skipped_and_counted(tiny_tokenizer):
    calls = "(message.content ~ (message.tool_calls | tojson if message.tool_calls else ''))"
    jinja = CHATML.replace("message['content']", calls)
    template = Template("tools", "{# tools tool_calls #}" + jinja, tiny_tokenizer, ["<|im_end|>"])
    call = Message("assistant", "", (ToolCall("c", "rain", '{"in": "Oslo"}'),))
    record = Chat((Message("user", "Rain? " * 30), call), tools=(Tool("rain"),))
    (whole,) = Encoder(tiny_tokenizer, template, WIDE).encode([record])
    assert '"Oslo"' in said(tiny_tokenizer, whole)
    (cut,) = Encoder(tiny_tokenizer, template, (50, 50, 50)).encode([record])
    assert not cut.tokens and [note.kind for note in cut.notes] == ["skipped"]
    assert "tool calls" in cut.notes[0].reason


@pytest.mark.parametrize("mark", ["<tool_call>", "<think>", "</think>", "<|im_end|>"])
def test_a_mark_that_a_person_types_is_text_in_training_and_serving(mark):
    """A8: of the added tokens of Qwen3 these are not flagged as special."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([*MARKS, "发烧"])
    template = get_template(None, tokenizer)
    number = tokenizer.convert_tokens_to_ids(mark)
    ends = 2 if mark == "<|im_end|>" else 0
    messages = (Message("user", f"I typed {mark}{mark} here."), Message("assistant", "Rest."))
    (encoded,) = Encoder(tokenizer, template, WIDE).encode([Chat(messages)])
    ids = encoded.tokens[0].input_ids.tolist()
    assert ids.count(number) == ends
    assert mark + mark in tokenizer.decode(ids, skip_special_tokens=False)
    prompt = GroupEncoder(tokenizer).encode([[template.prompt_group(messages[:1])]])[0][0].tolist()
    assert ids[: len(prompt)] == prompt and prompt.count(number) == ends // 2
    words = GroupEncoder(tokenizer).encode([[template.prompt_group((Message("user", "发烧"),))]])[0][0].tolist()
    assert tokenizer.convert_tokens_to_ids("发烧") in words, "words that were added to a vocabulary stay tokens"


def test_a_split_conversation_learns_no_answer_twice(tiny_tokenizer):
    """The parts have earlier turns as context, which the part before has learned."""
    messages = [Message("user" if at % 2 == 0 else "assistant", f"{'qa'[at % 2]}{at // 2}") for at in range(10)]
    encoder = Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), (60, 60, 60))
    (encoded,) = encoder.encode([Chat(tuple(messages))])
    texts = [tiny_tokenizer.decode(tokens.input_ids.tolist()) for tokens in encoded.tokens]
    assert len(texts) == 3 and "a3" in texts[1] and "a3" in texts[2]
    assert said(tiny_tokenizer, encoded) == "a0a1|a2a3|a4"
