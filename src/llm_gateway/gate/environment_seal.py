"""Bind a session of a key of the environment to the key's secret, so that it ends when another one replaces that.

The secret in the browser's cookie gets a second part, a keyed hash of the key's secret:

    9c_Nf… . 5e884898da28…        hash of all secrets of the key's name, keyed with the first part

The database has the SHA-256 of both parts together, so nobody can make up another second one. Keys that were made over
the API have their secrets in the database, which ends such sessions itself (`store/sessions.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from hmac import compare_digest


class EnvironmentSeal:
    """The secrets of the environment's keys, given as (name, secret, scopes); several can have one name."""

    def __init__(self, callers: Iterable[tuple[str, str, object]]) -> None:
        self._secrets: dict[str, bytes] = {}
        for name, secret, _ in sorted(callers, key=lambda each: each[:2]):
            self._secrets[name] = self._secrets.get(name, b"") + b"\0" + secret.encode()

    def seal(self, name: str, secret: str) -> str:
        """Return a session's secret with its second part. The key with this name must be one of the environment."""
        return f"{secret}.{self._hash(name, secret)}"

    def is_in_force(self, name: str, sealed: str) -> bool:
        """Return whether the key still has the secrets that it had when the session was opened."""
        secret, _, found = sealed.rpartition(".")
        return name in self._secrets and compare_digest(found, self._hash(name, secret))

    def _hash(self, name: str, secret: str) -> str:
        return blake2b(self._secrets[name], key=secret.encode()[:64], digest_size=16).hexdigest()
