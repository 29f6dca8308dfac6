"""A small OpenID Connect provider on a loopback port, whose faults a test can set. Not a test module itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "carellama", "a secret of the client"


class Provider:
    """What the provider says; a test changes it."""

    def __init__(self, address: str) -> None:
        self.issuer = address
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
        self.signing: Any = self.key
        self.claims: dict[str, Any] = {"sub": "person-1", "name": "Mei Lin"}
        self.header = {"alg": "RS256", "kid": "k1"}
        self.discovery: dict[str, Any] = {}  # what the description has in place of the truth
        self.token_status = 200
        self.codes: dict[str, dict[str, str]] = {}  # code -> what the login was begun with
        self.asked: list[str] = []  # paths

    def description(self) -> dict[str, Any]:
        """The provider's description of itself."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            **self.discovery,
        }

    def log_in(self, address: str) -> str:
        """Log the person in who comes with this address; return where the browser is sent back to."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert query["response_type"] == "code" and query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256" and "openid" in query["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        return f"{query['redirect_uri']}?code={code}&state={query['state']}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Answer the token endpoint: the client, the code and the verifier have to be right."""
        begun = self.codes.pop(form.get("code", ""), None)
        expected = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if self.token_status != 200:
            return self.token_status, {"error": "server_error"}
        if authorization != expected or begun is None or form["redirect_uri"] != begun["redirect_uri"]:
            return 401, {"error": "invalid_client"}
        if challenge.decode().rstrip("=") != begun["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
        claims = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": self.signed(claims)}

    def signed(self, claims: dict[str, Any]) -> str:
        """An ID token."""
        if self.header["alg"] in ("none", "HS256"):  # which the library refuses to make
            text = ".".join(_encoded(json.dumps(part).encode()) for part in (self.header, claims))
            mac = b"" if self.header["alg"] == "none" else hmac.digest(self.signing, text.encode(), "sha256")
            return f"{text}.{_encoded(mac)}"
        return jwt.encode(self.header, claims, self.signing, [self.header["alg"]])


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


@contextmanager
def provider() -> Iterator[Provider]:
    """Run a provider while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.asked.append(self.path)
            if self.path == "/.well-known/openid-configuration":
                self.answer(200, one.description())
            elif self.path == "/keys":
                self.answer(200, {"keys": [one.key.as_dict(private=False)]})
            elif self.path.startswith("/authorize?"):
                self.send_response(302)
                self.send_header("location", one.log_in(one.issuer + self.path))
                self.end_headers()
            else:
                self.answer(404, {})

        def do_POST(self) -> None:
            one.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.answer(*one.token(form, self.headers.get("authorization", "")))

        def answer(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one = Provider(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
