"""The options of `carellama api`. Loads no library."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

from carellama.config.answering import EngineArguments
from carellama.config.consultation import ConsultArguments
from carellama.config.data import DataArguments
from carellama.config.finetuning import FinetuningArguments
from carellama.config.model import ModelArguments
from carellama.config.option import about, at_least
from carellama.config.safety import SafetyArguments
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

MODEL = "carellama"  # the name of the model in requests; an adapter's is carellama:NAME


@dataclass(frozen=True)
class ApiArguments:
    """Where the server listens, what it takes, and what a request that leaves it out gets."""

    host: str = field(default="127.0.0.1", metadata=about("Address to listen at; another than loopback needs keys."))
    port: int = field(default=8000, metadata=about("Port to listen at; 0: any that is free."))
    parse_special: bool = field(
        default=False,
        metadata=about(
            "/v1/completions: read strings of special tokens in a prompt (<|im_start|>) as these tokens, for clients "
            "that write the chat format themselves; default: they are text."
        ),
    )
    database: Optional[str] = field(
        default=None,
        metadata=about("Database of the API keys, a file or a URL; default: as `carellama keys`.", aliases=["--keys"]),
    )
    model_alias: Optional[str] = field(
        default=None,
        metadata=about("Further names of the model, comma separated, for clients that insist: gpt-3.5-turbo."),
    )
    reward_model: Optional[str] = field(
        default=None, metadata=about("Reward model of --stage rm for /v1/score: folder(s), hub id.")
    )
    embedding_model: Literal["auto", "multilingual-e5-small", "universal-sentence-encoder-multilingual", "none"] = (
        field(
            default="auto",
            metadata=about("Model of /v1/embeddings and /v1/rerank; auto: the first one installed (extra embed)."),
        )
    )
    tools: Literal["auto", "always", "never"] = field(
        default="auto",
        metadata=about("Tools that a request offers; auto: left out if the chat template has no place for them."),
    )
    context_overflow: Literal["error", "drop_oldest"] = field(
        default="error",
        metadata=about("A conversation that leaves no room for an answer; drop_oldest: its oldest turns are left out."),
    )
    temperature: float = field(default=0.3, metadata=about("Of requests that give none; 0: the likeliest token."))
    top_p: float = field(default=1.0, metadata=about("Of requests that give none."))
    top_k: int = field(default=0, metadata=about("Of requests that give none; 0: from all tokens."))
    repetition_penalty: Optional[float] = field(
        default=None, metadata=about("Of requests that give none; 1: none; default: 1.05, and 1 with --engine openai.")
    )
    max_new_tokens: int = field(default=512, metadata=about("Most tokens of an answer, of requests that give none."))
    queue: int = field(default=64, metadata=about("Answers that may wait for a place; past them: status 429."))
    queue_timeout: float = field(default=30.0, metadata=about("Seconds that an answer waits for a place; then 429."))
    first_token_timeout: float = field(default=120.0, metadata=about("Seconds from its place to its first token."))
    request_timeout: float = field(default=600.0, metadata=about("Seconds that a request takes in all."))
    receive_timeout: float = field(
        default=30.0,
        metadata=about("Seconds for the headers of a request, and for its body (and 1 s more for each 1,000 bytes)."),
    )
    shutdown_timeout: float = field(
        default=60.0, metadata=about("Seconds that running requests have after SIGTERM or Ctrl-C.")
    )
    drain_seconds: Optional[float] = field(
        default=None,
        metadata=about("Least seconds of status 503 before the socket closes; default: 0 on loopback, otherwise 5."),
    )
    max_header_bytes: int = field(default=65536, metadata=about("Longest headers of a request; past it: status 431."))
    max_body_bytes: int = field(default=4 << 20, metadata=about("Longest body of a request; past it: status 413."))
    max_messages: int = field(default=1024, metadata=about("Most messages, texts or documents of a request."))
    max_choices: int = field(default=8, metadata=about("Largest n: answers to one request."))
    cors_origins: Optional[str] = field(
        default=None,
        metadata=about("Web pages that may call from a browser, comma separated: https://chat.example.org; *: any."),
    )
    ssl_certfile: Optional[str] = field(default=None, metadata=about("TLS: certificate (chain), PEM."))
    ssl_keyfile: Optional[str] = field(default=None, metadata=about("TLS: its private key, PEM."))
    workers: int = field(
        default=1, metadata=about("Processes that serve; each has an engine of its own (for --engine openai).")
    )

    @property
    def names(self) -> list[str]:
        """The names that the model has in requests, without adapters."""
        return [MODEL, *_parts(self.model_alias)]

    @property
    def origins(self) -> list[str]:
        """The parts of `cors_origins`."""
        return _parts(self.cors_origins)

    @property
    def drains(self) -> float:
        """Seconds that a drain takes at least, so that a load balancer sees /ready fail."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 0.0 if is_loopback(self.host) else 5.0

    @property
    def scheme(self) -> str:
        """`https` where there is a certificate."""
        return "https" if self.ssl_certfile else "http"

    def __post_init__(self) -> None:
        at_least(self, queue=0, max_body_bytes=1024, max_messages=1, max_choices=1, workers=1, max_new_tokens=1)
        at_least(self, queue_timeout=0.1, first_token_timeout=0.1, request_timeout=0.1, receive_timeout=0.1)
        at_least(self, shutdown_timeout=0, drain_seconds=0, max_header_bytes=1024)
        at_least(self, temperature=0, top_k=0)
        if self.temperature > 2:
            raise UserError(f"--temperature is {self.temperature}; it must be between 0 and 2")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; it must be between 0 and 65535")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise UserError(f"--repetition_penalty is {self.repetition_penalty}; it must be above 0 (1: none)")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise UserError("--ssl_certfile and --ssl_keyfile go together: give both, or neither")
        for name in ("ssl_certfile", "ssl_keyfile"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise UserError(f"--{name}: there is no file {path}")
        for origin in self.origins:
            if origin != "*" and not (origin.startswith(("http://", "https://")) and origin.count("/") == 2):
                raise UserError(f"--cors_origins: {origin!r}; write scheme and host, as in https://chat.example.org")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name other than localhost is taken as one that others reach."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


API_GROUPS = (
    ModelArguments, DataArguments, FinetuningArguments, EngineArguments, SafetyArguments, ConsultArguments,
    ApiArguments,
)  # fmt: skip
