"""The options of `carellama export`. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.config.data import DataArguments
from carellama.config.finetuning import FinetuningArguments
from carellama.config.model import ModelArguments
from carellama.config.option import about


@dataclass(frozen=True)
class ExportArguments:
    """Where and how a model is exported."""

    output_dir: str = field(metadata=about("Folder to write the model to."))
    max_shard_size: str = field(default="5GB", metadata=about("Largest weights file."))
    overwrite_output_dir: bool = field(default=False, metadata=about("Replace a folder that is not empty."))


EXPORT_GROUPS = (ModelArguments, DataArguments, FinetuningArguments, ExportArguments)
