"""What the safety layer does about each thing that it finds: `policy.yaml`, or a file of the user's.

policy = load_policy(Path("policy.yaml"))
policy.action("dose")       # "on", "warn" or "off"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from carellama.safety.rules.files import shipped_file
from carellama.safety.rules.yaml_file import File, read_root, user_file

Action = Literal["on", "warn", "off"]
FILE = "policy.yaml"
SECTIONS = "a policy has the sections requests, answers and conversation, each with keys"


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
    sections = _read(shipped_file(FILE), known=None)
    if path is not None:
        for section, actions in _read(user_file(path), known=sections).items():
            sections[section] |= actions
    return Policy({name: action for actions in sections.values() for name, action in actions.items()})


def is_policy_file(path: Path) -> bool:
    """Return whether a file is a policy, by its sections. Raises `UserError` for a file that cannot be read."""
    return bool(read_root(user_file(path)).key_names() & _read(shipped_file(FILE), known=None).keys())


def _read(file: File, known: Mapping[str, Mapping[str, Action]] | None) -> dict[str, dict[str, Action]]:
    """The actions of a file by section; where `known` is given, its keys alone are allowed."""
    found: dict[str, dict[str, Action]] = {}
    for section, node in read_root(file, SECTIONS).entries(known or (), SECTIONS).items():
        found[section] = {}
        for word, value in node.entries(known[section] if known else (), SECTIONS).items():
            if value.word not in get_args(Action):
                value.fail(f"{word} is {value.word!r}; allowed: {', '.join(get_args(Action))}")
            found[section][word] = cast(Action, value.word)
    return found
