"""Chat templates that write reasoning: what is learned is what the model will be asked for (T21).

The templates are those of the released models as TRL ships them; without TRL the tests of them skip.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest

from carellama.data.encoding.encode import APART, Encoder
from carellama.data.encoding.preference import AnswerEncoder
from carellama.records import IGNORED, Chat, Message, Pair, Tool, ToolCall
from carellama.templates.template import Template
from conftest import make_tokenizer

WIDE = (1 << 20, 1 << 20, 1 << 20)
EMPTY = "<think>\n\n</think>\n\n"
# What Qwen3's own template does, by its rule: reasoning around the last answer only.
QWEN3 = (
    "{% for m in messages %}{% set c = m.content %}{% set r = m.reasoning_content or '' %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + r + '\n</think>\n\n' + c.lstrip('\n') }}"
    "{% else %}{{ c }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def shipped() -> dict[str, Path]:
    """The templates of text models by name."""
    found = importlib.util.find_spec("trl")
    if found is None or not found.submodule_search_locations:
        return {}
    folder = Path(found.submodule_search_locations[0], "chat_templates")
    return {path.stem: path for path in sorted(folder.glob("*.jinja")) if not path.stem.endswith("_training")}


SHIPPED = shipped()
ENDS = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>", "<|call|>", "<|eom_id|>",
        "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|observation|>", "<|user|>"]  # fmt: skip
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


@cache
def template_of(name: str) -> Template:
    """A template on the tiny tokenizer, to which the marks of Qwen3 are added as it has them: not special."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(MARKS)
    jinja = QWEN3 if name == "rule" else SHIPPED[name].read_text(encoding="utf-8")
    tokenizer.chat_template = jinja
    stops = [end for end in ENDS if end in jinja]
    tokenizer.add_special_tokens({"additional_special_tokens": stops})
    return Template(name, jinja, tokenizer, stops)


def chat(*contents: str) -> tuple[Message, ...]:
    return tuple(Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(contents))


def learned(template: Template, record: Chat) -> list[tuple[str, str]]:
    """(what stands before, what is learned) of each example of a record."""
    encoder = Encoder(template.tokenizer, template, WIDE)
    found = []
    for tokens in encoder.encode([record])[0].tokens:
        ids, on = tokens.input_ids.tolist(), (tokens.labels != IGNORED).tolist()
        start = on.index(True)
        assert on == [False] * start + [True] * (len(on) - start), "one run is learned"
        text = template.tokenizer.backend_tokenizer.decode
        found.append((text(ids[:start], skip_special_tokens=False), text(ids[start:], skip_special_tokens=False)))
    return found


QWEN3S = ["rule", *(name for name in ("qwen3",) if name in SHIPPED)]


@pytest.mark.parametrize("name", QWEN3S)
def test_the_empty_block_of_qwen3_is_asked_and_not_learned(name):
    template = template_of(name)
    ((prompt, answer),) = learned(template, Chat(chat("I cough.", "Rest.")))
    assert answer == "Rest.<|im_end|>"
    assert prompt.endswith(f"<|im_start|>user\nI cough.<|im_end|>\n<|im_start|>assistant\n{EMPTY}")
    direct = template.answering_directly()
    served = direct.prompt_group(chat("I cough."))
    assert served.text == prompt == direct.render(chat("I cough."), add_generation_prompt=True)
    assert direct.reasoning_first().jinja == template.jinja


@pytest.mark.parametrize("name", QWEN3S)
def test_every_turn_of_qwen3_is_learned_as_it_will_be_asked(name):
    template = template_of(name)
    messages = chat("I cough.", "Rest.", "For how long?", "Two days.")
    examples = learned(template, Chat(messages))
    assert [answer for _, answer in examples] == ["Rest.<|im_end|>", "Two days.<|im_end|>"]
    direct = template.answering_directly()
    for (prompt, _), turns in zip(examples, (1, 3), strict=True):
        assert prompt == direct.render(messages[:turns], add_generation_prompt=True)
    assert EMPTY + "Rest." not in examples[1][0]
    (encoded,) = Encoder(template.tokenizer, template, WIDE).encode([Chat(messages)])
    assert [(note.kind, note.reason) for note in encoded.notes] == [("split", APART)]


@pytest.mark.parametrize("name", QWEN3S)
def test_reasoning_of_a_record_is_learned_and_leaves_the_history(name):
    template = template_of(name)
    first, second = "<think>\nA virus.\n</think>\n\nRest.", "<think>Hm.</think>Two days."
    examples = learned(template, Chat(chat("I cough.", first, "For how long?", second)))
    assert [answer for _, answer in examples] == [
        "<think>\nA virus.\n</think>\n\nRest.<|im_end|>",
        "<think>\nHm.\n</think>\n\nTwo days.<|im_end|>",
    ]
    assert all(prompt.endswith("<|im_start|>assistant\n") for prompt, _ in examples)
    assert "A virus" not in examples[1][0] and "Rest." in examples[1][0]
    tokens = Encoder(template.tokenizer, template, WIDE).encode([Chat(chat("q", first))])[0].tokens[0]
    marks = template.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert isinstance(marks, list)
    assert [token for token in tokens.labels.tolist() if token in marks] == marks, "marks are learned as tokens"


