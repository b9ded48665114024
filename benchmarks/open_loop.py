"""Open-loop load generator: each request is sent when it is due, whether or not earlier ones have been answered.

Runs in its own process (`python -m benchmarks.open_loop`), which reads an `OpenJob` and writes an `OpenLoad`, both
JSON. Latency counts from the time a request was due, so that a stall of the target counts against every request it
delays (no coordinated omission). It uses bare epoll because asyncio's timers are only accurate to a millisecond.
"""

from __future__ import annotations

import errno
import gc
import resource
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from random import Random
from time import perf_counter_ns

import msgspec

from benchmarks.answers import AnswerReader, is_ok, is_refusal
from benchmarks.jobs import OpenJob, OpenLoad

ROOT = Path(__file__).resolve().parents[1]
NS = 1_000_000_000
START_AFTER_NS = 50_000_000
PATIENCE_NS = 30 * NS
MAX_CONNECTIONS = 2048
"""Maximum number of connections. If all are busy, a request waits in the generator; its latency counts from when it
was due."""
READ_BYTES = 65_536
EVENTS = 32
"""Answers read before requests that have become due are sent: an overloaded target refuses hundreds at once."""


def run(job: OpenJob) -> OpenLoad:
    """Run the job in a new process."""
    command = [sys.executable, "-m", "benchmarks.open_loop"]
    done = subprocess.run(command, cwd=ROOT, input=msgspec.json.encode(job), stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=OpenLoad)


def arrivals(rate: float, seconds: float, seed: int) -> list[int]:
    """Return the due times of a Poisson process, in nanoseconds from its start."""
    random = Random(seed)
    due: list[int] = []
    at = random.expovariate(rate)
    while at < seconds:
        due.append(int(at * NS))
        at += random.expovariate(rate)
    return due


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the smallest of the ordered values that at least `part` of them do not exceed; 0 if there are none."""
    return ordered[max(0, ceil(len(ordered) * part) - 1)] if ordered else 0.0


class _Connection:
    __slots__ = ("due", "established", "reader", "socket", "unsent")

    def __init__(self, port: int) -> None:
        self.reader = AnswerReader()
        self.due = 0
        """Due time of the request in flight on this connection; 0 if it is idle."""
        self.established = False
        self.unsent = b""
        """The request to send once the connection is established."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(("127.0.0.1", port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, f"Cannot connect to port {port}")


