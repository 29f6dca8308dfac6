"""Exports for tests, compared on one window of text in each language.

The programs that read them back are forks, and environments of tools have links to what is installed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carellama.config.commands import ExportOptions
from carellama.config.model import ModelOptions
from carellama.export import command
from carellama.export.parity import texts
from carellama.export.parity.table import ParityTable
from reader_environments import linked_tools

ONE_WINDOW = 250  # tokens of a language, in place of 1,000
FEW = 20  # for a test that compares the written forms itself


def export(
    model: ModelOptions, template: str | None, target: Path, *, tokens: int = ONE_WINDOW, **changes: Any
) -> ParityTable:
    """Export a model; unless told otherwise, without the answers of triage cases. `tokens`: compared, of a language."""
    options = ExportOptions(str(target), template=template, **{"safety_parity": False} | changes)
    with pytest.MonkeyPatch.context() as patch, linked_tools():
        patch.setattr(texts, "TOKENS_OF_LANGUAGE", tokens)
        patch.setattr(command, "physical_cores", lambda: 1)  # llama.cpp's threads wait for each other by spinning
        return command.export_model(model, options)
