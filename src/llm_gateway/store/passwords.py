"""Hash passwords of people with argon2id, with the parameters that OWASP's Password Storage Cheat Sheet lists first.

A hash takes 19 MiB and some 65 ms of CPU time, so never compute one on the event loop.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
MOST_HASHES = 2
"""Passwords that a process hashes at once: each takes 19 MiB and a core."""
NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$48n9hbYPMM86SZ9YorXppQ$78JD1tLGsAJ5FRNvqSBd8+mnJDg/2BqPWucI+qc/Vc0"
"""The hash of no password, for names that do not exist: comparing with it takes as long as with anyone's."""


def hashed(password: str) -> str:
    """Return the hash of a password as text, with its parameters and a random salt."""
    return _hasher().hash(_normal(password))


def is_password_of(stored: str, password: str) -> bool:
    """Return whether the hash `stored` is of this password."""
    from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415 - only sign-ins need it

    try:
        return _hasher().verify(stored, _normal(password))
    except (VerificationError, InvalidHashError):
        return False


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # noqa: PLC0415 - 10 ms that a gateway without people saves

    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)


def _normal(password: str) -> bytes:
    """Return the bytes to hash: keyboards write the same letter in different ways (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
