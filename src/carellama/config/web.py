"""The options of `carellama web`, besides those of all verbs that answer, and who may use the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from carellama.config.environment import web_password
from carellama.config.option import about, at_least
from carellama.config.serve import is_loopback
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

SHORTEST = 8  # characters of a password


@dataclass(frozen=True)
class WebArguments:
    """Where the page is, who may use it, and how much of it."""

    host: str = field(
        default="127.0.0.1", metadata=about("Address; others than this machine's own need a password (see below).")
    )
    port: int = field(default=7860, metadata=about("Port; 0: any free one."))
    password_file: Optional[str] = field(
        default=None,
        metadata=about("File with one line user:password, asked of every visitor; or $CARELLAMA_WEB_PASSWORD."),
    )
    share: bool = field(
        default=False,
        metadata=about("Public address for a week, through servers of Gradio's makers, who can read what passes."),
    )
    queue: int = field(default=32, metadata=about("Questions that may wait for their turn; more are refused."))
    question_chars: int = field(default=20000, metadata=about("Longest question, in characters."))
    ssl_certfile: Optional[str] = field(default=None, metadata=about("TLS: certificate (chain), PEM."))
    ssl_keyfile: Optional[str] = field(default=None, metadata=about("TLS: its private key, PEM."))

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the page."""
        return is_loopback(self.host)

    @property
    def scheme(self) -> str:
        """`https` where there is a certificate."""
        return "https" if self.ssl_certfile else "http"

    def __post_init__(self) -> None:
        at_least(self, queue=0, question_chars=1)
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; it must be between 0 and 65535")
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise UserError("--ssl_certfile and --ssl_keyfile go together: give both, or neither")
        for name in ("ssl_certfile", "ssl_keyfile"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise UserError(f"--{name}: there is no file {path}")


def credentials(arguments: WebArguments) -> str | None:
    """Return `user:password` that visitors have to give; None: nobody is asked.

    A password is no option, since all users of a machine see the words of a command. Raises `UserError` where one is
    needed and there is none, or one that is no password.
    """
    source, found = "CARELLAMA_WEB_PASSWORD", web_password()
    if arguments.password_file:
        source = arguments.password_file
        try:
            found = Path(source).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read --password_file {source}: {error}") from error
    if found is None:
        if arguments.loopback and not arguments.share:
            return None
        raise UserError(
            f"the page would be open to others ({'--share' if arguments.share else '--host ' + arguments.host}): "
            "set CARELLAMA_WEB_PASSWORD=user:password, or give a file with such a line as --password_file"
        )
    user, colon, password = found.partition(":")
    if not (user and colon and len(password) >= SHORTEST) or len(found.splitlines()) > 1:
        raise UserError(f"{source} must hold one line user:password, the password of at least {SHORTEST} characters")
    return found
