"""Flags, or one YAML file, to dataclasses of options; mistakes are answered in one line.

Flags and YAML keys have the same names, and a flag beats the file:

    carellama train examples/sft.yaml --learning_rate 1e-4

A default exists once, in the dataclass; `--help` and the documentation are made from it.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from carellama.config.help import format_help
from carellama.config.transformers_options import translate, translate_settings
from carellama.config.transformers_source import training_fields
from carellama.errors import UserError, nearest, read_failure

log = logging.getLogger(__name__)


def _parser_of_transformers() -> Any:
    """Return `HfArgumentParser`: its file stands alone, and `import transformers` would take a second."""
    package = importlib.util.find_spec("transformers")
    assert package and package.origin, "transformers is not installed"
    file = Path(package.origin).with_name("hf_argparser.py")
    spec = importlib.util.spec_from_file_location("carellama_hf_argparser", file)
    assert spec and spec.loader, f"{file} is not there"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HfArgumentParser


HfArgumentParser: Any = _parser_of_transformers()


EXAMPLE_MODEL = "--model_name_or_path smollm2-135m"
TRUTHS = {"true", "false", "yes", "no", "t", "f", "y", "n", "1", "0"}  # what transformers reads as a bool


class _Parser(HfArgumentParser):
    """`HfArgumentParser` whose mistakes are `UserError`s with the nearest value, and that takes no abbreviations."""

    def format_help(self) -> str:
        return format_help(self.dataclass_types, self.prog) + "\n"

    def error(self, message: str) -> NoReturn:
        missing = message.removeprefix("the following arguments are required: ")
        if missing == message:
            raise UserError(message)
        names = [name.partition("/")[0] for name in missing.split(", ")]
        command = " ".join(word for word in self.prog.split() if word.islower())  # without FILE... at its end
        example = f" (such as {EXAMPLE_MODEL})" if "--model_name_or_path" in names else ""
        raise UserError(f"{command} needs {', '.join(names)}{example}; see {command} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = nearest(str(value), choices)
            raise argparse.ArgumentError(action, f"{str(value)!r} is not one of {', '.join(choices)}.{hint}")


def parser(groups: Sequence[type], prog: str) -> _Parser:
    """Return the argument parser of these dataclasses."""
    return _Parser(list(groups), prog=prog, allow_abbrev=False)


def parse(
    groups: Sequence[type],
    argv: Sequence[str],
    prog: str,
    extra: Mapping[str, Any] | None = None,
    first: str | None = None,
) -> list[Any]:
    """Read `argv` (flags, or a YAML file followed by flags) into one instance of each dataclass.

    `extra` holds values that the verb sets and the user may still override. Words that belong to no flag, before or
    behind the flags, are the value of the option `first`, if one is named. Raises `UserError` for an unknown flag (with
    the nearest name), a wrong value, or a file that is not a mapping of known keys.
    """
    return parse_asked(groups, argv, prog, extra, first)[0]


def parse_asked(
    groups: Sequence[type],
    argv: Sequence[str],
    prog: str,
    extra: Mapping[str, Any] | None = None,
    first: str | None = None,
) -> tuple[list[Any], dict[str, str]]:
    """`parse`, and beside it the options that were given, as they were written."""
    argv = list(argv)
    reader = parser(groups, prog)
    if first is not None:
        free, flags = _free_words(argv, reader)
        argv = [f"--{first}", *free, *flags] if free else flags
    words, given, notes = _words(argv, reader, extra, yaml_first=first is None)
    for note in notes:
        log.warning("%s", note)
    required = any(action.required and action.dest == first for action in reader._actions)
    if required and first not in given and not {"--help", "-h"} & set(argv):
        command, _, what = prog.rpartition(" ")
        raise UserError(f"{what} is missing; see {command} --help")
    *parsed, unknown = reader.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        _unknown(unknown[0], _names(reader))
    return list(parsed), _asked(words)


def _free_words(argv: Sequence[str], reader: _Parser) -> tuple[list[str], list[str]]:
    """Return the words that belong to no flag, and the others, by how many values each flag takes."""
    actions = {option: action for action in reader._actions for option in action.option_strings}
    free: list[str] = []
    flags: list[str] = []
    left = 0.0  # values that the last flag still takes
    maybe = False  # whether it can do without: true or false may follow it, a word of its own may not
    for at, word in enumerate(argv):
        if word == "--":
            return [*free, *argv[at + 1 :]], flags
        if word.startswith("-") and word != "-" and not (left == 1 and _is_number(word)):
            name, joined, _ = word.partition("=")
            takes = getattr(actions.get(name), "nargs", None)
            left = 0 if joined or takes == 0 else float("inf") if takes in ("+", "*") else 1
            maybe = takes == "?"
            flags.append(word)
        elif left and not (maybe and word.lower() not in TRUTHS):
            left -= 1
            flags.append(word)
        else:
            left = 0
            free.append(word)
    return free, flags


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _asked(words: Sequence[str]) -> dict[str, str]:
    """`["--lora_rank", "8", "--packing"]` -> `{"lora_rank": "8", "packing": "true"}`."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, joined, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if joined else ""
        elif name:
            found[name] = f"{found[name]} {word}".strip()
    return {name: value or "true" for name, value in found.items()}


