"""Roster of workers: which of them are alive, and which version of the configuration each applies.

connected ──(connection ends)──▶ gone ──(last beat a second ago, or it said goodbye)──▶ forgotten
▲                              │
└──────(connects again)────────┘
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from llm_gateway.channel.messages import ALIVE_S, Hello


class ConnectedWorker(NamedTuple):
    """A worker as control knows it. `last_beat_at` is by the server's clock, `version` the configuration it applies.

    `key` is its own among all workers that ever were, `name` is for people, `connection` numbers connections.
    """

    key: str
    name: str
    number: int
    pid: int
    is_connected: bool
    last_beat_at: float
    connection: int
    version: int = 0
    is_ready: bool = False
    can_record: bool = False


class Roster:
    """The workers by key. All methods are for all threads. `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._workers: dict[str, ConnectedWorker] = {}
        self._numbers = count(1)
        self._expected, self._expected_until = 0, -math.inf

    def expect(self, workers: int) -> None:
        """Let `wait_applied` wait until this many workers have connected, or a second has passed from now."""
        with self._changed:
            self._expected, self._expected_until = workers, self._clock() + ALIVE_S

    def enter(self, hello: Hello) -> ConnectedWorker:
        """Add a worker that has connected, with no version."""
        worker = ConnectedWorker(
            key=f"{hello.number}-{hello.pid}-{hello.started_ns}",
            name=f"worker {hello.number} (process {hello.pid})",
            number=hello.number,
            pid=hello.pid,
            is_connected=True,
            last_beat_at=self._clock(),
            connection=next(self._numbers),
        )
        with self._changed:
            self._workers[worker.key] = worker
        return worker

    def beat(self, key: str) -> None:
        """Note that a worker lives."""
        self._change(key, last_beat_at=self._clock())

    def state(self, key: str, *, is_ready: bool, can_record: bool) -> None:
        """Note the state that a worker has sent."""
        self._change(key, is_ready=is_ready, can_record=can_record)

    def applied(self, key: str, version: int) -> None:
        """Note the version that a worker applies."""
        self._change(key, version=version)

    def leave(self, worker: ConnectedWorker, *, is_over: bool) -> None:
        """Note that the connection that a worker entered with has ended; ignored if it has connected again.

        `is_over`: it has said goodbye, so nobody waits for it.
        """
        with self._changed:
            known = self._workers.get(worker.key)
            if known is not None and known.connection == worker.connection:
                last_beat_at = -math.inf if is_over else known.last_beat_at
                self._change(worker.key, is_connected=False, last_beat_at=last_beat_at)

    def known(self) -> list[ConnectedWorker]:
        """Return the workers that are connected, or lived a second ago."""
        now = self._clock()
        with self._changed:
            for worker in list(self._workers.values()):
                if not (worker.is_connected or self._lives(worker, now)):
                    del self._workers[worker.key]
            return list(self._workers.values())

    def wait_applied(self, version: int, timeout_s: float) -> list[str]:
        """Wait until every living worker has applied a version. Returns the names of known workers that have not.

        Workers that have not connected yet to a control process that has just started are waited for, too.
        """
        ends_at = self._clock() + timeout_s
        with self._changed:
            while True:
                now = self._clock()
                late = [worker for worker in self.known() if worker.version < version]
                ends = [worker.last_beat_at + ALIVE_S for worker in late if self._lives(worker, now)]
                if len(self._workers) < self._expected and now < self._expected_until:
                    ends.append(self._expected_until)
                if not ends or now >= ends_at:
                    return [worker.name for worker in late]
                self._changed.wait(min(*ends, ends_at) - now)

    def _change(self, key: str, **fields: Any) -> None:
        with self._changed:
            worker = self._workers.get(key)
            if worker is not None:
                self._workers[key] = worker._replace(**fields)
                self._changed.notify_all()

    def _lives(self, worker: ConnectedWorker, now: float) -> bool:
        return now - worker.last_beat_at < ALIVE_S
