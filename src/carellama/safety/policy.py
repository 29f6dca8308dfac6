"""What the safety layer does about each thing that it finds: `policy.yaml`, or a file of the user's.

policy = load_policy(Path("policy.yaml"))
policy.action("dose")       # "on", "warn" or "off"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from carellama.errors import UserError
from carellama.safety.rules.files import check_once, compose, known_key, shipped_file, user_file

Action = Literal["on", "warn", "off"]
FILE = "policy.yaml"


@dataclass(frozen=True)
class Policy:
    """The action for each category of requests, each check of answers, and the disclaimer."""

    actions: Mapping[str, Action]

    def action(self, name: str) -> Action:
        """Return what is done about a thing."""
        return self.actions[name]

    def changed(self) -> list[str]:
        """Return `name: action` of what is not as shipped."""
        shipped = load_policy().actions
        return [f"{name}: {action}" for name, action in self.actions.items() if action != shipped[name]]

    def softened(self) -> Policy:
        """Return the policy with notices beside the answer in place of all that changes one."""
        return Policy({name: "warn" if action == "on" else action for name, action in self.actions.items()})


def load_policy(path: Path | None = None) -> Policy:
    """Return the policy of a file over the shipped one. Raises `UserError` with file and line."""
    sections = _read(*shipped_file(FILE), known=None)
    if path is not None:
        for section, actions in _read(*user_file(path), known=sections).items():
            sections[section] |= actions
    return Policy({name: action for actions in sections.values() for name, action in actions.items()})


def is_policy_file(path: Path) -> bool:
    """Return whether a file is a policy, by its sections. Raises `UserError` for a file that cannot be read."""
    node = compose(*user_file(path))
    keys = {key.value for key, _ in node.value} if isinstance(node, yaml.MappingNode) else set()
    return bool(keys & _read(*shipped_file(FILE), known=None).keys())


def _read(name: str, text: str, known: Mapping[str, Mapping[str, Action]] | None) -> dict[str, dict[str, Action]]:
    """The actions of a file by section; where `known` is given, its keys alone are allowed."""
    found: dict[str, dict[str, Action]] = {}
    for key, node in _items(name, compose(name, text)):
        section = known_key(name, key, known or ())
        found[section] = {}
        for inner, value in _items(name, node):
            word = known_key(name, inner, known[section] if known else ())
            if not isinstance(value, yaml.ScalarNode) or value.value not in get_args(Action):
                given = getattr(value, "value", "")
                line = value.start_mark.line + 1
                raise UserError(f"{name}:{line}: {word} is {given!r}; allowed: {', '.join(get_args(Action))}")
            found[section][word] = value.value
    return found


def _items(name: str, node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a mapping."""
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1 if node else 1
        raise UserError(f"{name}:{line}: a policy has the sections requests, answers and conversation, each with keys")
    check_once(name, node)
    return list(node.value)
