"""The options of `carellama template`."""

from __future__ import annotations

from dataclasses import dataclass

from carellama.config.model import ModelOptions
from carellama.config.options import Options, option


@dataclass(frozen=True)
class ListTemplatesOptions(Options):
    """How the chat formats are listed."""

    json: bool = option("Print one JSON list instead of lines.", default=False)


@dataclass(frozen=True)
class ShowTemplateOptions(Options):
    """Which chat format is shown: one by name, or that of a model."""

    name: str | None = option("Name of the format (first word).", None)
    model_name_or_path: str | None = option("Model whose format is shown: the one that it is asked with.", None)
    checkpoint_dir: str | None = option("Folder(s) of its training, comma separated.", None, commas=True)
    json: bool = option("Print one JSON object instead of lines.", default=False)


@dataclass(frozen=True)
class CheckTemplateOptions(Options):
    """How the scores are printed."""

    rows: int = option("Lines of the table, the best format first.", 8, at_least=1)
    json: bool = option("Print one JSON object with all scores.", default=False)


@dataclass(frozen=True)
class AuditTemplateOptions(Options):
    """Which files are compared."""

    model_name_or_path: str = option(
        "Model folder, .gguf file, hub id or name (first word); .gguf and Modelfile in it count."
    )
    checkpoint_dir: str | None = option("Folder of its training (run.json); default: the model.", None, commas=True)
    gguf: str | None = option("A .gguf file elsewhere.", None)
    modelfile: str | None = option("An Ollama Modelfile elsewhere.", None)
    json: bool = option("Print one JSON object instead of lines.", default=False)


TEMPLATE_CHECK_OPTIONS = (CheckTemplateOptions, ModelOptions)
