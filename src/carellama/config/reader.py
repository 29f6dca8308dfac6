"""The reader of a command line: flags, or one YAML file and flags, to dataclasses of options; mistakes are one line.

Flags and YAML keys have the same names, and a flag beats the file:

    carellama train examples/sft.yaml --learning_rate 1e-4

Names of other programs are read as today's (`carellama.config.foreign_options`). Loads no library but yaml.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from carellama.config.foreign_options import Today, foreign_options, translate
from carellama.config.help import format_help
from carellama.config.options import OptionType, default_of, option_fields, option_types, switch_of
from carellama.config.transformers_options import TrainingFlag, training_flags
from carellama.config.yaml_file import read_settings
from carellama.errors import UserError, nearest

log = logging.getLogger(__name__)

EXAMPLE_MODEL = "--model_name_or_path smollm2-135m"
Groups = list[Any]  # an instance of each dataclass that was asked for, in their order
FLAG = re.compile(r"--?[A-Za-z][\w.-]*(=|$)")


@dataclass(frozen=True)
class ParsedOptions:
    """What a command line asks for: its groups, the words of training flags, and all that was given, as written."""

    groups: Groups
    training: dict[str, list[str]]
    asked: dict[str, str]

    def is_on(self, name: str) -> bool:
        """Whether a switch was given, and not as false."""
        return switch_of(self.asked.get(name, "false")) is True

    def with_training(self, **flags: str) -> ParsedOptions:
        """Return it with further training flags."""
        training = self.training | {name: [value] for name, value in flags.items()}
        return dataclasses.replace(self, training=training, asked=self.asked | flags)


class Reader:
    """Reads the options of some dataclasses, and beside them `training` flags, which transformers parses itself."""

    def __init__(self, groups: Sequence[type], command: str, training: Mapping[str, TrainingFlag] | None = None):
        self.groups, self.command, self.training = groups, command, training or {}
        self.types = {name: kind for group in groups for name, kind in option_types(group).items()}
        self.names = [*self.types, *(name for name in self.training if name not in self.types)]
        self.aliases = {
            alias: field.name for group in groups for field in option_fields(group) for alias in field.metadata["names"]
        }

    def name_of(self, name: str) -> str | None:
        """The option that is meant by a name; None: there is none."""
        name = name.replace("-", "_")
        name = self.aliases.get(name, name)
        return name if name in self.types or name in self.training else None

    def negated_switch(self, name: str) -> str | None:
        """The switch that `no_NAME` turns off; None: it is no such name."""
        if not name.startswith(("no_", "no-")):
            return None
        name = name[3:].replace("-", "_")
        is_switch = name in self.types and self.types[name].kind is bool
        return name if is_switch or self.training.get(name, TrainingFlag("")).annotation.startswith("bool") else None

    def read(
        self, argv: Sequence[str], defaults: Mapping[str, object] | None = None, positional: str | None = None
    ) -> ParsedOptions:
        """Return the options of a command line; see `parse_options`."""
        argv, settings = list(argv), dict[str, list[str]]()
        if positional is None and argv and argv[0].endswith((".yaml", ".yml")):
            file = read_settings(argv.pop(0))
            written = [(key, self._words(key, value)) for key, value in file.items()]
            settings, ruling = self._resolve_names(written, in_file=True)
            _without_excluded({}, ruling)
        pairs, free = self.pairs(argv, positional)
        flags, ruling = self._resolve_names(pairs)
        settings = _without_excluded(settings, ruling)
        if positional and free:
            if positional in flags:
                raise UserError(
                    f"{free[0]!r} and --{positional} {flags[positional][0]} are both given: give one of them"
                )
            flags[positional] = free
        elif free:
            raise UserError(
                f"unexpected word {free[0]!r}: write options as --name value, and texts with spaces in quotes"
            )
        given = {name: words_of(value) for name, value in (defaults or {}).items()} | settings | flags
        self._refuse_missing(given, positional)
        training = {
            name: self.training[name].check_words(name, words)
            for name, words in given.items()
            if name not in self.types
        }
        types = {
            name: kind if name in settings or name in flags else dataclasses.replace(kind, empty=True)
            for name, kind in self.types.items()  # a default of the command may be empty
        }
        groups = [
            group(**{name: types[name].value(name, given[name]) for name in option_types(group) if name in given})
            for group in self.groups
        ]
        return ParsedOptions(groups, training, {name: " ".join(words) or "true" for name, words in given.items()})

    def pairs(self, argv: Sequence[str], positional: str | None) -> tuple[list[tuple[str, list[str]]], list[str]]:
        """Return each flag with its words, and the words that belong to none."""
        pairs, free = list[tuple[str, list[str]]](), list[str]()
        room = 0.0  # words that the last flag still takes
        for at, word in enumerate(argv):
            if word == "--" and positional:
                return pairs, [*free, *argv[at + 1 :]]
            if FLAG.match(word):
                name, joined, value = word.partition("=")
                if not word.startswith("--") and word != "-h":  # `parse_options` answers that one
                    self._refuse_unknown(name)
                pairs.append((name.lstrip("-"), [value] if joined else []))
                room = 0 if joined else self._takes(pairs[-1][0], positional)
            elif room and not (positional and self._is_switch(pairs[-1][0]) and switch_of(word) is None):
                pairs[-1][1].append(word)
                room -= 1
            else:
                room = 0
                free.append(word)
        return pairs, free

    def _takes(self, name: str, positional: str | None) -> float:
        """How many words an option takes; those of other programs and of transformers take all that follow."""
        known = self._type_of(name)
        if known is None:
            return 1 if positional else float("inf")
        return float("inf") if known.many else 1

    def _words(self, name: str, value: object) -> list[str]:
        """The words of a value in a file; none for a key without a value."""
        if value is None:
            return []
        known = self._type_of(name)
        return list(map(str, value)) if known and known.many and isinstance(value, list) else words_of(value)

    def _type_of(self, name: str) -> OptionType | None:
        return self.types.get(self.name_of(name) or self.negated_switch(name) or "")

    def _is_switch(self, name: str) -> bool:
        known = self._type_of(name)
        return known is not None and known.kind is bool

    def _resolve_names(
        self, pairs: Iterable[tuple[str, list[str]]], *, in_file: bool = False
    ) -> tuple[dict[str, list[str]], list[Today]]:
        """Return the words of each option by its name today, and foreign options that rule out values of one.

        Raises `UserError` for all names that are none, in one message, and for two that contradict each other.
        """
        refused = list[str]()
        found, foreign = dict[str, list[str]](), dict[str, str]()  # by today's name; and the name that was given
        ruling = list[Today]()
        for name, words in pairs:
            known = self.name_of(name)
            switch = self.negated_switch(name) if known is None else None
            own, foreign_name = known or switch or "", name.replace("-", "_")
            if in_file and not words and (own or foreign_name in foreign_options()):  # a key without a value
                continue
            if not own:
                try:
                    today = translate(foreign_name, words, self.names) or self._refuse_unknown(name, in_file=in_file)
                except UserError as error:
                    refused.append(str(error))
                    continue
                if today.excluded:
                    ruling.append(today)
                else:
                    log.warning("%s", today.note)
                for option, value in today.options.items():
                    if found.get(option, [value]) != [value]:
                        raise given_twice_error(name, option)
                    found[option], foreign[option] = [value], name
                continue
            if (own in foreign and found[own] != words) or (in_file and own in found):
                raise given_twice_error(foreign.get(own, name), own)
            if switch is not None:
                words = ["false" if OptionType(bool).value(name, words) else "true"]
            found[own] = words
        if refused:
            count = f"{len(refused)} options cannot be read: " if len(refused) > 1 else ""
            raise UserError(count + " | ".join(refused))
        _refuse_contradictions(found, ruling)
        return found, ruling

    def _refuse_missing(self, given: Collection[str], positional: str | None) -> None:
        missing = [
            field.name
            for group in self.groups
            for field in option_fields(group)
            if default_of(field) is dataclasses.MISSING and field.name not in given
        ]
        if positional in missing:
            command, _, what = self.command.rpartition(" ")
            raise UserError(f"{what} is missing; see {command} --help")
        if missing:
            command = " ".join(word for word in self.command.split() if word.islower())  # without FILE... at its end
            example = f" (such as {EXAMPLE_MODEL})" if "model_name_or_path" in missing else ""
            raise UserError(
                f"{command} needs {', '.join('--' + name for name in missing)}{example}; see {command} --help"
            )

    def _refuse_unknown(self, name: str, *, in_file: bool = False) -> NoReturn:
        owner = owner_of(name)
        if in_file:
            raise UserError(f"unknown key {name!r} in the settings.{owner or nearest(name, self.names)}")
        name = name if name.startswith("-") else f"--{name}"
        hint = owner or nearest(name, ["--" + one for one in self.names])
        raise UserError(f"unknown option {name!r}.{hint} See --help.")


def owner_of(name: str) -> str:
    """Return ` It belongs to carellama train.` for an option that another command has, or an empty string."""
    from carellama.config import commands, run, serve

    owners = {
        "train": (run.RUN_OPTIONS, training_flags()),
        "export": (commands.EXPORT_OPTIONS, None),
        "chat": (serve.CHAT_OPTIONS, None),
        "api": (serve.API_OPTIONS, None),
        "web": ((serve.WebOptions,), None),
    }
    for verb, (groups, training) in owners.items():
        if Reader(groups, verb, training).name_of(name.lstrip("-")) is not None:
            return f" It belongs to carellama {verb}."
    return ""


def _refuse_contradictions(given: Mapping[str, list[str]], ruling: Sequence[Today]) -> None:
    """Raise `UserError` for an option whose value a foreign one beside it rules out."""
    for today in ruling:
        for option in today.excluded:
            if today.rules_out(option, given.get(option, ())):
                raise UserError(
                    f"{today.given} and --{option} {' '.join(given[option])} contradict each other: give one of them"
                )


def _without_excluded(settings: Mapping[str, list[str]], ruling: Sequence[Today]) -> dict[str, list[str]]:
    """Return the options of a file without the values that foreign ones of the command line rule out."""
    left = dict(settings)
    for today in ruling:
        gone = [option for option in today.excluded if today.rules_out(option, left.get(option, ()))]
        for option in gone:
            log.warning("%s: %s %s of the settings is left out", today.given, option, " ".join(left.pop(option)))
        if not gone:
            log.warning("%s", today.note)
    return left


def given_twice_error(foreign: str, option: str) -> UserError:
    """The error of an option that is given under another name as well, or under two."""
    return UserError(f"--{foreign} is another name of --{option}, which is given as well; give one of them")


def parse_options(
    groups: Sequence[type],
    argv: Sequence[str],
    command: str,
    defaults: Mapping[str, object] | None = None,
    positional: str | None = None,
) -> Groups:
    """Read `argv` (flags, or a YAML file followed by flags) into one instance of each dataclass.

    `defaults` are values that the command sets and the user may still override. Words that belong to no flag, before or
    behind the flags, are the value of the option `positional`, if one is named. `--help` prints the options and leaves.
    Raises `UserError` for an unknown flag (with the nearest name), a wrong value, or a file that is not a mapping of
    known keys.
    """
    return parse_given(groups, argv, command, defaults, positional).groups


def parse_given(
    groups: Sequence[type],
    argv: Sequence[str],
    command: str,
    defaults: Mapping[str, object] | None = None,
    positional: str | None = None,
) -> ParsedOptions:
    """Do the same as `parse_options`, and return what was given as well."""
    if {"--help", "-h"} & set(argv):
        print(format_help(groups, command))
        raise SystemExit(0)
    return Reader(groups, command).read(argv, defaults, positional)


def words_of(value: object) -> list[str]:
    """A value as the word of a flag: lists by comma, a mapping as JSON."""
    if isinstance(value, dict):
        return [json.dumps(value)]
    return [",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]


def to_flags(settings: Mapping[str, object]) -> list[str]:
    """`{"lora_rank": 8}` -> `['--lora_rank', '8']`; lists by comma, None left out."""
    return [word for key, value in settings.items() if value is not None for word in (f"--{key}", *words_of(value))]
