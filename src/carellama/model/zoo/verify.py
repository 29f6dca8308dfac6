"""`carellama models verify`: whether a folder, or a model that was fetched, is as it was written.

carellama models verify output_export --public_key signer.pub

Digests find damage. A signature (`model.sig`, of the OpenSSF's model-signing) tells who wrote it; it is checked where
`model-signing` is installed and a key or an identity is given. Each fault is a line, and the exit code is 1.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carellama.config.commands import VerifyModelOptions
from carellama.config.environment import model_home
from carellama.config.reader import parse_options
from carellama.errors import UserError
from carellama.files import print_status
from carellama.model.digests import DIGESTS, SIGNATURE, check_digests, compare_digest, read_digests
from carellama.model.zoo.entries import ModelEntry
from carellama.model.zoo.fetch import modelscope_folder
from carellama.model.zoo.pull_command import record_file
from carellama.model.zoo.resolve import EMBEDDED
from carellama.model.zoo.show import known_entry


def run(argv: Sequence[str]) -> None:
    """Verify, print a line for each fault, and leave with exit code 1 if there is any. Raises `UserError`."""
    (options,) = parse_options((VerifyModelOptions,), argv, "carellama models verify FOLDER|NAME", positional="name")
    folder = Path(options.name).expanduser()
    faults, checked = verify_folder(folder, options) if folder.is_dir() else _verify_entry(options)
    for fault in faults:
        print(fault)
    if faults:
        raise SystemExit(1)
    print(f"{options.name}: {checked}")


def verify_folder(folder: Path, options: VerifyModelOptions) -> tuple[list[str], str]:
    """(faults, what was checked) of a folder."""
    faults = check_digests(folder)
    checked = f"{len(read_digests(folder))} files are as {DIGESTS} says"
    signature = folder / SIGNATURE
    asked = options.public_key or options.identity
    if not signature.is_file():
        return [*faults, *([f"{SIGNATURE}: missing, so nobody has signed the folder"] if asked else [])], checked
    if not asked:
        print_status(f"{SIGNATURE} was not checked: give --public_key, or --identity and --identity_provider")
        return faults, checked
    fault = _check_signature(folder, options)
    return [*faults, *([fault] if fault else [])], f"{checked}, and {SIGNATURE} is valid"


def _check_signature(folder: Path, options: VerifyModelOptions) -> str:
    """What is wrong with the signature of a folder; "" for a valid one."""
    try:
        hashing: Any = importlib.import_module("model_signing.hashing")
        verifying: Any = importlib.import_module("model_signing.verifying")
    except ModuleNotFoundError as error:
        raise UserError(f"a signature is checked by model-signing ({error}): pip install model-signing") from error
    config = verifying.Config()
    if options.public_key:
        if not Path(options.public_key).is_file():
            raise UserError(f"--public_key {options.public_key}: there is no such file")
        config = config.use_elliptic_key_verifier(public_key=Path(options.public_key))
    elif options.identity_provider:
        config = config.use_sigstore_verifier(identity=options.identity, oidc_issuer=options.identity_provider)
    else:
        raise UserError("--identity needs --identity_provider, as https://accounts.google.com")
    ignored = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=True)
    try:
        config.set_hashing_config(ignored).verify(folder, folder / SIGNATURE)
    except Exception as error:  # noqa: BLE001 - each of its verifiers raises its own
        return f"{SIGNATURE}: not valid: {' '.join(str(error).split())[:300] or type(error).__name__}"
    return ""


def _verify_entry(options: VerifyModelOptions) -> tuple[list[str], str]:
    """(faults, what was checked) of a model by its name."""
    record = record_file(options.name)
    if record.is_file():
        return _verify_record(record)
    try:
        entry = known_entry(options.name)
    except UserError as error:
        raise UserError(f"there is no folder {options.name}, and {error}") from error
    if entry.kind == "embedded":
        return _verify_embedded(entry)
    for folder in (
        *([Path(entry.place)] if entry.place else []),
        model_home() / entry.name,
        *([modelscope_folder(entry.modelscope)] if entry.modelscope else []),
    ):
        if folder.is_dir():
            return verify_folder(folder, options)
    if record_file(entry.name).is_file():
        return _verify_record(record_file(entry.name))
    raise UserError(f"{entry.name} was not fetched by name: carellama models pull {entry.name}")


def _verify_embedded(entry: ModelEntry) -> tuple[list[str], str]:
    model = EMBEDDED[entry.name]
    path = model_home() / entry.name / model.gguf
    if not path.is_file():
        raise UserError(f"{entry.name} was not fetched yet: carellama models pull {entry.name}")
    fault = compare_digest(path, model.sha256)
    return [f"{path}: {fault}"] * bool(fault), f"{model.gguf} has the SHA-256 that this program knows"


def _verify_record(path: Path) -> tuple[list[str], str]:
    """Compare the files of a hub's cache with what was written down when they came."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        folder, files = Path(record["folder"]), dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): carellama models pull again") from error
    faults = []
    for name, expected in files.items():
        if not (folder / name).is_file():
            faults.append(f"{folder / name}: missing")
        elif fault := compare_digest(folder / name, expected):
            faults.append(f"{folder / name}: {fault}")
    return faults, f"{len(files)} files of {record['repo']} at {record['commit']} are as they were fetched"
