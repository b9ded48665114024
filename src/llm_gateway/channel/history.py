"""History of published configurations: the newest and the last changes, so that a worker gets only what it lacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from llm_gateway.channel.messages import Message
from llm_gateway.channel.splitter import Changes, Published, all_of, changes_between, changes_of
from llm_gateway.domain.configuration import Configuration

KEPT = 8
"""Changes that are kept: a worker that is more versions behind gets everything."""


class _State(NamedTuple):
    newest: Published | None = None
    changes: tuple[Changes, ...] = ()


class History:
    """The configurations published so far. All methods are for all threads."""

    def __init__(self) -> None:
        self._publishing = threading.Lock()
        self._state = _State()

    def publish(self, configuration: Configuration) -> int:
        """Add a configuration. Returns its version: 1, 2, …."""
        with self._publishing:
            before, changes = self._state
            published = Published(1 if before is None else before.version + 1, configuration)
            if before is not None:
                changes = (*changes[1 - KEPT :], changes_between(before, published))
            self._state = _State(published, changes)
            return published.version

    def since(self, version: int | None) -> tuple[int | None, Iterator[Message]]:
        """Return the newest version, and the messages for a worker that has `version`, or nothing if it is None."""
        newest, changes = self._state
        if newest is None:
            return None, iter(())
        if version == newest.version:
            return version, iter(())
        missing = [each for each in changes if version is not None and each.base >= version]
        if missing and missing[0].base == version:
            return newest.version, chain.from_iterable(changes_of(each) for each in missing)
        return newest.version, all_of(newest)