def parse_light(
    groups: Sequence[type], argv: Sequence[str], prog: str, extra: Mapping[str, Any] | None = None
) -> list[Any]:
    """Read the options of groups that load no library, and leave the training flags of transformers unread.

    A command calls it before it imports transformers, so that most mistakes are answered at once. Raises `UserError`
    as `parse` does, also for a training flag that transformers does not have.
    """
    reader = parser(groups, prog)
    words, _, _ = _words(list(argv), reader, extra, also=training_fields().keys())
    *parsed, _ = reader.parse_args_into_dataclasses(words, return_remaining_strings=True, look_for_args_file=False)
    return list(parsed)


def _names(reader: _Parser) -> list[str]:
    return [option[2:] for action in reader._actions for option in action.option_strings if option[:2] == "--"]


def _words(
    argv: list[str],
    reader: _Parser,
    extra: Mapping[str, Any] | None,
    *,
    also: Collection[str] = (),
    yaml_first: bool = True,
) -> tuple[list[str], set[str], list[str]]:
    """Return all options as words, the names given as flags, and a line for each foreign name.

    `also` are names that the reader does not have and that are known all the same. Raises `UserError` for others.
    """
    known = [*_names(reader), *also]
    settings = dict(extra or {})
    notes: list[str] = []
    if yaml_first and argv and argv[0].endswith((".yaml", ".yml")):
        found, notes = translate_settings(read_yaml(argv.pop(0)), known)
        settings |= found
    argv, lines = translate(argv, known)
    for key in settings:
        if key not in known:
            raise UserError(f"unknown key {key!r} in the settings.{nearest(key, known)}")
    given = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
    for word in argv:  # before argparse asks for what the misspelt option should have said
        if word[:1] == "-" and word[1:2].isalpha() and word != "-h":
            _unknown(word, known)
        if word.startswith("--") and word.partition("=")[0][2:].replace("-", "_") not in known:
            _unknown(word, known)
    words = as_flags({key: value for key, value in settings.items() if key not in given})
    return words + argv, given, notes + lines


def _unknown(word: str, known: Sequence[str]) -> NoReturn:
    name = word.partition("=")[0]
    if not word.startswith("-"):
        raise UserError(f"unexpected word {word!r}: write options as --name value, and texts with spaces in quotes")
    raise UserError(f"unknown option {name!r}.{nearest(name, ['--' + name for name in known])} See --help.")


def read_yaml(path: str) -> dict[str, Any]:
    """Read one YAML file of settings."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold 'name: value' lines, one for each option")
    return settings


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """`{"lora_rank": 8}` -> `['--lora_rank', '8']`; lists by comma, None left out."""
    words = []
    for key, value in settings.items():
        if value is not None:
            words += [f"--{key}", ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    return words
