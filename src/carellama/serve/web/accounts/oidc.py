"""Log in with OpenID Connect: the person goes to the provider and comes back with a code.

    provider = OidcProvider("https://login.example.org/realms/clinic", "carellama", secret)
    address, sealed = provider.begin("https://care.example.org/web/oidc/callback")     # the browser keeps `sealed`
    identity = provider.finish(query, sealed, "https://care.example.org/web/oidc/callback")

Authorization code flow with PKCE (RFC 7636), state and nonce. What a login in progress needs is kept in the browser,
encrypted with a key of this process, for ten minutes; a state that was used is refused afterwards. The ID token is
checked as OpenID Connect Core 1.0, 3.1.3.7 says: signature by a key of the provider and no algorithm that is symmetric
or none, issuer, audience, authorized party, expiry, nonce. Calls wait for the network: an event loop calls them in a
thread.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from carellama.config import environment
from carellama.config.serve import WebOptions
from carellama.errors import need

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
SCOPE = "openid profile email"
LOGIN_SECONDS = 600  # from leaving for the provider to coming back
METADATA_SECONDS = 3600.0  # that the provider's description and keys are kept
KEYS_SECONDS = 60.0  # least time between two looks at the provider's keys
TIMEOUT_SECONDS = 10.0  # of a request to the provider
LEEWAY_SECONDS = 60  # between the clocks
NEEDED = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
log = logging.getLogger(__name__)


class OidcError(Exception):
    """A login that failed; `code` is unavailable, refused, expired or invalid. Its text is for the log."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Identity:
    """Whom the provider knows: `subject` never changes, `name` is to be shown."""

    issuer: str
    subject: str
    name: str


