"""Rule files of a hospital, sorted by kind: triage, guard or medicines. A file tells its kind by its keys.

own = sort_rule_files([Path("hospital.yaml"), Path("pharmacy.yaml")])
own.triage, own.guard, own.medicines
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.errors import UserError
from carellama.safety.guard.rules import is_guard_file
from carellama.safety.medication.rules import is_medication_file
from carellama.safety.policy import is_policy_file


@dataclass(frozen=True)
class OwnRuleFiles:
    """Files by what they have rules of."""

    triage: tuple[Path, ...] = ()
    guard: tuple[Path, ...] = ()
    medicines: tuple[Path, ...] = ()


def sort_rule_files(files: Sequence[Path]) -> OwnRuleFiles:
    """Return the files by kind.

    Raises `UserError` for a policy and for a file that cannot be read, with the line that is no YAML.
    """
    for file in files:
        if is_policy_file(file):
            raise UserError(f"{file} is a policy and has no rules: give it as --policy {file}")
    medicines = tuple(file for file in files if is_medication_file(file))
    guard = tuple(file for file in files if file not in medicines and is_guard_file(file))
    return OwnRuleFiles(tuple(file for file in files if file not in (*medicines, *guard)), guard, medicines)
