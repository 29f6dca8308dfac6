"""`carellama data pull NAME`: fetch a dataset of the catalogue, or take it from a folder downloaded by hand.

    carellama data pull chatmed-consult

The files lie in CACHE/datasets/NAME/files, and `pulled.json` beside says from where, under which licence, with which
sums. Until all have arrived they wait in `incoming`, so that no half of a dataset is ever trained on; a pull that was
stopped goes on there. Nothing is converted here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from carellama.config.data_commands import PullOptions
from carellama.config.environment import check_hub, dataset_home
from carellama.config.reader import parse_options
from carellama.data.catalogue.entries import Entry, find
from carellama.data.catalogue.pulled_files import (
    Content,
    Files,
    Origin,
    PulledFile,
    Source,
    publish,
    read_record,
    take,
    unpack,
)
from carellama.download import hosts
from carellama.download.hosts import Host
from carellama.download.http import DownloadedFile, DownloadError, HostUnreachable, RemoteFile, sha256_of
from carellama.errors import UserError
from carellama.files import print_status, write_json
from carellama.text import counted


def run(argv: Sequence[str]) -> None:
    """Fetch what the arguments name. Raises `UserError` where no host gives it, or the terms are not accepted."""
    (arguments,) = parse_options((PullOptions,), argv, "carellama data pull NAME", positional="name")
    entry, _ = find(arguments.name)
    if ":" in arguments.name:
        print_status(f"all parts of {entry.name} are fetched")
    home = dataset_home() / entry.name
    with _alone(home):
        try:
            if arguments.from_folder is not None:
                if arguments.source is not None:
                    raise UserError(
                        f"--from takes the files from this machine, --source {arguments.source} from a host"
                    )
                place = Path(arguments.from_folder).expanduser()
                if not place.exists():
                    raise UserError(f"--from {place}: there is no such file or folder")
                agree(entry, home, accepted=arguments.accept_licence)
                take(entry, place, home)
            else:
                from_hosts(entry, home, arguments)
        except KeyboardInterrupt:
            print_status(
                f"stopped; what has arrived is kept, and the next 'carellama data pull {entry.name}' goes on from there"
            )
            raise


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    made = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    lock = home / ".lock"
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"another pull of {home.name} is running: wait for it") from error
    finally:
        if made and not any(path.is_file() and path != lock for path in home.rglob("*")):  # nothing came
            shutil.rmtree(home, ignore_errors=True)


def by_hand(entry: Entry, places: Sequence[Host] = ()) -> str:
    """What to do where nothing can be fetched: the pages, what to look for there, and how to hand it over.

    `places` are the hosts that did not answer; pages made for people are named instead where there are any.
    """
    patterns = dict.fromkeys(pattern for part in entry.parts for pattern in part.patterns("train"))
    pages = [host for host in entry.hosts if host.kind == "manual"] or list(places[:1])
    wanted = [f"{', '.join(host.files or patterns)} from {hosts.web_page_of(host)}" for host in pages]
    return f"download {' and '.join(wanted)} in a browser, then: carellama data pull {entry.name} --from FOLDER"


def agree(entry: Entry, home: Path, *, accepted: bool) -> None:
    """Print the licence; where it has to be accepted, ask on a terminal, else `UserError` without `accepted`."""
    print(f"{entry.title}: licence {entry.licence}, terms: {entry.terms}")
    if not entry.accept or accepted or read_record(home).get("accepted"):
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            f"{entry.name} is only for those who accept its terms: read {entry.terms}, then --accept_licence"
        )
    if input("Do you accept these terms? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError(f"the terms of {entry.name} were not accepted ({entry.terms}); nothing is fetched")


def from_hosts(entry: Entry, home: Path, arguments: PullOptions) -> None:
    """Fetch all that the hosts hold, each thing from the first of its hosts that gives it."""
    able = [host for host in entry.hosts if host.kind != "manual"]
    if not able:
        raise UserError(f"{entry.name} can only be had by hand: {by_hand(entry)}")
    wanted = [host for host in able if arguments.source in (None, host.kind)]
    if not wanted:
        kinds = ", ".join(dict.fromkeys(host.kind for host in able))
        raise UserError(f"{entry.name} is not on {arguments.source}; --source can be {kinds}")
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise UserError(f"no connection: HF_HUB_OFFLINE is set; unset it, or {by_hand(entry, wanted)}")
    check_hub(arguments.hf_auth_token)
    held = dict.fromkeys(host.holds for host in wanted)
    for holds in dict.fromkeys(host.holds for host in able if host.holds not in held):
        print_status(f"not on {arguments.source}, and not fetched: {holds}")
    pull = _Pull(entry, home, arguments)
    for holds in held:
        pull.first_of([host for host in wanted if host.holds == holds])
    pull.end(set(held))


class _Pull:
    """One run: what has come, from where, and whether the terms were accepted."""

    def __init__(self, entry: Entry, home: Path, arguments: PullOptions) -> None:
        self.entry, self.home, self.incoming = entry, home, home / "incoming"
        self.token, self.accepted = arguments.hf_auth_token, arguments.accept_licence
        self.agreed = False
        self.before, self.waiting = read_record(home).get("files", {}), read_record(self.incoming).get("files", {})
        self.files: Files = {}
        self.sources: list[Source] = []

    def first_of(self, places: Sequence[Host]) -> None:
        """Fetch from the first host that gives all its files; `UserError` where none does."""
        failed: list[str] = []
        for at, host in enumerate(places):
            try:
                revision, remotes = hosts.list_host_files(host, self.token)
                if not self.agreed:
                    agree(self.entry, self.home, accepted=self.accepted)
                    self.agreed = True
                return self.all_of(host, revision, remotes)
            except HostUnreachable as error:
                failed.append(f"no connection to {error}")
            except DownloadError as error:
                failed.append(f"{host.kind}: {error}")
                if at + 1 < len(places):
                    print_status(failed[-1])
        raise UserError(f"{'; '.join(dict.fromkeys(failed))}; try again later, or {by_hand(self.entry, places)}")

    def all_of(self, host: Host, revision: str, remotes: Sequence[RemoteFile]) -> None:
        """Bring all files of a host; those that are here and whole are kept."""
        here = {name: (self.home / "files", own) for name, own in self.before.items()}
        here |= {name: (self.incoming, own) for name, own in self.waiting.items()}
        here = {name: own for name, own in here.items() if own[1]["of"].get("holds", "") == host.holds}
        files: Files = {}
        for remote in remotes:
            kept = _stored_files(remote, here)
            if kept:
                files |= kept
                print(f"kept {remote.name}")
                continue
            got = hosts.fetch_file(host, revision, remote, self.incoming / host.holds, self.token)
            files |= _placed(remote, got, self.incoming, host.holds)
            write_json(self.incoming / "pulled.json", {"files": self.waiting | self.files | files})
            print(f"fetched {remote.name} ({counted(got.size, 'byte')})")
        self.files |= files
        self.sources.append({"source": host.kind, "repo": host.repo, "revision": revision, "holds": host.holds})

    def end(self, held: set[str]) -> None:
        """Remove what the hosts do not have any more, and put the rest in its place."""
        others = {name: own for name, own in self.before.items() if own["of"].get("holds", "") not in held}
        for name in self.before.keys() - self.files.keys() - others.keys():
            (self.home / "files" / name).unlink(missing_ok=True)
            print(f"removed {name} (of an earlier pull; not there any more)")
        before = [own for own in read_record(self.home).get("sources", []) if own["holds"] not in held]
        publish(self.entry, self.home, others | self.files, before + self.sources)


def _stored_files(remote: RemoteFile, here: Mapping[str, tuple[Path, PulledFile]]) -> Files:
    """What is here of a file of the host: itself, or what was unpacked of it; empty where any of it is not whole."""
    own = {name: (base, known) for name, (base, known) in here.items() if known["of"]["name"] == remote.name}
    for name, (base, known) in own.items():
        of = known["of"]
        if remote.sha256 and of["sha256"] != remote.sha256.lower():
            return {}
        if not remote.sha256 and of["url"] != remote.url:
            return {}
        if remote.size is not None and not remote.lfs_url and of["bytes"] != remote.size:
            return {}
        path = base / name
        if not path.is_file() or path.stat().st_size != known["bytes"] or sha256_of(path) != known["sha256"]:
            return {}
    return {name: known for name, (_, known) in own.items()}


def _placed(remote: RemoteFile, got: DownloadedFile, incoming: Path, holds: str) -> Files:
    own = (Path(holds) / hosts.safe_relative_path(remote.name)).as_posix()
    whole: Content = {"bytes": got.size, "sha256": got.sha256}
    of: Origin = {"name": remote.name, "holds": holds, "url": remote.url, "from": got.url, **whole}
    if not remote.name.lower().endswith(".zip"):
        return {own: {**whole, "of": of}}
    archive = incoming / own
    members = unpack(archive, incoming)
    archive.unlink()
    return {name: {**member, "of": of} for name, member in members.items()}
