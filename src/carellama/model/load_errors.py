"""What transformers and the hub raise over the user's input, as one line that says what to do.

with as_user_error("smollm2-135m", "tokenizer"):
    AutoTokenizer.from_pretrained(...)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carellama.errors import UserError, nearest
from carellama.model.zoo.entries import find_entry, load_entries


@contextmanager
def as_user_error(place: Path | str, what: str) -> Iterator[None]:
    """Turn what transformers and the hub raise over the user's input into one line; `place` is what was given."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        names = [entry.name for entry in load_entries()]
        hint = nearest(place, names) if isinstance(place, str) and find_entry(place) is None else ""
        raise UserError(f"cannot load the {what} of {place}: {_reason(error)}.{hint}") from error


def _reason(error: BaseException) -> str:
    """What to tell the person about an error of transformers or of the hub."""
    from huggingface_hub import errors as hub

    known: dict[type[BaseException], str] = {
        hub.GatedRepoError: "the hub wants its terms accepted on its page there, and --hf_auth_token",
        hub.RepositoryNotFoundError: "there is no such folder, and none on the hub (--hf_auth_token?)",
        hub.RevisionNotFoundError: "the hub does not have this --model_revision",
        hub.LocalEntryNotFoundError: "there is no such folder, and the hub cannot be reached",
        hub.OfflineModeIsEnabled: "there is no such folder, and the hub is switched off (HF_HUB_OFFLINE)",
    }
    cause: BaseException | None = error
    while cause is not None:
        for kind, reason in known.items():
            if isinstance(cause, kind):
                return reason
        cause = cause.__cause__ or cause.__context__
    if "trust_remote_code" in str(error):
        return "it brings Python code of its own; if you trust it give --trust_remote_code true"
    return " ".join(str(error).split(". ")[0].split()).rstrip(".")
