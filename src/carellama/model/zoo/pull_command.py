"""`carellama models pull`: a model fetched before it is used.

carellama models pull HuatuoGPT-o1-7B --hub modelscope

It says what comes, how big it is, from where and under which licence; looks at the disk first; goes on where a break
left it; and writes down the commit and the digests, for `carellama models verify`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carellama.config.commands import PullModelOptions
from carellama.config.environment import model_home
from carellama.config.model import ModelOptions
from carellama.config.reader import parse_options
from carellama.download.http import sha256_of
from carellama.errors import UserError
from carellama.files import print_status, write_json
from carellama.model.zoo.entries import ModelEntry, find_entry, hub_of
from carellama.model.zoo.fetch import Listing, fetch_repository, list_repository
from carellama.model.zoo.pull import announcement, pull_adapter, pull_delta, revision_of, shown_size
from carellama.model.zoo.resolve import fetch
from carellama.model.zoo.show import command, known_entry


def run(argv: Sequence[str]) -> None:
    """Fetch a model, with its base if it is an adapter or a delta. Raises `UserError`."""
    (options,) = parse_options((PullModelOptions,), argv, "carellama models pull NAME", positional="name")
    model = ModelOptions(
        options.name, hub=options.hub, model_revision=options.model_revision, cache_dir=options.cache_dir,
        hf_auth_token=options.hf_auth_token, allow_pickle=options.allow_pickle,
    )  # fmt: skip
    entry = find_entry(options.name)
    if entry is None and options.name.count("/") == 1:
        ids = {"hub": options.name, "modelscope": options.name}
        entry = ModelEntry(name=options.name, about="a model of the hub", kind="model", **ids)
    entry = entry or known_entry(options.name)
    if entry.place:
        raise UserError(f"{entry.name} is your own, and lies in {entry.place}")
    if entry.page and not (entry.hub or entry.modelscope):
        raise UserError(f"{entry.name} is on no hub: fetch it by hand from {entry.page}, then carellama models add")
    print(f"{entry.name}: {_pull(entry, model, accept=options.accept_licence)}")
    print(f"next: {command(entry)}")


def _pull(entry: ModelEntry, model: ModelOptions, *, accept: bool) -> Path:
    """Fetch an entry, and return where it lies."""
    if entry.kind == "embedded":
        return fetch(entry.name, accept_licence=accept)
    if entry.kind == "delta":
        return pull_delta(entry, model)
    if entry.kind == "adapter" and (folder := pull_adapter(entry, model)):
        based = entry.base_modelscope if model.hub == "modelscope" else entry.base
        if not based:
            why = "no id of it on ModelScope is known" if entry.base else entry.terms
            print_status(f"its base {entry.base or ''} is not fetched: {why}")
            return folder
        of_base = find_entry(based) or ModelEntry(name=based, about="its base", kind="model", hub=based)
        _pull_whole(
            replace(of_base, hub=based, modelscope=based),
            replace(model, model_name_or_path=based, model_revision="main"),
        )
        return folder
    return _pull_whole(entry, replace(model, model_revision=revision_of(entry, model)))


def _pull_whole(entry: ModelEntry, model: ModelOptions) -> Path:
    listing = list_repository(hub_of(entry, model.hub, model.model_name_or_path), model)
    print_status(announcement(entry, listing))
    folder = fetch_repository(listing, model)
    _record(entry, listing, folder, model)
    print_status(f"{listing.repo} at {listing.commit}: {len(listing.files)} files, {shown_size(listing.size)}")
    return folder


def record_file(name: str) -> Path:
    """Where it is written down what was fetched under a name."""
    return model_home() / "pulled" / f"{name.replace('/', '--')}.json"


def _record(entry: ModelEntry, listing: Listing, folder: Path, model: ModelOptions) -> None:
    """Write down what was fetched: the digests that the hub announces, of small files those of what came."""
    files = {one.name: one.sha256 or sha256_of(folder / one.name) for one in listing.files}
    fetched = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"name": entry.name, "hub": listing.hub, "repo": listing.repo, "commit": listing.commit}
    more = {"licence": entry.licence, "fetched": fetched, "cache_dir": model.cache_dir, "folder": str(folder)}
    write_json(record_file(entry.name), about | more | {"files": files})
