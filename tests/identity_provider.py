"""Identity provider for tests: OpenID Connect over HTTP, with a key of its own, that can be made to misbehave.

It follows OpenID Connect Core 1.0, section 3.1 (code flow), Discovery 1.0, RFC 7636 (PKCE) and RFC 9207, and refuses
requests of clients that do not. `faults` replaces responses by path; `changes` changes the claims of its tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "the gateway", "a secret: with/signs"
Answer = tuple[int, dict[str, str], bytes]


class IdentityProvider:
    """A provider at `issuer` with one person, whose claims are `person`."""

    def __init__(self) -> None:
        self.issuer = ""
        self.person: dict[str, Any]
        self.changes: dict[str, Any]
        self.faults: dict[str, Answer | None]
        self.metadata: dict[str, Any]
        self.sign: Callable[[dict[str, Any]], str]
        self.behave()
        self.connections: set[asyncio.Task[None]] = set()
        self.counts: dict[str, int] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self.turn_key()

    def behave(self) -> None:
        """Forget all changes and faults."""
        self.person = {"sub": "1", "preferred_username": "ann", "groups": ["llm-admins"]}
        self.changes, self.faults, self.metadata, self.sign = {}, {}, {}, self.signed

    def turn_key(self) -> None:
        """Sign with a new key from now on, and publish only that."""
        self.key_id = secrets.token_hex(4)
        self.key = RSAKey.generate_key(2048, private=True)

    def signed(self, claims: dict[str, Any]) -> str:
        """Return a token with these claims, signed with the provider's key."""
        return jwt.encode({"alg": "RS256", "kid": self.key_id}, claims, self.key, algorithms=["RS256"])

    def signed_with_public_key(self, claims: dict[str, Any]) -> str:
        """Return a token that is signed with HS256, and the published key as the secret (RFC 8725, section 2.1)."""
        parts = ({"alg": "HS256", "kid": self.key_id}, claims)
        text = ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        signature = hmac.digest(self.key.as_pem(private=False), text.encode(), "sha256")
        return f"{text}.{urlsafe_b64encode(signature).decode().rstrip('=')}"

    def unsigned(self, claims: dict[str, Any]) -> str:
        """Return a token with the algorithm `none`."""
        parts = ({"alg": "none"}, claims)
        return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."

    def claims(self, **more: Any) -> dict[str, Any]:
        """Return the claims of a token for the gateway, which ends in five minutes."""
        now = int(time.time())
        whole = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, **self.person, **more, **self.changes}
        return {name: value for name, value in whole.items() if value is not None}

    async def sign_in(self, address: str) -> str:
        """Open an address of the provider as a browser. Returns where it sends the browser."""
        parts = urlsplit(address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await closed(writer)
        assert " 302 " in head.splitlines()[0], head
        return next(line[10:] for line in head.splitlines() if line.startswith("location: "))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection, and close that."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            await closed(writer)
            self.connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.partition("\r\n")[0].split(" ")
        lines = [line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line]
        headers = {name.lower(): value for name, value in lines}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = urlsplit(target).path
        self.counts[path] = self.counts.get(path, 0) + 1
        given = dict(parse_qsl(body.decode() if method == "POST" else urlsplit(target).query))
        answer = self.faults[path] if path in self.faults else self._answer(path, headers, given)
        if answer is None:
            await reader.read()  # says nothing until the client gives up
        else:
            status, fields, content = answer
            fields = {"content-length": str(len(content)), "connection": "close", **fields}
            shown = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{shown}\r\n".encode() + content)

    def _answer(self, path: str, headers: dict[str, str], given: dict[str, str]) -> Answer:
        if path == "/.well-known/openid-configuration":
            return as_json(200, self._metadata())
        if path == "/jwks":
            own = {**self.key.as_dict(private=False), "use": "sig", "kid": self.key_id}
            return as_json(200, {"keys": [{"kty": "odd"}, own]})
        if path == "/authorize":
            return self._authorize(given)
        return self._token(headers, given) if path == "/token" else as_json(404, {})

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            **self.metadata,
        }

    def _authorize(self, given: dict[str, str]) -> Answer:
        fits = {"client_id": CLIENT, "response_type": "code", "code_challenge_method": "S256", "tenant": "1"}
        if any(given.get(name) != value for name, value in fits.items()) or "openid" not in given["scope"].split():
            return as_json(400, {"error": "invalid_request"})
        code = secrets.token_urlsafe()
        self._codes[code] = given
        answer = urlencode({"code": code, "state": given["state"], "iss": self.issuer})
        return 302, {"location": f"{given['redirect_uri']}?{answer}"}, b""

    def _token(self, headers: dict[str, str], given: dict[str, str]) -> Answer:
        user, _, password = b64decode(headers.get("authorization", "").removeprefix("Basic ")).decode().partition(":")
        if (unquote(user), unquote(password)) != (CLIENT, SECRET):
            return as_json(401, {"error": "invalid_client"})
        asked = self._codes.pop(given.get("code", ""), None)
        challenge = urlsafe_b64encode(hashlib.sha256(given.get("code_verifier", "").encode()).digest()).decode()
        if (
            asked is None
            or given.get("grant_type") != "authorization_code"
            or given.get("redirect_uri") != asked["redirect_uri"]
            or challenge.rstrip("=") != asked["code_challenge"]
        ):
            return as_json(400, {"error": "invalid_grant"})
        token = self.sign(self.claims(nonce=asked["nonce"]))
        return as_json(200, {"access_token": "a", "token_type": "Bearer", "id_token": token})


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is closed: its transport would outlive the event loop."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def as_json(status: int, document: Any) -> Answer:
    """Return a response with a JSON document."""
    return status, {"content-type": "application/json"}, json.dumps(document).encode()


@asynccontextmanager
async def identity_provider() -> AsyncIterator[IdentityProvider]:
    """Run a provider on a port of this machine."""
    provider = IdentityProvider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        await asyncio.gather(*provider.connections, return_exceptions=True)
