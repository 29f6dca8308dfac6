"""YAML files read with their lines, so that every mistake is named with its file and line.

for id, node in read_root(("drugs.yaml", text)).entries().items():
    id, node.place, node.texts()        # "ibuprofen", "drugs.yaml:12", ["ibuprofen", "Advil"]
fields = Fields(node, ("id", "source"), needed=("id",))
fields.value("source", str)             # or UserError: "drugs.yaml:13: source of ibuprofen is int: 4"
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from carellama.errors import UserError, nearest, read_failure
from carellama.package_data import flat_terms
from carellama.records import JSONObject

File = tuple[str, str]  # name, text
QUOTES = "write words such as yes and no, and numbers, in quotes"
TOO_DEEP = "lists within lists go too deep; rules need three levels at most"


def user_file(path: Path) -> File:
    """Return a user's file. Raises `UserError` where it cannot be read."""
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the rules {path} cannot be read: {read_failure(error)}") from None


def read_root(file: File, keys: str = "") -> Node:
    """Return the node of a whole file. Raises `UserError` with the line that is no YAML, and for an empty file.

    `keys`: what a file of its kind has, which is said of an empty one.
    """
    name, text = file
    try:
        node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C: a tenth of the time
    except RecursionError:
        raise UserError(f"{name}:1: {TOO_DEEP}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(f"{name}:{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if node is None:
        raise UserError(f"{name}:1: the file is empty{keys and f'; {keys}'}")
    return Node(name, 1, node)


@dataclass(frozen=True)
class Node:
    """A part of a file; its line is that of its key, or where it begins. What is not as expected is a `UserError`."""

    file: str
    line: int
    node: yaml.Node
    key: str = "this"  # that it is the value of

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    def fail(self, fault: str) -> NoReturn:
        """Raise `UserError` about this part."""
        raise UserError(f"{self.place}: {fault}")

    def value(self) -> Any:
        """Return what it says, in texts, numbers, lists and mappings."""
        try:
            return yaml.SafeLoader("").construct_object(self.node, deep=True)
        except RecursionError:
            self.fail(TOO_DEEP)
        except yaml.YAMLError as error:
            self.fail(f"not plain texts, numbers and lists: {getattr(error, 'problem', None) or error}")

    def entries(self, known: Iterable[str] = (), expected: str = "") -> dict[str, Node]:
        """Return the values of a mapping by key, which stands once (YAML would take the last) and is `known`."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(expected or f"{self.key} must be a mapping of keys to values")
        found: dict[str, Node] = {}
        allowed = list(known)
        for key, value in self.node.value:
            node = Node(self.file, key.start_mark.line + 1, value, str(key.value))
            if not isinstance(key, yaml.ScalarNode):
                node.fail("a key is a word, not a list or a mapping")
            word = str(key.value)
            if allowed and word not in allowed:
                node.fail(f"unknown key {word!r}.{nearest(word, allowed)} Known: {', '.join(allowed)}.")
            if word in found:
                node.fail(f"the key {word!r} stands in line {found[word].line} too; write it once")
            found[word] = node
        return found

    def items(self, expected: str = "a list") -> list[Node]:
        """Return the parts of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail(f"{self.key} must be {expected}")
        return [Node(self.file, one.start_mark.line + 1, one) for one in self.node.value]

    @property
    def word(self) -> str:
        """A single word as it is written: `on` is no truth value; "a list", "a mapping" for these."""
        if isinstance(self.node, yaml.ScalarNode):
            return str(self.node.value)
        return "a list" if self.is_list else "a mapping"

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def part(self, key: str) -> Node | None:
        """Return the value of a key, to see what a file has; None where there is none, or no mapping."""
        pairs = self.node.value if isinstance(self.node, yaml.MappingNode) else ()
        return next((Node(self.file, self.line, value, key) for name, value in pairs if name.value == key), None)

    def key_names(self) -> set[str]:
        """Return the keys of a mapping, to see what a file has; none where it is no mapping."""
        return {str(key.value) for key, _ in self.node.value} if isinstance(self.node, yaml.MappingNode) else set()

    def texts(self) -> list[str]:
        """Return a list of texts; a single text is a list of one."""
        value = self.value()
        flat = value if isinstance(value, list) else [value]
        if not is_texts(flat):
            self.fail(f"{self.key} must be a text or a list of texts; {QUOTES}")
        return flat

    def terms(self, what: str) -> list[str]:
        """Return terms of `carellama.rules`: a list of texts, or of lists of texts, one for each language."""
        value = self.value()
        flat = flat_terms([one if isinstance(one, list) else [one] for one in value]) if isinstance(value, list) else []
        if not is_texts(flat):
            self.fail(f"{what} must be a list of texts; {QUOTES}")
        return flat

    def translations(self) -> dict[str, str]:
        """Return a text in English and one in Chinese."""
        found = {language: node.value() for language, node in self.entries(("en", "zh")).items()}
        for language in ("en", "zh"):
            if not is_texts([found.get(language)]):
                self.fail(f"the text in {language} is missing; both en and zh are needed")
        return found


def is_texts(given: Collection[object]) -> bool:
    """Return whether there are texts, and nothing but texts."""
    return bool(given) and all(isinstance(one, str) and one.strip() for one in given)


class Fields:
    """One entry of a list, a mapping with an id: checked for its keys. A mistake names the line of the key."""

    def __init__(self, node: Node, keys: Sequence[str], needed: Sequence[str]) -> None:
        self.file, self.place = node.file, node.place
        self.nodes = node.entries(keys, f"this is no mapping with the keys {', '.join(keys)}")
        self.given: JSONObject = node.value()
        self.title = self.given.get("id", "an entry")
        for key in needed:
            if not self.given.get(key):
                node.fail(f"{self.title} has no {key}; it needs {', '.join(needed)}")

    def fail(self, key: str, fault: str) -> NoReturn:
        """Raise `UserError` about a key."""
        self.nodes[key].fail(f"{key} of {self.title} {fault}")

    def value(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """Return the value of a key, which is of this type."""
        if not isinstance(self.given[key], kind):
            self.fail(key, f"is {type(self.given[key]).__name__}: {self.given[key]!r}")
        return self.given[key]

    def words(self, key: str, allowed: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Return one text or a list of them; where `allowed` are given, each is one of these."""
        given = self.given[key] if isinstance(self.given[key], list) else [self.given[key]]
        if not is_texts(given):
            self.fail(key, f"is a text or a list of texts; {QUOTES}")
        for one in given:
            if allowed and one not in allowed:
                self.fail(key, f"is {one!r}; known: {', '.join(allowed)}.{nearest(one, allowed)}")
        return tuple(given)

    def text(self, key: str) -> Mapping[str, str]:
        """Return a text in English and one in Chinese."""
        given = self.given[key]
        if not is_bilingual(given):
            self.fail(key, "says it in en and in zh, each a text, and nothing else")
        return dict(given)


def is_bilingual(given: object) -> bool:
    """Return whether this is a text in English and one in Chinese."""
    return isinstance(given, dict) and given.keys() == {"en", "zh"} and is_texts(given.values())
