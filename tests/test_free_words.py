"""Words that belong to no option, before or behind the options: the question of `ask`, the id of `keys revoke`."""

from __future__ import annotations

import pytest

from carellama.config.commands import AddKeyOptions, AskOptions, ListKeysOptions, RevokeKeyOptions
from carellama.config.engine import EngineOptions, GenerationOptions
from carellama.config.reader import parse_options
from carellama.config.serve import API_OPTIONS, CHAT_OPTIONS, ApiOptions
from carellama.errors import UserError


@pytest.mark.parametrize(
    ("words", "question", "json"),
    [
        ("What is asthma? --model_name_or_path M", ["What", "is", "asthma?"], False),
        ("--model_name_or_path M What is asthma?", ["What", "is", "asthma?"], False),
        ("--model_name_or_path=M --json What is asthma?", ["What", "is", "asthma?"], True),
        ("What is --json true asthma? --model_name_or_path M", ["What", "is", "asthma?"], True),
        ("--model_name_or_path M -", ["-"], False),
        ("--model_name_or_path M -- -5 degrees", ["-5", "degrees"], False),
    ],
)
def test_a_question_may_come_before_or_after_the_options(words, question, json) -> None:
    """A15: `ask --model_name_or_path M "question"` was an unknown option."""
    *_, asked = parse_options(
        (*CHAT_OPTIONS, AskOptions), words.split(), "carellama ask QUESTION", positional="question"
    )
    assert (asked.question, asked.json) == (question, json)


@pytest.mark.parametrize("words", ["--database DB abcd1234", "abcd1234 --database DB", "--keys DB abcd1234"])
def test_the_id_of_a_key_may_come_before_or_after_the_options(words) -> None:
    """A25: `keys revoke --database DB ID` said that the ID is missing."""
    (options,) = parse_options((RevokeKeyOptions,), words.split(), "carellama keys revoke ID", positional="id")
    assert (options.id, options.database) == ("abcd1234", "DB")


def test_the_database_has_one_name_in_all_commands() -> None:
    """A25: `api --keys` beside `keys add --database`, and the hint for `keys add --keys` was --days."""
    for option in ("--database", "--keys"):
        assert parse_options((AddKeyOptions,), ["--name", "x", option, "DB"], "carellama keys add")[0].database == "DB"
        assert parse_options((ListKeysOptions,), [option, "DB"], "carellama keys list")[0].database == "DB"
        *_, api = parse_options(API_OPTIONS, ["--model_name_or_path", "M", option, "DB"], "carellama api")
        assert api.database == "DB"


@pytest.mark.parametrize("words", ["abcd --id efgh", "--id efgh abcd"])
def test_a_value_with_and_without_its_option_is_not_guessed(words: str) -> None:
    """The option was dropped without a word."""
    with pytest.raises(UserError, match="'abcd' and --id efgh are both given"):
        parse_options((RevokeKeyOptions,), words.split(), "carellama keys revoke ID", positional="id")


def test_a_word_that_no_option_takes_is_named() -> None:
    with pytest.raises(UserError, match="unexpected word 'y'"):
        parse_options((AddKeyOptions,), ["--name", "x", "y"], "carellama keys add")
    with pytest.raises(UserError, match="QUESTION is missing"):
        parse_options(
            (*CHAT_OPTIONS, AskOptions),
            ["--model_name_or_path", "M"],
            "carellama ask QUESTION",
            positional="question",
        )


def test_values_that_no_answer_can_be_made_with() -> None:
    """A16: a temperature of 5 and a context of 10 tokens were accepted."""
    with pytest.raises(UserError, match="--temperature is 5"):
        ApiOptions(temperature=5)
    with pytest.raises(UserError, match="--temperature is 5; it must be"):
        GenerationOptions(temperature=5)
    with pytest.raises(UserError, match="--context_tokens is 10; it must be at least 64"):
        EngineOptions(context_tokens=10)
