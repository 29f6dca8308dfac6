"""Mappings and lists of a YAML file read as nodes, so that every mistake is named with its file and line.

for key, line, node in entries("drugs.yaml", root("drugs.yaml", text), ("classes", "substances")):
    names = texts("drugs.yaml", node)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import yaml

from carellama.errors import UserError
from carellama.safety.rules.files import check_once, compose, known_key, plain_value


def root(name: str, text: str) -> yaml.Node:
    """Return the node of a whole file. Raises `UserError` where the text is not YAML or empty."""
    node = compose(name, text)
    if node is None:
        raise UserError(f"{name}:1: the file is empty")
    return node


def place(name: str, node: yaml.Node) -> str:
    """Return `file:line` of a node."""
    return f"{name}:{node.start_mark.line + 1}"


def entries(name: str, node: yaml.Node, known: Iterable[str] = ()) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield key, line and value of a mapping. Raises `UserError` for a key that is not `known` or stands twice."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{place(name, node)}: a mapping of keys to values is expected here")
    check_once(name, node)
    allowed = list(known)
    for key, value in node.value:
        yield known_key(name, key, allowed), key.start_mark.line + 1, value


def items(name: str, node: yaml.Node) -> list[yaml.Node]:
    """Return the nodes of a list."""
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{place(name, node)}: a list is expected here")
    return list(node.value)


def texts(name: str, node: yaml.Node) -> list[str]:
    """Return a list of texts; a single text is a list of one."""
    value = plain_value(name, node)
    flat = value if isinstance(value, list) else [value]
    if not flat or not all(isinstance(one, str) and one.strip() for one in flat):
        raise UserError(f"{place(name, node)}: a list of texts is expected; write yes, no and numbers in quotes")
    return flat


def translations(name: str, node: yaml.Node) -> dict[str, str]:
    """Return a text in both languages. Raises `UserError` where one is missing."""
    found = {language: plain_value(name, value) for language, _, value in entries(name, node, ("en", "zh"))}
    for language in ("en", "zh"):
        if not isinstance(found.get(language), str) or not found[language].strip():
            raise UserError(f"{place(name, node)}: the text in {language} is missing; both en and zh are needed")
    return found
