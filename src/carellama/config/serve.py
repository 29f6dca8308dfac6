"""The options of commands that talk with people: chat, ask, web and api; and who may use the page."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from carellama.config.consultation import ConsultOptions
from carellama.config.data import PromptOptions
from carellama.config.engine import ANSWER_OPTIONS, EngineOptions
from carellama.config.environment import web_password
from carellama.config.model import ModelOptions
from carellama.config.options import Options, option, split_commas
from carellama.config.safety import SafetyOptions
from carellama.errors import UserError

Profile = Literal["patient", "clinician", "researcher"]
MODEL = "carellama"  # the name of the model in requests; an adapter's is carellama:NAME
SHORTEST = 8  # characters of a password
SET_PASSWORD = "set CARELLAMA_WEB_PASSWORD=user:password, or give a file with such a line as --password_file"


class ServerOptions(Options):
    """What the options of both servers have in common."""

    host: str
    ssl_certfile: str | None
    ssl_keyfile: str | None

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        return is_loopback(self.host)

    @property
    def scheme(self) -> str:
        """`https` where there is a certificate."""
        return "https" if self.ssl_certfile else "http"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise UserError("--ssl_certfile and --ssl_keyfile go together: give both, or neither")
        for name, path in (("ssl_certfile", self.ssl_certfile), ("ssl_keyfile", self.ssl_keyfile)):
            if path is not None and not Path(path).is_file():
                raise UserError(f"--{name}: there is no file {path}")


@dataclass(frozen=True)
class ApiOptions(ServerOptions):
    """Where the server listens, what it takes, and what a request that leaves it out gets."""

    host: str = option("Address to listen at; another than loopback needs keys.", "127.0.0.1")
    port: int = option("Port to listen at; 0: any that is free.", 8000, at_least=0, at_most=65535)
    parse_special: bool = option(
        "/v1/completions: read strings of special tokens in a prompt (<|im_start|>) as these tokens, for clients "
        "that write the chat format themselves; default: they are text.",
        default=False,
    )
    database: str | None = option(
        "Database of the API keys, a file or a URL; default: as `carellama keys`.", None, names=("keys",)
    )
    model_alias: str | None = option(
        "Further names of the model, comma separated, for clients that insist: gpt-3.5-turbo.", None, commas=True
    )
    reward_model: str | None = option("Reward model of --stage rm for /v1/score: folder(s), hub id.", None)
    embedding_model: Literal["auto", "multilingual-e5-small", "universal-sentence-encoder-multilingual", "none"] = (
        option("Model of /v1/embeddings and /v1/rerank; auto: the first one installed (extra embed).", "auto")
    )
    tools: Literal["auto", "always", "never"] = option(
        "Tools that a request offers; auto: left out if the chat template has no place for them.", "auto"
    )
    context_overflow: Literal["error", "drop_oldest"] = option(
        "A conversation that leaves no room for an answer; drop_oldest: its oldest turns are left out.", "error"
    )
    temperature: float = option("Of requests that give none; 0: the likeliest token.", 0.3, at_least=0, at_most=2)
    top_p: float = option("Of requests that give none.", 1.0, above=0, at_most=1)
    top_k: int = option("Of requests that give none; 0: from all tokens.", 0, at_least=0)
    repetition_penalty: float | None = option(
        "Of requests that give none; 1: none; default: 1.05, and 1 with --engine openai.", None, above=0
    )
    max_new_tokens: int = option("Most tokens of an answer, of requests that give none.", 512, at_least=1)
    queue: int = option("Answers that may wait for a place; past them: status 429.", 64, at_least=0)
    queue_timeout: float = option("Seconds that an answer waits for a place; then 429.", 30.0, at_least=0.1)
    first_token_timeout: float = option("Seconds from its place to its first token.", 120.0, at_least=0.1)
    request_timeout: float = option("Seconds that a request takes in all.", 600.0, at_least=0.1)
    receive_timeout: float = option(
        "Seconds for the headers of a request, and for its body (and 1 s more for each 1,000 bytes).",
        30.0,
        at_least=0.1,
    )
    shutdown_timeout: float = option("Seconds that running requests have after SIGTERM or Ctrl-C.", 60.0, at_least=0)
    drain_seconds: float | None = option(
        "Least seconds of status 503 before the socket closes; default: 0 on loopback, otherwise 5.", None, at_least=0
    )
    max_header_bytes: int = option("Longest headers of a request; past it: status 431.", 65536, at_least=1024)
    max_body_bytes: int = option("Longest body of a request; past it: status 413.", 4 << 20, at_least=1024)
    max_messages: int = option("Most messages, texts or documents of a request.", 1024, at_least=1)
    max_choices: int = option("Largest n: answers to one request.", 8, at_least=1)
    cors_origins: str | None = option(
        "Web pages that may call from a browser, comma separated: https://chat.example.org; *: any.", None, commas=True
    )
    ssl_certfile: str | None = option("TLS: certificate (chain), PEM.", None)
    ssl_keyfile: str | None = option("TLS: its private key, PEM.", None)
    workers: int = option("Processes that serve; each has an engine of its own (for --engine openai).", 1, at_least=1)

    @property
    def names(self) -> list[str]:
        """The names that the model has in requests, without adapters."""
        return [MODEL, *split_commas(self.model_alias)]

    @property
    def origins(self) -> list[str]:
        """The parts of `cors_origins`."""
        return split_commas(self.cors_origins)

    @property
    def drains(self) -> float:
        """Seconds that a drain takes at least, so that a load balancer sees /ready fail."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 0.0 if self.loopback else 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for origin in self.origins:
            if origin != "*" and not (origin.startswith(("http://", "https://")) and origin.count("/") == 2):
                raise UserError(f"--cors_origins: {origin!r}; write scheme and host, as in https://chat.example.org")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name other than localhost is taken as one that others reach."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class WebOptions(ServerOptions):
    """Where the page is, who may use it, and how much of it."""

    host: str = option("Address; others than this machine's own need a password or accounts.", "127.0.0.1")
    port: int = option("Port; 0: any free one.", 7860, at_least=0, at_most=65535)
    access: Literal["auto", "open", "password", "accounts"] = option(
        "Who may use the page; auto: a password where one is given; without one whoever sits at this machine, and "
        "where others reach it the accounts of the database, if it has any.",
        "auto",
    )
    password_file: str | None = option(
        "File with one line user:password, asked of every visitor; or $CARELLAMA_WEB_PASSWORD.", None
    )
    database: str | None = option(
        "Database of accounts and feedback, a file or a URL; default: as `carellama keys`.", None, names=("keys",)
    )
    session_hours: float = option(
        "accounts: hours without a request after which one has to log in again, at most 7 days.",
        12.0,
        at_least=0.05,
        at_most=168,
    )
    share: bool = option(
        "Public address for a week, through servers of Gradio's makers, who can read what passes.", default=False
    )
    trusted_proxies: str | None = option(
        "Addresses or networks of reverse proxies, comma separated, whose X-Forwarded-For, -Proto and -Host are "
        "believed: 127.0.0.1, 10.0.0.0/8.",
        None,
        commas=True,
    )
    queue: int = option("Questions that may wait for their turn; more are refused.", 32, at_least=0)
    question_chars: int = option("Longest question, in characters.", 20000, at_least=1)
    file_bytes: int = option("Largest file that may be attached to a question; 0: none.", 10_000_000, at_least=0)
    feedback: bool = option(
        "Whether persons can judge answers: stored in the database with their consent, masked.", default=True
    )
    profile: Literal["auto", "patient", "clinician", "researcher"] = option(
        "Who uses the page; patients see no sampling and no system prompt; auto: researcher on loopback, else patient, "
        "with accounts by their role.",
        "auto",
    )
    keep: Literal["auto", "browser", "server", "nothing"] = option(
        "Where conversations are kept: in the browser, on the server (accounts only), or nowhere: they are gone when "
        "the page is closed; auto: server with accounts, else browser.",
        "auto",
    )
    retention_days: float | None = option(
        "Conversations on the server that were not changed for so many days are deleted; default: never.",
        None,
        at_least=0.01,
    )
    encryption_key_file: str | None = option(
        "File of the keys that conversations and feedback on the server are encrypted with, one a line, the newest "
        "first; or $CARELLAMA_STORE_KEY.",
        None,
    )
    oidc_issuer: str | None = option(
        "accounts: OpenID Connect provider to log in with, by its issuer: https://login.example.org/realms/clinic.",
        None,
    )
    oidc_client_id: str | None = option(
        "accounts: id of the page at that provider; its secret is $CARELLAMA_OIDC_SECRET.", None
    )
    oidc_name: str | None = option("accounts: name of the provider on the login page; default: its host.", None)
    oidc_role: Literal["patient", "clinician"] = option(
        "accounts: role of a person who comes from the provider for the first time.", "patient"
    )
    ssl_certfile: str | None = option("TLS: certificate (chain), PEM.", None)
    ssl_keyfile: str | None = option("TLS: its private key, PEM.", None)

    @property
    def file_chars(self) -> int:
        """Most characters that are read of an attached file: some of a question's are left for its own words."""
        return self.question_chars - min(2000, self.question_chars // 4)

    @property
    def reached(self) -> bool:
        """Whether others than this machine reach the page."""
        return self.share or not self.loopback

    @property
    def viewer(self) -> Profile:
        """Who uses the page, where nobody logs in."""
        if self.profile != "auto":
            return self.profile
        return "patient" if self.reached else "researcher"

    @property
    def proxies(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The parts of `trusted_proxies`."""
        return [ipaddress.ip_network(one, strict=False) for one in split_commas(self.trusted_proxies)]

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in split_commas(self.trusted_proxies):
            try:
                ipaddress.ip_network(one, strict=False)
            except ValueError:
                raise UserError(f"--trusted_proxies: {one!r} is no address; write 127.0.0.1 or 10.0.0.0/8") from None
        if bool(self.oidc_issuer) != bool(self.oidc_client_id):
            raise UserError("--oidc_issuer and --oidc_client_id go together: give both, or neither")
        if self.oidc_issuer is not None:
            _check_issuer(self.oidc_issuer)
        elif self.oidc_name is not None:
            raise UserError("--oidc_name names a provider: give --oidc_issuer too")


def _check_issuer(issuer: str) -> None:
    """Raise `UserError` for an issuer whose words anybody on the way could change (OpenID Connect Discovery, 3)."""
    url = urlsplit(issuer)
    local = url.scheme == "http" and is_loopback(url.hostname or "")
    if not url.hostname or url.query or url.fragment or (url.scheme != "https" and not local):
        raise UserError(f"--oidc_issuer {issuer}: write the https address of the provider, as it names itself")


def read_password(options: WebOptions) -> str | None:
    """Return `user:password` of the options or the environment; None: neither gives one.

    A password is no option, since all users of a machine see the words of a command. Raises `UserError` for one that
    cannot be read, or that is no password.
    """
    source, found = "CARELLAMA_WEB_PASSWORD", web_password()
    if options.password_file:
        source = options.password_file
        try:
            found = Path(source).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read --password_file {source}: {error}") from error
    if found is None:
        return None
    user, colon, password = found.partition(":")
    if not (user and colon and len(password) >= SHORTEST) or len(found.splitlines()) > 1:
        raise UserError(f"{source} must hold one line user:password, the password of at least {SHORTEST} characters")
    return found


def credentials(options: WebOptions) -> str | None:
    """Return `user:password` that visitors of a page without accounts have to give; None: nobody is asked.

    Raises `UserError` where one is needed and there is none, and for accounts.
    """
    if options.access == "accounts":
        raise UserError("--access accounts: this page has none; `carellama web` has")
    where = "--share" if options.share else f"--host {options.host}"
    if options.access == "open":
        if options.password_file:
            raise UserError("--access open asks for no password: leave --password_file out, or give --access password")
        if options.reached:
            raise UserError(f"--access open is for this machine alone, and others would reach the page ({where})")
        return None
    found = read_password(options)
    if found is None and options.access == "password":
        raise UserError(f"--access password: {SET_PASSWORD}")
    if found is None and options.reached:
        raise UserError(
            f"the page would be open to others ({where}): {SET_PASSWORD}; or give each person an account: "
            "`carellama accounts invite --role admin` makes the first one, and --access accounts asks for them"
        )
    return found


# of commands that talk with a person, and of the server
CHAT_OPTIONS = (*ANSWER_OPTIONS, SafetyOptions, ConsultOptions)
API_OPTIONS = (ModelOptions, PromptOptions, EngineOptions, SafetyOptions, ConsultOptions, ApiOptions)