class _Run:
    def __init__(self, job: OpenJob) -> None:
        self._job = job
        self._before, self._after = job.parts()
        self._number = job.first
        self._epoll = select.epoll()  # opened first: select() can only wait for small descriptors
        self._connections: dict[int, _Connection] = {}
        self._connecting = 0
        self._idle: deque[_Connection] = deque()
        self._queue: deque[int] = deque()
        self._took: list[int] = []
        self._refusals: list[int] = []
        self._lags: list[int] = []
        self._count_from = 0
        self._end = 0
        self._in_time = 0
        self._pending = 0
        self._most = 0
        self._failed = 0
        self._failure = ""

    def run(self) -> OpenLoad:
        for _ in range(self._job.connections):
            self._idle.append(self._open())
        give_up = perf_counter_ns() + PATIENCE_NS
        while self._connecting and perf_counter_ns() < give_up:
            self._wait(give_up)
        start = perf_counter_ns() + START_AFTER_NS
        self._count_from = start + int(self._job.lead_seconds * NS)
        seconds = self._job.lead_seconds + self._job.seconds
        self._end = start + int(seconds * NS)
        self._send_all([start + at for at in arrivals(self._job.rate, seconds, self._job.seed)])
        return self._result()

    def _send_all(self, due: list[int]) -> None:
        sent, give_up = 0, (due[-1] if due else 0) + PATIENCE_NS
        while sent < len(due) or self._pending:
            while sent < len(due) and due[sent] <= perf_counter_ns():
                self._arrive(due[sent])
                sent += 1
            until = due[sent] if sent < len(due) else give_up
            if perf_counter_ns() > give_up:
                self._fail(b"answers did not come", self._pending)
                return
            self._wait(until)

    def _result(self) -> OpenLoad:
        took, lags, refusals = sorted(self._took), sorted(self._lags), sorted(self._refusals)
        p50, p90, p99, p999, most = (percentile(took, part) / 1000 for part in (0.5, 0.9, 0.99, 0.999, 1.0))
        requests = self._number - self._job.first
        lag = percentile(lags, 0.99) / 1000
        return OpenLoad(
            requests,
            self._failed,
            p50,
            p90,
            p99,
            p999,
            most,
            lag,
            self._most,
            self._failure,
            len(refusals),
            percentile(refusals, 0.99) / 1000,
            self._in_time,
        )

    def _open(self) -> _Connection:
        connection = _Connection(self._job.port)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        self._connecting += 1
        self._most = max(self._most, len(self._connections))
        return connection

    def _arrive(self, due: int) -> None:
        """Send the request that is due on a free connection, else on a new one."""
        self._pending += 1
        if self._idle:
            self._send(self._idle.popleft(), due)
        elif len(self._connections) < MAX_CONNECTIONS:
            self._send(self._open(), due)
        else:
            self._queue.append(due)

    def _send(self, connection: _Connection, due: int) -> None:
        connection.due = due
        self._number += 1
        request = b"%b%012d%b" % (self._before, self._number, self._after) if self._after else self._before
        if due >= self._count_from:
            self._lags.append(perf_counter_ns() - due)
        if connection.established:
            self._write(connection, request)
        else:
            connection.unsent = request

    def _write(self, connection: _Connection, request: bytes) -> None:
        try:
            connection.socket.sendall(request)  # fits into the socket buffer: the last request was answered
        except OSError as error:
            self._drop(connection, f"cannot send: {error}".encode())

    def _wait(self, until: int) -> None:
        """Handle the connections' events; wait until `until` for the first one."""
        if (wait := until - perf_counter_ns()) > 0:
            select.select([self._epoll], [], [], wait / NS)  # epoll's own timeout is in whole milliseconds
        for number, events in self._epoll.poll(0, EVENTS):
            connection = self._connections[number]
            if not connection.established and events & select.EPOLLOUT:
                self._establish(connection)
            if events & ~select.EPOLLOUT:
                self._read(connection)

    def _establish(self, connection: _Connection) -> None:
        connection.established = True
        self._connecting -= 1
        self._epoll.modify(connection.socket, select.EPOLLIN)
        if connection.unsent:
            self._write(connection, connection.unsent)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(connection, f"the connection was lost: {error}".encode())
            return
        if not data:
            self._drop(connection, b"the connection was closed")
        elif answer := connection.reader.feed(data):
            self._answered(connection, answer)

    def _answered(self, connection: _Connection, answer: bytes) -> None:
        is_refused = self._job.may_refuse and is_refusal(answer)
        now = perf_counter_ns()
        self._in_time += now <= self._end and not is_refused
        if connection.due >= self._count_from:
            (self._refusals if is_refused else self._took).append(now - connection.due)
        if not is_refused and not is_ok(answer):
            self._fail(answer)
        self._pending -= 1
        connection.due = 0
        if self._queue:
            self._send(connection, self._queue.popleft())
        else:
            self._idle.append(connection)

    def _drop(self, connection: _Connection, why: bytes) -> None:
        """Forget a connection that has ended; a request that it carried has failed."""
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        self._connecting -= not connection.established
        connection.socket.close()
        if connection.due:
            self._pending -= 1
            self._fail(why)
        else:
            self._idle.remove(connection)

    def _fail(self, what: bytes, count: int = 1) -> None:
        self._failed += count
        self._failure = self._failure or what[:500].decode("utf-8", "replace")


def main() -> None:
    """Read a job from standard input, run it, and write its result to standard output."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=OpenJob)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    Path("/proc/self/timerslack_ns").write_text("1", encoding="ascii")  # the default makes every wait 50 µs longer
    gc.disable()  # a collection would delay requests; a job leaves little garbage
    sys.stdout.buffer.write(msgspec.json.encode(_Run(job).run()))


if __name__ == "__main__":
    main()
