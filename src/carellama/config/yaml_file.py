"""YAML files of settings: a value is the text that was written, as on a command line, and its option reads it.

    read_settings("run.yaml")                                # {"lora_rank": "010", "flash_attn": "off"}
    read_yaml("recipe.yaml", {"settings": 2, "stages": 3})   # the options of a recipe lie two and three levels deep

YAML 1.1 reads 010 as 8, 1:30 as 90, 1.10 as 1.1 and off as false. Of files that are no options, numbers are read as
JSON has them, and all else that is no null or true or false is text. A key that stands there twice is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from carellama.errors import UserError, read_failure

TAG = "tag:yaml.org,2002:"
WRITTEN_TAGS = tuple(TAG + name for name in ("str", "int", "float", "bool"))
NUMBER = r"[-+]?(?:0|[1-9][0-9]*)"


RESOLVERS = [
    (f"{TAG}null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    (f"{TAG}bool", re.compile(r"(?:yes|true|on|no|false|off)\Z", re.IGNORECASE)),
    (f"{TAG}int", re.compile(rf"{NUMBER}\Z")),
    (
        f"{TAG}float",
        re.compile(
            rf"(?:(?:{NUMBER}\.[0-9]*|[-+]?\.[0-9]+|{NUMBER}(?=[eE]))(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
    ),
    (f"{TAG}merge", re.compile(r"<<\Z")),
]
BY_FIRST_LETTER = {None: RESOLVERS}  # None: whatever it is


class _Loader(yaml.SafeLoader):
    """YAML without its numbers of base 8, 16 and 60, and without dates."""

    yaml_implicit_resolvers = BY_FIRST_LETTER


def read_settings(path: str) -> dict[str, Any]:
    """Read a file of options: a value is a text, None, a list of these, or a mapping."""
    return _read(path, {}, 1)


def read_yaml(path: str, written: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Read a mapping. `written`: for a key, down to which level below the file its values are texts as written."""
    return _read(path, written or {}, 0)


def _read(path: str, written: Mapping[str, int], otherwise: int) -> dict[str, Any]:
    try:
        loader = _Loader(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path} must hold 'name: value' lines, one for each option")
        _refuse_twice(node, path, otherwise, set())
        loader.flatten_mapping(node)
        found = dict[str, Any]()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{path}, line {key.start_mark.line + 1}: the name of an option is a word")
            level = written.get(key.value, otherwise)
            _refuse_twice(value, path, level - 1, set())
            found[key.value] = _value(loader, value, level)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UserError(f"{path} has an anchor (&name) that holds itself (*name)") from None
    return found


def _value(loader: _Loader, node: yaml.Node, level: int) -> Any:
    """The value of a node: with `level` above 0, and for as many mappings in each other, texts as written."""
    if level < 1:
        return loader.construct_object(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, one, level) for one in node.value]
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        return {str(loader.construct_object(key)): _value(loader, value, level - 1) for key, value in node.value}
    return node.value if node.tag in WRITTEN_TAGS else loader.construct_object(node)


def _refuse_twice(node: yaml.Node, path: str, level: int, seen: set[int]) -> None:
    """Raise `UserError` for a key that a mapping has twice; of options, lora-rank and lora_rank are one."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _refuse_twice(one, path, level, seen)
        return
    lines = dict[str, tuple[str, int]]()
    for key, value in node.value:
        _refuse_twice(value, path, level - 1, seen)
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{TAG}merge":
            continue
        name, line = key.value.replace("-", "_") if level > 0 else key.value, key.start_mark.line + 1
        if name in lines:
            first, at = lines[name]
            raise UserError(
                f"{path} has {first!r} in line {at} and {key.value!r} in line {line}: one of them would be ignored; "
                "keep one"
            )
        lines[name] = key.value, line
