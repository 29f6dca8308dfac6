"""The named formats say what their projects write: golden texts, one entry a format, and the rule that they keep.

tests/template_golden.jsonl has the text of each for one and three turns with the system message "S", for a tokenizer
whose bos token is <s> and whose eos token is </s>. Those of released medical models were made by `written` below from
the strings of their repositories, the others were read against the chat templates of the models.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from carellama.errors import UserError
from carellama.records import Message
from carellama.templates.format import FILLED, Format, format_for, formats, jinja_of
from carellama.templates.jinja import render_chat
from carellama.templates.template import get_template
from conftest import REPOSITORY, make_tokenizer

GOLDEN = [json.loads(line) for line in (REPOSITORY / "tests" / "template_golden.jsonl").read_text("utf-8").splitlines()]
REFERENCE = REPOSITORY.parent / "shared" / "reference" / "templates.json"
TURNS = [("Q1", "A1"), ("Q2", "A2"), ("Q3", "")]


def rows(turns: list[tuple[str, str]], system: str = "S") -> list[dict[str, Any]]:
    found = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return found[:-1] if not turns[-1][1] else found


def rendered(name: str, turns: list[tuple[str, str]], system: str = "S") -> str:
    jinja = jinja_of(formats()[name])
    return render_chat(jinja, rows(turns, system), tools=None, bos="<s>", eos="</s>", start=not turns[-1][1])


def written(form: Format, turns: list[tuple[str, str]], system: str) -> str:
    """The rule of `Format`, by plain concatenation."""
    bos, eos = "<s>", "</s>"
    block = f"{form.system_prefix}{system}{form.system_suffix}".replace("{eos}", eos) if system else ""
    text = (bos if form.bos else "") + form.start + ("" if form.system_in_user else block)
    for turn, (question, answer) in enumerate(turns):
        first = form.user_prefix if form.first_user_prefix is None else form.first_user_prefix
        said = form.turn_sep + form.user_prefix if turn else first + (block if form.system_in_user else "")
        said += question + form.user_suffix + form.assistant_prefix
        said += form.history_lead + answer + form.assistant_suffix if answer else ""
        text += said.replace("{i}", str(turn + form.first_turn)).replace("{bos}", bos).replace("{eos}", eos)
    for place in FILLED:
        text = text.replace(f"{{{place}}}", "")
    return text


def test_every_format_has_its_golden_text_and_renders_it() -> None:
    assert {entry["format"] for entry in GOLDEN} >= {name for name, form in formats().items() if not form.same_as}
    for entry in GOLDEN:
        name = entry["format"]
        assert rendered(name, [("Q1", "")]) == entry["one"], name
        assert rendered(name, TURNS) == entry["three"], name


def test_the_rule_of_a_format_is_what_its_jinja_renders() -> None:
    assert len(formats()) > 90
    for name, form in formats().items():
        for turns in ([("Q1", "A1")], TURNS[:2], TURNS):
            for system in ("S", form.system):
                assert rendered(name, turns, system) == written(form, turns, system), name


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the strings of the projects are not on this machine")
def test_the_formats_of_released_models_are_those_of_their_repositories() -> None:
    """By the rule that the list itself states, from its own strings."""
    listed = json.loads(REFERENCE.read_text("utf-8"))["templates"]
    assert len(listed) == 42
    for name, entry in listed.items():
        for system in {entry["system"], "S"}:
            for turns in ([("Q1", "")], TURNS):
                text = {"tokenizer": "<s>"}.get(entry["bos"], entry["bos"])
                text += entry["system_prefix"] + system + entry["system_suffix"]
                for turn, (question, answer) in enumerate(turns):
                    text += entry["user_prefix"].replace("{i}", str(turn)) + question + entry["user_suffix"]
                    text += entry["assistant_prefix"]
                    if answer:
                        text += entry["history_assistant_lead"] + answer + entry["assistant_suffix"] + entry["turn_sep"]
                for place in FILLED:
                    text = text.replace(f"{{{place}}}", "")
                assert rendered(name, turns, system) == text, (name, system)
        assert rendered(name, [("Q1", "")], entry["system"]).removeprefix("<s>") == entry[
            "example_prompt"
        ].removeprefix("<s>")
        assert set(entry["stop"]) - {"</s>"} <= set(formats()[name].stop), name


def test_bos_is_left_to_the_tokenizer_where_a_project_does() -> None:
    form = formats()["bentsao_bloom"]
    assert form.bos == "tokenizer"
    for adds_bos in (True, False):
        text = render_chat(jinja_of(form, adds_bos=adds_bos), rows([("Q", "")]), tools=None, bos="<s>", eos="</s>")
        assert text.startswith("<s>") == adds_bos
    tokenizer = make_tokenizer()  # which adds none
    assert tokenizer("a").input_ids[0] != tokenizer.bos_token_id
    begun = get_template("llama2", tokenizer).render([Message("user", "q")])
    assert begun.startswith(tokenizer.bos_token)
    assert not get_template("bentsao_bloom", tokenizer).render([Message("user", "q")]).startswith(tokenizer.bos_token)


def test_places_for_an_input_are_variables_of_the_template() -> None:
    for name, place in {"medalpaca": "input", "chatlaw_refs": "references", "zhongjing_tcm_context": "context"}.items():
        tokenizer = make_tokenizer()
        form = formats()[name]
        tokenizer.add_special_tokens({"additional_special_tokens": form.tokens})
        jinja = get_template(name, tokenizer).jinja
        asked = [{"role": "user", "content": "Q"}]
        given = tokenizer.apply_chat_template(asked, chat_template=jinja, tokenize=False, **{place: "GIVEN"})
        empty = tokenizer.apply_chat_template(asked, chat_template=jinja, tokenize=False)
        assert given.count("GIVEN") == 1 and given.replace("GIVEN", "") == empty


def test_what_a_project_asks_with_names_what_it_trained_with() -> None:
    asked = {name: form.trained_as for name, form in formats().items() if form.trained_as}
    assert len(asked) >= 9 and set(asked.values()) <= set(formats())
    assert all(not formats()[trained].trained_as for trained in asked.values())


def test_every_format_says_what_it_is_and_where_it_was_read() -> None:
    assert formats()
    for name, form in formats().items():
        assert form.about.endswith(".") and form.source, name
        assert not form.same_as or not formats()[form.same_as].same_as, name


def test_a_second_name_is_the_same_format() -> None:
    for name, other in {"ziya": "zhongjing_ziya", "gemma3": "gemma", "carellama_llama2": "llama2"}.items():
        assert rendered(name, TURNS) == rendered(other, TURNS)
    with pytest.raises(UserError, match=r"needs the tokens <human>, <bot>"):
        format_for("ziya", lambda token: False)
