"""Encrypt cached answers for Redis, bound to their cache keys, under names that are keyed hashes.

Prompts and answers are never on a disk of the gateway, but a Redis may write what it holds to one, and others may read
it. Each entry has an AES key of its own, derived from its cache key: an entry that was moved, that somebody else made,
or that is of another version of the gateway cannot be opened.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class Sealed:
    """Names and encryption of entries, from a secret `key` of 32 bytes; another `version` of values is not read."""

    def __init__(self, key: bytes, version: str) -> None:
        secret = blake2b(version.encode(), key=key, person=b"llmg cache").digest()
        self._names = blake2b(key=secret[:32], digest_size=24)
        self._seal_key = secret[32:]

    def name(self, key: bytes) -> bytes:
        """Return the name of the entry with this cache key."""
        name = self._names.copy()  # half the time of a new one
        name.update(key)
        return name.hexdigest().encode()

    def seal(self, key: bytes, value: bytes) -> bytes:
        """Encrypt the value of the entry with this cache key."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher(key).encrypt(nonce, value, None)

    def open(self, key: bytes, sealed: bytes) -> bytes | None:
        """Decrypt the value of an entry; None if it was not sealed for this cache key, with this secret."""
        try:
            return self._cipher(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            return None

    def _cipher(self, key: bytes) -> AESGCM:
        return AESGCM(blake2b(key, key=self._seal_key, digest_size=32).digest())
