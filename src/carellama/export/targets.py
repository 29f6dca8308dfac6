"""What `--to` names: each target is a function that writes its form, and says how it is read back.

    for name in options.targets:
        forms += TARGETS[name](making)

A form is one thing that somebody may open: the folder, a .gguf, the folder of OpenVINO.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from carellama.config.commands import ExportOptions
from carellama.errors import UserError
from carellama.export.merge import Source, write_folder

FOLDER_READER, GGUF_READER = "read_folder.py", "read_gguf.py"


@dataclass(frozen=True)
class Form:
    """One written form, and the program that reads it back."""

    name: str  # hf, f16, q4_K_M, ...: by which its tolerance is known
    file: str  # in the export; "." for the folder itself
    reader: str  # a program of export/parity
    job: Mapping[str, object]  # what it is told beside the questions
    python: Path | None = None  # the interpreter of another environment
    tensor_types: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Making:
    """An export while it is made."""

    options: ExportOptions
    source: Source
    folder: Path  # which appears under its name at the end
    scratch: Path  # beside it; gone at the end
    name: str  # of the files

    @cached_property
    def merged(self) -> Path:
        """The Hugging Face folder, written when first asked for: the export itself, or a temporary one."""
        place = self.folder if "hf" in self.options.targets else self.scratch / "merged"
        place.mkdir(exist_ok=True)
        write_folder(self.source, place, self.options.max_shard_size)
        return place

    @cached_property
    def gguf_files(self) -> dict[str, Form]:
        """The .gguf files of `--gguf_type`, written when first asked for."""
        return {kind: _write_gguf(self, kind) for kind in self.options.gguf_types}


def _hf(making: Making) -> list[Form]:
    return [Form("hf", ".", FOLDER_READER, {"folder": str(making.merged)})]


def _gguf(making: Making) -> list[Form]:
    return [*making.gguf_files.values()]


def _write_gguf(making: Making, kind: str) -> Form:
    """Write one .gguf of the merged folder."""
    from carellama.model.gguf.write import convert_folder

    file = making.folder / f"{making.name}.{kind}.gguf"
    types = convert_folder(making.merged, file, kind)
    return Form(kind, file.name, GGUF_READER, {"file": str(file)}, tensor_types=types)


def _openvino(making: Making) -> list[Form]:
    """Write the folder `openvino` with optimum-intel, which is installed in an environment of its own."""
    from carellama.export.environments import run_tool, tool_environment

    target = making.folder / "openvino"
    given = {"folder": str(making.merged), "target": str(target)}
    run_tool("openvino", Path(__file__).with_name("write_openvino.py"), given)
    job = {"folder": str(target), "reader": "openvino"}
    return [Form("openvino", "openvino", FOLDER_READER, job, tool_environment("openvino"))]


def _lora_gguf(making: Making) -> list[Form]:
    """Write the adapter as a .gguf that llama.cpp puts on its base; it is read back on a base in 16 bits."""
    from carellama.model.gguf.write import base_folder, convert_folder, lora_gguf_of

    model = making.source.model
    if len(model.checkpoints) != 1:
        raise UserError(
            f"--to lora-gguf writes one adapter, and --checkpoint_dir names {len(model.checkpoints)}: "
            "name one, or take --to gguf, which merges them"
        )
    written = lora_gguf_of(model, Path(model.checkpoints[0]))
    file, base = making.folder / f"{making.name}-lora.gguf", making.scratch / "base.f16.gguf"
    shutil.copyfile(written, file)
    convert_folder(base_folder(model), base, "f16", pickles=model.allow_pickle)
    job = {"file": str(base), "adapter": str(file), "template": making.source.template.jinja}
    return [Form("lora-gguf", file.name, GGUF_READER, job)]


TARGETS: Mapping[str, Callable[[Making], list[Form]]] = {
    "hf": _hf,
    "gguf": _gguf,
    "lora-gguf": _lora_gguf,
    "openvino": _openvino,
}