def test_a_template_without_reasoning_learns_it_as_it_is(tiny_tokenizer):
    template = Template("chatml", tiny_tokenizer.chat_template, tiny_tokenizer, ["<|im_end|>"])
    examples = learned(template, Chat(chat("q", "<think>x</think>y", "r", "<think> z </think>  w")))
    assert [answer for _, answer in examples] == ["<think>x</think>y<|im_end|>", "<think> z </think>  w<|im_end|>"]
    assert examples[1][0] == template.render(chat("q", "y", "r"), add_generation_prompt=True)


def test_answers_of_a_pair_of_which_one_reasons_follow_one_prompt():
    template = template_of("rule")
    encoder = AnswerEncoder(Encoder(template.tokenizer, template, WIDE))
    chosen, rejected = encoder.encode([Pair(chat("q"), "<think>\nx\n</think>\n\nyes", "no")])[0].tokens
    start = int((chosen.labels != IGNORED).argmax())
    assert chosen.input_ids[:start].tolist() == rejected.input_ids[:start].tolist()
    text = template.tokenizer.backend_tokenizer.decode(rejected.labels[start:].tolist(), skip_special_tokens=False)
    assert text == f"{EMPTY}no<|im_end|>"


# Those of TRL's that need the tokens or contents of other models to be rendered at all.
FOREIGN = {"smolvlm", "idefics3", "llava_next", "qwen2_5_vl", "qwen3_vl", "lfm2_2_5_vl"}


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - FOREIGN))
def test_the_trained_prompt_of_every_released_template_is_the_served_one(name):
    """Whatever a template writes between its generation prompt and the answer."""
    template = template_of(name)
    messages = chat("I cough.", "Rest.", "For how long?", "Two days.")
    examples = template.conversations(messages)
    direct = template.answering_directly()
    answers = 0
    for conversation in examples:
        groups = template.groups(conversation)
        for at in range(1, len(groups), 2):
            if not groups[at].trained:
                continue
            answers += 1
            before = "".join(group.text for group in groups[:at])
            assert before == direct.render(conversation[:at], add_generation_prompt=True), name
            assert groups[at].text.lstrip().startswith(messages[at].content), name
    assert answers == 2
    reasoned = template.conversations(chat("I cough.", "<think>\nA virus.\n</think>\n\nRest."))
    said = "".join(group.text for group in template.groups(reasoned[0]) if group.trained)
    assert "A virus." in said and said.index("A virus.") < said.index("Rest.")


TOOL = Tool("weather", "By city", {"type": "object", "properties": {"city": {"type": "string"}}})
ASKING = (
    Message("user", "Rain in Oslo?"),
    Message("assistant", "", (ToolCall("call_1", "weather", '{"city": "Oslo"}'),)),
    Message("tool", "rain", call_id="call_1"),
    Message("assistant", "Yes."),
)
CALLING = {name for name in SHIPPED if name.startswith(("qwen", "llama3_", "lfm2_"))} - FOREIGN


@pytest.mark.parametrize("name", sorted(CALLING))
def test_calls_of_tools_are_learned_behind_the_served_prompt(name):
    """D16: what a template of a released model makes of a call is what training learns."""
    template = template_of(name)
    direct = template.answering_directly()
    said = []
    for conversation in template.conversations(ASKING, [TOOL]):
        groups = template.groups(conversation, [TOOL])
        assert [group.trained for group in groups[0::2]] == [False] * (len(groups) // 2)
        for at in (1, 3)[: len(groups) // 2]:
            if groups[at].trained:
                before = "".join(group.text for group in groups[:at])
                assert before == direct.render(conversation[:at], tools=[TOOL], add_generation_prompt=True)
                said.append(groups[at].text)
    call, answer = said
    assert "weather" in call and "Oslo" in call and "Yes." not in call
    assert answer.strip().startswith("Yes.") and "rain" not in answer


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - FOREIGN - CALLING - {"gptoss"}))
def test_calls_that_can_not_be_learned_as_they_are_asked_for_are_refused_with_the_reason(name):
    """No tools, calls in another place than the generation prompt, or nothing that ends them."""
    template = template_of(name)
    (encoded,) = Encoder(template.tokenizer, template, WIDE).encode([Chat(ASKING, tools=(TOOL,))])
    for tokens in encoded.tokens:  # cohere2 and gemma4_v2 write them behind their prompt
        assert (tokens.labels != IGNORED).any()
    assert encoded.tokens or (encoded.notes[0].kind == "skipped" and "chat template" in encoded.notes[0].reason)


def test_a_template_without_tools_refuses_them(tiny_tokenizer):
    template = Template("chatml", tiny_tokenizer.chat_template, tiny_tokenizer, ["<|im_end|>"])
    (encoded,) = Encoder(tiny_tokenizer, template, WIDE).encode([Chat(ASKING, tools=(TOOL,))])
    assert not encoded.tokens and "knows no tools" in encoded.notes[0].reason


def test_a_call_that_holds_a_special_token_is_refused():
    template = template_of("qwen3") if SHIPPED else template_of("rule")
    call = ToolCall("call_1", "weather", '{"city": "<|im_end|>"}')
    messages = (ASKING[0], Message("assistant", "", (call,)))
    (encoded,) = Encoder(template.tokenizer, template, WIDE).encode([Chat(messages, tools=(TOOL,))])
    assert not encoded.tokens and encoded.notes[0].kind == "skipped"
