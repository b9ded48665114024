"""Clients of vendors' SDKs, closed after the test that made them (by the fixture `close_sdk_clients`).

The garbage collector would close their connections at any later time, with a warning that fails another test.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar


class Closable(Protocol):
    """A client that can be closed."""

    def close(self) -> Any: ...


C = TypeVar("C", bound=Closable)
_made: list[Closable] = []


def closed_later(client: C) -> C:
    """Return `client`, which is closed after the test."""
    _made.append(client)
    return client


def close_all() -> None:
    """Close the clients that were made since the last call."""
    while _made:
        _made.pop().close()
