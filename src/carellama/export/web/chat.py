"""A chat format as JSON, for the page that runs without a server (`web/offline/src/chat/prompt.ts`).

    json.dumps(chat_data(template))

For each number of turns it has the markup that the template writes around the contents, so the page renders what
Python does without running Jinja. Raises `UserError` for a template that rewrites what a person says.
"""

from __future__ import annotations

from typing import Any

from carellama.errors import UserError
from carellama.records import Message
from carellama.templates.skeleton import Slot
from carellama.templates.template import Template, markup_tokens, special_tokens
from carellama.text import THOUGHT

TURNS = 16  # questions of a conversation that the page sends; of a longer one, the last ones
# Contents that a template may rewrite: white space around them, markup of Jinja and of Markdown, both scripts.
PROBES = (" What is asthma?\n", "发烧三天了怎么办？\n\n- 39度", "{{ x }} {% y %} **z** <b>&amp;</b>")


def chat_data(template: Template, system: str = "") -> dict[str, Any]:
    """Return the markup for 1 to `TURNS` questions, and what ends an answer; `system`: a message before them all."""
    markup = [_markup(template, system, questions) for questions in range(1, TURNS + 1)]
    tokenizer = template.tokenizer
    return {
        "template": template.name,
        "prompts": [parts for parts, _ in markup],
        "trimmed": markup[-1][1],
        "cuts": THOUGHT in template.jinja or "reasoning_content" in template.jinja,
        "opens_reasoning": template.opens_reasoning,
        "marks": markup_tokens(tokenizer),
        "specials": special_tokens(tokenizer),
        "stop_ids": template.stop_ids,
        "stops": template.stops,
    }


def conversation(questions: int, contents: tuple[str, ...], system: str = "") -> list[Message]:
    """Return a conversation of so many questions, answered but for the last, with these contents in turn."""
    made = [Message("assistant" if at % 2 else "user", contents[at % len(contents)]) for at in range(2 * questions - 1)]
    return [Message("system", system), *made] if system else made


def _markup(template: Template, system: str, questions: int) -> tuple[list[str], list[bool]]:
    """The markup before, between and after the contents, and which contents are trimmed."""
    asked = conversation(questions, ("x",), system)
    parts = template.prompt_parts(asked)
    slots = [part for part in parts if isinstance(part, Slot)]
    texts = [part for part in parts if isinstance(part, str)]
    first = 1 if system else 0
    if [slot.number for slot in slots] != list(range(len(asked))) or len(texts) != len(slots) + 1:
        raise UserError(
            f"the chat template {template.name!r} drops or moves a part of a conversation of {questions} questions, "
            "which the page cannot write; choose another --template"
        )
    texts[: first + 1] = [texts[0] + "".join(_filled(slots[0], system) + texts[1] for _ in range(first))]
    trimmed = [slot.trimmed for slot in slots[first:]]
    for at in range(len(PROBES)):
        contents = PROBES[at:] + PROBES[:at]
        given = conversation(questions, contents, system)
        words = [_filled(slot, message.content) for slot, message in zip(slots, given, strict=True)][first:]
        made = texts[0] + "".join(word + text for word, text in zip(words, texts[1:], strict=True))
        if made != template.render(given, add_generation_prompt=True):
            raise UserError(
                f"the chat template {template.name!r} rewrites what a person says; the page cannot do that: choose "
                "another --template"
            )
    return texts, trimmed


def _filled(slot: Slot, content: str) -> str:
    return content.strip() if slot.trimmed else content
