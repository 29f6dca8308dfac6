"""Weights of which each process holds a part (FSDP2): made whole to be saved, and read from a sharded checkpoint.

    state = gathered(model)                       # in the first process; {} in the others
    weights = read_shards(Path("output/checkpoint-4"))

A sharded checkpoint is torch's distributed checkpoint (`pytorch_model_fsdp_0/`), as accelerate writes it. Its tensors
are read as `torch.load(weights_only=True)` does; its index is a pickle, of which nothing but torch's own descriptions
of tensors is made here.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, cast

from carellama.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

SHARDS = "pytorch_model_fsdp_0"  # accelerate's name of the folder
DESCRIPTIONS = {  # what the index of a checkpoint is made of, by module
    "torch.distributed.checkpoint.metadata": (
        "Metadata", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "MetadataIndex", "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath", "Path"),
    "pathlib._local": ("PosixPath", "Path"),
}  # fmt: skip


def gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a model under FSDP2, of an adapter only what is trained; all processes must call this."""
    from peft import PeftModel
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=isinstance(model, PeftModel)
    )
    return cast("dict[str, torch.Tensor]", get_model_state_dict(model, options=options))


def is_sharded(folder: Path) -> bool:
    """Whether the weights of a checkpoint lie there in shards."""
    return (folder / SHARDS / ".metadata").is_file()


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a sharded checkpoint, whole, in one process. Raises `UserError` for a damaged one."""
    import torch
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        """Reads the index without making any other object of it."""

        def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
            with (folder / SHARDS / ".metadata").open("rb") as file:
                index: Metadata = _Descriptions(file).load()
            return index

    try:
        reader = Reader(folder / SHARDS)
        described = cast("dict[str, TensorStorageMetadata]", reader.read_metadata().state_dict_metadata)
        weights = {
            name.removeprefix("model."): torch.empty(one.size, dtype=one.properties.dtype)
            for name, one in described.items()
        }
        load({"model": weights}, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        reason = next((wrapped[0] for wrapped in error.failures.values()), error)
        raise UserError(f"cannot read the shards of {folder}: {reason}") from error
    except (OSError, EOFError, AttributeError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"cannot read the shards of {folder}: {' '.join(str(error).split())[:200]}") from error
    return weights


class _Descriptions(pickle.Unpickler):
    """Makes torch's descriptions of tensors, and refuses everything else."""

    def find_class(self, module: str, name: str) -> object:
        """The class of that name, if it is one of those that an index is made of."""
        import torch

        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in DESCRIPTIONS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no description of a tensor")
