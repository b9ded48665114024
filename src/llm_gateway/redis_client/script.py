"""A Lua script that the server keeps: it is called by its hash, and loaded where the server does not know it.

The beginning of a call, with its keys, is packed once: to pack a whole call each time takes five times as long.
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

    def beginning(self, keys: Sequence[str]) -> bytes:
        """Return the packed beginning of a call with these keys and one argument, which `argument` packs."""
        whole = self.call(keys, [""])
        return whole[: -len(b"$0\r\n\r\n")]


def argument(text: bytes) -> bytes:
    """Return the packed last argument of a call."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def pack(*command: Any) -> bytes:
    """Return a packed command."""
    packed: bytes = hiredis.pack_command(command)
    return packed