@dataclass
class OidcProvider:
    """One provider. Safe to be used by several threads."""

    issuer: str
    client_id: str
    secret: str | None = field(default=None, repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        from cryptography.fernet import Fernet

        self._fernet = Fernet(Fernet.generate_key())
        self._lock = threading.Lock()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, Any] | None = None
        self._used: dict[str, float] = {}  # states that came back, and when

    def begin(self, redirect_uri: str) -> tuple[str, str]:
        """Return the address at the provider, and what the browser keeps until it comes back. Raises `OidcError`."""
        metadata = self._read_metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        with self._client(redirect_uri, metadata) as client:
            address, _ = client.create_authorization_url(
                metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        sealed = json.dumps({"state": state, "nonce": nonce, "verifier": verifier}).encode()
        return address, self._fernet.encrypt(sealed).decode()

    def finish(self, query: Mapping[str, str], sealed: str, redirect_uri: str) -> Identity:
        """Return who came back with this query. Raises `OidcError`."""
        begun = self._unseal(sealed)
        if not secrets.compare_digest(query.get("state", "").encode(), begun["state"].encode()):
            raise OidcError("expired", "the state is not that of the browser")
        self._use_up(begun["state"])
        if query.get("iss", self.issuer) != self.issuer:  # RFC 9207
            raise OidcError("invalid", "the answer is of another issuer")
        if "error" in query or not query.get("code"):
            raise OidcError("refused", f"the provider answered {query.get('error', 'without a code')[:64]!r}")
        token = self._fetch_token(query["code"], begun["verifier"], redirect_uri)
        return self._identity(self._read_token(token, begun["nonce"]))

    def _unseal(self, sealed: str) -> dict[str, str]:
        from cryptography.fernet import InvalidToken

        try:
            found: dict[str, str] = json.loads(self._fernet.decrypt(sealed.encode(), ttl=LOGIN_SECONDS))
        except (InvalidToken, ValueError):
            raise OidcError("expired", "the browser has no login in progress, or it took too long") from None
        return found

    def _use_up(self, state: str) -> None:
        """Refuse a state that came back before."""
        with self._lock:
            now = time.monotonic()
            for old in [one for one, when in self._used.items() if now - when > LOGIN_SECONDS]:
                del self._used[old]
            if state in self._used:
                raise OidcError("expired", "this login was used before")
            self._used[state] = now

    def _client(self, redirect_uri: str, metadata: Mapping[str, Any]) -> Any:
        from authlib.integrations.httpx_client import OAuth2Client

        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        by_post = "client_secret_basic" not in methods and "client_secret_post" in methods
        with_secret = "client_secret_post" if by_post else "client_secret_basic"
        return OAuth2Client(
            self.client_id,
            self.secret,
            with_secret if self.secret else "none",
            scope=SCOPE,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=TIMEOUT_SECONDS,
        )

    def _fetch_token(self, code: str, verifier: str, redirect_uri: str) -> dict[str, Any]:
        from authlib.integrations.base_client import OAuthError
        from httpx2 import HTTPError, InvalidURL

        metadata = self._read_metadata()
        try:
            with self._client(redirect_uri, metadata) as client:
                token = client.fetch_token(
                    metadata["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=verifier
                )
        except OAuthError as error:
            raise OidcError("refused", f"the token endpoint answered {str(error.error)[:64]!r}") from error
        except (HTTPError, InvalidURL, ValueError) as error:
            raise OidcError("unavailable", f"the token endpoint does not answer: {type(error).__name__}") from error
        if not isinstance(token, dict) or not isinstance(token.get("id_token"), str):
            raise OidcError("invalid", "the token endpoint gave no ID token")
        return token

    def _read_token(self, token: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """Return the claims of an ID token that is genuine and meant for this login."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            keys = self._read_keys()
            try:
                found = jwt.decode(token["id_token"], keys, ALGORITHMS)
            except (JoseError, ValueError):  # the provider may have new keys
                keys = self._read_keys(again=True)
                found = jwt.decode(token["id_token"], keys, ALGORITHMS)
            claims = CodeIDToken(
                found.claims,
                found.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self.client_id},
                    "exp": {"essential": True},
                    "sub": {"essential": True},
                },
                {"nonce": nonce, "client_id": self.client_id, "access_token": token.get("access_token")},
            )
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise OidcError("invalid", f"the ID token is not valid: {type(error).__name__} {error}"[:200]) from error
        return dict(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:  # OpenID Connect Core 1.0, section 2
            raise OidcError("invalid", "the ID token has no subject of 1 to 255 characters")
        names = (claims.get(name) for name in ("name", "preferred_username", "email"))
        name = next((one for one in names if isinstance(one, str) and one.strip()), subject)
        printable = "".join(character for character in name.strip() if character.isprintable())
        return Identity(self.issuer, subject, printable[:64] or "account")

    def _read_metadata(self) -> dict[str, Any]:
        """The provider's description of itself (OpenID Connect Discovery 1.0)."""
        kept = self._metadata
        if kept is not None and time.monotonic() - kept[0] < METADATA_SECONDS:
            return kept[1]
        found: dict[str, Any] = self._get(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if missing := [name for name in NEEDED if not isinstance(found.get(name), str)]:
            raise OidcError("unavailable", f"the description of the provider lacks {', '.join(missing)}")
        if found["issuer"] != self.issuer:
            raise OidcError("unavailable", f"--oidc_issuer is {self.issuer}; the provider calls itself another name")
        self._metadata = (time.monotonic(), found)
        return found

    def _read_keys(self, *, again: bool = False) -> Any:
        from joserfc.jwk import KeySet

        kept = self._keys
        age = METADATA_SECONDS if kept is None else time.monotonic() - kept[0]
        if kept is not None and age < (KEYS_SECONDS if again else METADATA_SECONDS):
            return kept[1]
        keys = KeySet.import_key_set(self._get(self._read_metadata()["jwks_uri"]))
        self._keys = (time.monotonic(), keys)
        return keys

    def _get(self, address: str) -> Any:
        from httpx2 import Client, HTTPError, InvalidURL

        try:
            with Client(timeout=TIMEOUT_SECONDS) as client:
                found = client.get(address).raise_for_status().json()
        except (HTTPError, InvalidURL, ValueError) as error:
            raise OidcError("unavailable", f"{address} does not answer: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise OidcError("unavailable", f"{address} is no JSON object")
        return found


def provider_of(options: WebOptions) -> OidcProvider | None:
    """Return the provider of the options, if they name one. Raises `UserError` where Authlib is missing."""
    if options.oidc_issuer is None or options.oidc_client_id is None:
        return None
    need("authlib", extra="oidc", why="--oidc_issuer")
    name = options.oidc_name or urlsplit(options.oidc_issuer).hostname or ""
    return OidcProvider(options.oidc_issuer, options.oidc_client_id, environment.oidc_secret(), name)
