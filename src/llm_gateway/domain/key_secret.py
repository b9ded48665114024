"""The secrets of service keys that are made over the API, and the keyed hash under which they are stored.

    gw_<12 base32: public id>_<43 base62: 256 random bits><6 base62: CRC-32 of all before>

The public id finds the key. The checksum tells a mistyped secret from a wrong one without a hash, and secret scanners a
secret from other text (the scheme is GitHub's, https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/).
A secret has 256 random bits, so that a fast hash is enough: nobody can try them all (NIST SP 800-63B, section 5.1.2.2
asks for slow hashes of secrets with less than 112 bits).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

PREFIX = b"gw_"
PATTERN = r"gw_[a-z2-7]{12}_[0-9A-Za-z]{49}"
"""Regular expression of a secret, for secret scanners and redaction."""
ID_CHARACTERS, RANDOM_CHARACTERS, CHECKSUM_CHARACTERS = 12, 43, 6
ID_AT = len(PREFIX)
ID_END = ID_AT + ID_CHARACTERS
CHECKSUM_AT = ID_END + 1 + RANDOM_CHARACTERS
LENGTH = CHECKSUM_AT + CHECKSUM_CHARACTERS
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [f"{first}{second}".encode() for first in _BASE62 for second in _BASE62]
_PAIR = len(_PAIRS)


class Pepper(msgspec.Struct, frozen=True):
    """A secret of the operator's that every stored hash depends on. `version` is stored beside the hashes made with it.

    `repr()` does not show the secret.
    """

    version: int
    secret: bytes

    def __repr__(self) -> str:
        return f"Pepper({self.version})"


class HashedSecret(NamedTuple):
    """A secret as it is stored: its public id and last four characters, and its hash with the pepper of a version.

    `repr()` does not show the hash.
    """

    public_id: str
    last4: str
    pepper: int
    digest: bytes

    @property
    def text(self) -> str:
        """The text of which `parse_hashed` makes the same again. It can be kept in a file: nobody can call with it."""
        return f"{self.public_id}:{self.last4}:{self.pepper}:{self.digest.hex()}"

    def __repr__(self) -> str:
        return f"HashedSecret({self.public_id!r})"


def parse_hashed(text: str) -> HashedSecret | None:
    """Return the hashed secret of a `HashedSecret.text`, None for any other text."""
    found = re.fullmatch(rf"([{_BASE32}]{{{ID_CHARACTERS}}}):([0-9A-Za-z]{{4}}):([0-9]{{1,10}}):([0-9a-f]{{64}})", text)
    if found is None:
        return None
    return HashedSecret(found[1], found[2], int(found[3]), bytes.fromhex(found[4]))


def make_secret() -> str:
    """Return a new random secret."""
    public_id = "".join(secrets.choice(_BASE32) for _ in range(ID_CHARACTERS))
    number = secrets.randbits(256)
    characters = []
    for _ in range(RANDOM_CHARACTERS):
        number, digit = divmod(number, len(_BASE62))
        characters.append(_BASE62[digit])
    body = f"{PREFIX.decode()}{public_id}_{''.join(characters)}"
    return body + checksum(body.encode()).decode()


def checksum(body: bytes) -> bytes:
    """Return the CRC-32 of a secret without its checksum, as 6 characters of base62."""
    rest, last = divmod(crc32(body), _PAIR)
    first, middle = divmod(rest, _PAIR)
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]


def is_intact(secret: bytes) -> bool:
    """Return whether a text has the form of a secret, with the right checksum."""
    return len(secret) == LENGTH and checksum(secret[:CHECKSUM_AT]) == secret[CHECKSUM_AT:]


def public_id_of(secret: bytes) -> bytes:
    """Return the public id in a secret."""
    return secret[ID_AT:ID_END]


class Hashers:
    """Keyed BLAKE2b-256 of secrets, by the version of the pepper."""

    def __init__(self, peppers: Iterable[Pepper]) -> None:
        self._by_version: dict[int, Any] = {
            each.version: hashlib.blake2b(key=_derived(each.secret), digest_size=32) for each in peppers
        }

    def digest(self, version: int, secret: bytes) -> bytes | None:
        """Return the hash of a secret, None if there is no pepper of this version."""
        keyed = self._by_version.get(version)
        if keyed is None:
            return None
        hashing = keyed.copy()
        hashing.update(secret)
        digest: bytes = hashing.digest()
        return digest


def looks_like_secret(text: str) -> bool:
    """Return whether a text has the form of a secret, whatever its checksum."""
    return re.fullmatch(PATTERN, text) is not None


def _derived(pepper: bytes) -> bytes:
    """Return a key of BLAKE2b, which takes up to 64 bytes, from a pepper of any length."""
    return hashlib.blake2b(pepper, digest_size=32, person=b"llm-gateway key").digest()
