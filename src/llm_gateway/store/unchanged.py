"""Changes that are checked before their transaction, and made only if what they were checked against is still stored.

A check that looks up a host must not keep a transaction open. So what it needs is read and checked first, and the
transaction writes only if the row has not been changed since; else all of it is done again:

    def change() -> Provider:
        before = store.get(provider_id)
        check(before)
        return store.update(provider_id, changes, unchanged_since_ms=before.updated_at_ms)

    stored = tried_again(change)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from llm_gateway.errors import Conflict, GatewayError

MOST_TRIES = 5
"""Tries of a change, before its sender gets the answer that others change the same all the time."""

T = TypeVar("T")


class ChangedSince(Conflict):
    """A row was changed after it was read; nothing was written."""

    def __init__(self, noun: str) -> None:
        super().__init__(
            f"Somebody has changed this {noun} meanwhile, so nothing was changed now: look at it again, and try again."
        )


def check_unchanged(noun: str, updated_at_ms: int, unchanged_since_ms: int | None) -> None:
    """Check the time of a row's last change, once the row is locked; None allows any.

    Raises:
        ChangedSince: it is another one.
    """
    if unchanged_since_ms not in (None, updated_at_ms):
        raise ChangedSince(noun)


def tried_again(change: Callable[[], T], on: tuple[type[GatewayError], ...] = (ChangedSince,)) -> T:
    """Return what `change` returns. Call it again while it raises one of `on`, at most MOST_TRIES times in all.

    Raises:
        GatewayError: what the last call raised.
    """
    for _ in range(MOST_TRIES - 1):
        with suppress(*on):
            return change()
    return change()
