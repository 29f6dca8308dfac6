"""Exports for tests: the programs that read them back are forks of a Python that has loaded what they import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import preloaded
from carellama.config.commands import ExportOptions
from carellama.config.model import ModelOptions
from carellama.export.command import export_model
from carellama.export.parity import readers
from carellama.export.parity.table import ParityTable


def export(model: ModelOptions, template: str | None, target: Path, **changes: Any) -> ParityTable:
    """Export a model; unless told otherwise, without the answers of triage cases."""
    options = ExportOptions(str(target), template=template, **{"safety_parity": False} | changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "OWN_PYTHON", (preloaded.python(),))
        return export_model(model, options)
