"""A Lua script that the server keeps: it is called by its hash, and loaded where the server does not know it.

Keys can be packed once for many calls: to pack a whole call each time takes five times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

import hiredis


class Script:
    """A script, and its name on the server."""

    __slots__ = ("load", "sha")

    def __init__(self, text: str) -> None:
        source = text.encode()
        self.sha = sha1(source, usedforsecurity=False).hexdigest().encode()
        self.load = pack(b"SCRIPT", b"LOAD", source)
        """The command that makes the server keep it."""

    def call(self, keys: Sequence[str], arguments: Sequence[object]) -> bytes:
        """Return the packed call."""
        return pack(b"EVALSHA", self.sha, len(keys), *keys, *arguments)

    def packed(self, count: int, keys: bytes, argument: bytes) -> bytes:
        """Return the packed call with `count` keys that are packed already, and one argument."""
        digits = b"%d" % count
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
            count + 4, self.sha, len(digits), digits, keys, len(argument), argument,
        )  # fmt: skip


def bulk(text: bytes) -> bytes:
    """Return a packed part of a command."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def pack(*command: Any) -> bytes:
    """Return a packed command."""
    packed: bytes = hiredis.pack_command(command)
    return packed
