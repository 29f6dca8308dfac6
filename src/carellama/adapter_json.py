"""The adapter_config.json of an adapter's folder, its values of the types that peft writes.

    settings = read_adapter_json(Path("output"))
    settings.get("r")       # a number, if it is there

peft takes every value as it is: "8" fails somewhere inside, and "false" counts as true.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carellama.errors import UserError, read_failure
from carellama.weights import ADAPTER


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_names(value: object) -> bool:
    return value is None or isinstance(value, str) or _is_list_of_names(value)


def _is_list_of_names(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _is_numbers_by_name(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_switch(value: object) -> bool:
    return value is None or isinstance(value, bool)


# key -> whether a value is of its type, and the type in words
_NUMBER = _is_number, "a number"
_SWITCH = _is_switch, "true or false"
_NAMES = _is_names, "a name or a list of names"
_PATTERN = _is_numbers_by_name, "an object of numbers"
TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("r", "lora_alpha", "lora_dropout", "alpha", "oft_block_size"), _NUMBER),
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias"), _SWITCH),
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules"), _NAMES),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), _PATTERN),
    "modules_to_save": (_is_list_of_names, "a list of names"),
    **dict.fromkeys(
        ("base_model_name_or_path", "task_type"), (lambda value: value is None or isinstance(value, str), "a name")
    ),
    **dict.fromkeys(("peft_type", "bias"), (lambda value: isinstance(value, str), "a name")),
}


def read_adapter_json(folder: Path) -> dict[str, Any]:
    """What the adapter_config.json of a folder says. `UserError` where it cannot be read or has other types."""
    path = folder / ADAPTER
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    if not isinstance(settings, dict):
        raise UserError(f"cannot read {path}: it holds no object of settings, as peft writes it")
    for key, (is_right, type_name) in TYPES.items():
        if key in settings and not is_right(settings[key]):
            raise UserError(
                f"{path} has {key} {json.dumps(settings[key]):.60}; it has to be {type_name}, as peft writes it"
            )
    return settings


@contextmanager
def usable_settings(folder: Path) -> Iterator[None]:
    """Turn what peft raises over settings that it does not check into one line."""
    try:
        yield
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / ADAPTER} has settings that peft cannot use ({said})") from error
