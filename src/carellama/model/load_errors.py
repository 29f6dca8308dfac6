"""What transformers and the hub raise over the user's input, as one line that says what to do.

with as_user_error("smollm2-135m", "tokenizer"):
    AutoTokenizer.from_pretrained(...)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carellama.errors import UserError, nearest
from carellama.model.zoo.entries import find_entry, load_entries


@contextmanager
def as_user_error(place: Path | str, what: str) -> Iterator[None]:
    """Turn what transformers and the hub raise over the user's input into one line; `place` is what was given."""
    from httpx2 import TransportError
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        SafetensorError,
        TransportError,
    ) as error:
        is_id = isinstance(place, str) and "/" in place
        names = [entry.hub if is_id else entry.name for entry in load_entries()]
        hint, reason = "", _reason(error)
        if isinstance(place, str) and find_entry(place) is None:
            hint = nearest(place, names)
            if "no such folder" in reason and not is_id:
                hint += " carellama models list has the names that are known."
        raise UserError(f"cannot load the {what} of {place}: {reason}.{hint}") from error


def _reason(error: BaseException) -> str:
    """What to tell the person about an error of transformers or of the hub."""
    from httpx2 import TransportError
    from huggingface_hub import errors as hub

    known: dict[type[BaseException], str] = {
        hub.GatedRepoError: "the hub wants its terms accepted on its page there, and --hf_auth_token",
        hub.RepositoryNotFoundError: "there is no such folder, and none on the hub (--hf_auth_token?)",
        hub.RevisionNotFoundError: "the hub does not have this --model_revision",
        hub.LocalEntryNotFoundError: (
            "there is no such folder, and the hub cannot be reached "
            "(set HF_ENDPOINT to a mirror, or give --hub modelscope)"
        ),
        hub.OfflineModeIsEnabled: "there is no such folder, and the hub is switched off (HF_HUB_OFFLINE)",
        TransportError: "the connection to the hub broke off: try again, or set HF_ENDPOINT to a mirror",
    }
    chain = list(_chain(error))
    for cause in chain:
        if type(cause) is hub.HfHubHTTPError:  # its kinds say more
            status = cause.response.status_code
            hint = (
                ": look whether your token holds (--hf_auth_token, HF_TOKEN)"
                if status in (401, 403)
                else ": try again later"
            )
            return f"there is no such folder, and the hub answers {status}{hint}"
    for cause in chain:
        for kind, reason in known.items():
            if isinstance(cause, kind):
                return reason
        if isinstance(cause, json.JSONDecodeError):
            return f"one of its files is no JSON, or a login page answers in place of the hub ({cause})"
    if "trust_remote_code" in str(error):
        return "it brings Python code of its own; if you trust it give --trust_remote_code true"
    return " ".join(str(error).split(". ")[0].split()).rstrip(".")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
