"""Check a gateway's usage reports against the requests sent to it and the calls that the mock vendor saw."""

from __future__ import annotations

from typing import Any

from benchmarks.findings import Books
from benchmarks.jobs import Load, OpenLoad
from benchmarks.targets import Gateway
from tests.upstream import UpstreamProcess


class NoBooks:
    """The ledger of a target without accounting; does nothing."""

    def add(self, load: Load | OpenLoad) -> None: ...

    def settle(self) -> None: ...


class Ledger:
    """A gateway's accounting over some load: create it before the first request, close it after the last."""

    def __init__(self, gateway: Gateway, mock: UpstreamProcess) -> None:
        self._gateway = gateway
        self._mock = mock
        self._before = gateway.summary(0)
        self._bought_before = mock.seen().total
        self._sent = self._slack = 0

    def add(self, load: Load | OpenLoad, direct: Load | None = None) -> None:
        """Count the requests of a load; those of `direct` went to the mock, not to the gateway."""
        self._sent += load.requests
        self._slack += load.unread if isinstance(load, Load) else 0
        if direct is not None:
            self._bought_before += direct.requests
            self._slack += direct.unread

    def settle(self) -> dict[str, Any]:
        """Wait until everything sent is in the database. Returns the usage summary."""
        return self._gateway.summary(self._before["total_requests"] + self._sent)

    def close(self, name: str, misses: int | None) -> Books:
        """Return the accounting; `misses` is the number of requests that the cache cannot answer, None for all."""
        after = self.settle()
        return Books(
            name=name,
            sent=self._sent,
            slack=self._slack,
            recorded=after["total_requests"] - self._before["total_requests"],
            hits_expected=0 if misses is None else self._sent - misses,
            hits=after["cached_requests"] - self._before["cached_requests"],
            bought=self._mock.seen().total - self._bought_before,
        )
