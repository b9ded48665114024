"""Control's side of the channel: publishes configurations, sends beats, collects workers' metrics."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from llm_gateway.channel.messages import (
    Applied,
    AskReport,
    ControlBeat,
    Decoder,
    FromWorker,
    Goodbye,
    Hello,
    MalformedFrame,
    NeedAll,
    Passed,
    Refill,
    Report,
    encode,
    read_frame,
)
from llm_gateway.channel.transfer import ROWS, Published, all_of, parts
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.usage import SentAttempt
from llm_gateway.errors import reason_without_key
from llm_gateway.forwarding.control_socket import ControlSocket, keep_bound
from llm_gateway.server.same_user import user_of

BEAT_S = 0.25
"""Seconds between two beats, in both directions."""
ALIVE_S = 1.0
"""Seconds after its last beat for which a process counts as alive."""
BACKLOG = 128
MAX_WAITING = 1_000
"""Messages that wait for a worker that does not read, besides the configuration; with one more it is disconnected."""


class ConnectedWorker(NamedTuple):
    """A worker as control knows it. `last_beat_at` is by the server's clock, `version` the configuration it applies."""

    name: str
    number: int
    pid: int
    is_connected: bool
    last_beat_at: float
    version: int


class ChannelServer:
    """Serves the workers' connections in the event loop; `publish`, `wait_applied` and `passed` are for all threads.

    Args:
        address: the address to listen on: a `ControlSocket` with the name `messages.NAME`.
        state: returns the next beat; it must not block.
        log: `log(event, level=…, **fields)`.
        recent_attempts: returns the calls of the last minute, for the rate limits of workers that start; it is called
            in a thread. None if workers share their limits.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        address: ControlSocket,
        *,
        state: Callable[[], ControlBeat],
        log: Callable[..., None],
        recent_attempts: Callable[[], list[SentAttempt]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._state = state
        self._log = log
        self._recent_attempts = recent_attempts
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._published: Published | None = None
        self._workers: dict[tuple[int, int, int], _Worker] = {}
        self._connections: set[_Connection] = set()
        self._report_ids = 0
        self._listener: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bind the socket and accept connections.

        Raises:
            OSError: the socket's file cannot be made.
        """
        await self._listen(self._address.bind())
        self._tasks = [
            self._loop.create_task(keep_bound(self._address, self._listen, self._log)),
            self._loop.create_task(self._beat()),
        ]

    async def stop(self) -> None:
        """End all connections, and delete the socket's file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self._address.remove()
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*(connection.ended.wait() for connection in self._connections))

    def publish(self, configuration: Configuration) -> int:
        """Send a new configuration to all workers, of now and later. Returns its version: 1, 2, ….

        A worker that has not read the one before gets the newest only.
        """
        with self._changed:
            version = 1 if self._published is None else self._published.version + 1
            self._published = Published(version, configuration)
            self._loop.call_soon_threadsafe(self._send_newest)
        return version

    def wait_applied(self, version: int, timeout_s: float) -> list[str]:
        """Wait in a thread until every living worker has applied a version. Returns the names of those that have not.

        A worker lives while its last beat is less than a second old. Connected ones that do not live are not waited
        for, but named.
        """
        ends_at = self._clock() + timeout_s
        with self._changed:
            while True:
                now = self._clock()
                late = [worker for worker in self._workers.values() if worker.version < version]
                lives_until = [w.last_beat_at + ALIVE_S for w in late if w.last_beat_at + ALIVE_S > now]
                if not lives_until or now >= ends_at:
                    return [
                        worker.name for worker in late if worker.is_connected or worker.last_beat_at + ALIVE_S > now
                    ]
                self._changed.wait(min(*lives_until, ends_at) - now)

    def passed(self, provider_id: str) -> None:
        """Tell all workers that a provider has passed its test, after the configurations published so far."""
        self._loop.call_soon_threadsafe(self._send_all, encode(Passed(provider_id=provider_id)))

    async def ask_reports(self, timeout_s: float) -> dict[str, list[MetricFamily]]:
        """Return the metrics of the workers that send them in time, by name of the worker."""
        self._report_ids += 1
        ask, number = encode(AskReport(id=self._report_ids)), self._report_ids
        asked = [connection for connection in self._connections if connection.worker is not None]
        futures = {connection.ask(number, ask): connection for connection in asked}
        if futures:
            await asyncio.wait(futures, timeout=timeout_s)
        for future in futures:
            future.cancel()
        return {
            connection.worker.name: future.result()
            for future, connection in futures.items()
            if connection.worker is not None and not future.cancelled()
        }

    @property
    def workers(self) -> list[ConnectedWorker]:
        """All workers that are connected, or were less than a second ago."""
        with self._changed:
            return [worker.seen() for worker in self._workers.values()]

    async def _listen(self, sock: socket.socket) -> None:
        before = self._listener
        sock.listen(BACKLOG)
        self._listener = await asyncio.start_unix_server(self._serve, sock=sock, backlog=BACKLOG)
        if before is not None:
            before.close()

    async def _beat(self) -> None:
        while True:
            try:
                frame = encode(self._state())
            except Exception as error:  # edge: control lives, whatever is wrong with its state
                self._log("channel: state cannot be sent", level="error", problem=reason_without_key(error))
                frame = encode(ControlBeat(database_ok=False))
            for connection in self._connections:
                connection.beat(frame)
            self._forget_gone()
            await asyncio.sleep(BEAT_S)

    def _forget_gone(self) -> None:
        oldest = self._clock() - ALIVE_S
        with self._changed:
            for key, worker in list(self._workers.items()):
                if not worker.is_connected and worker.last_beat_at < oldest:
                    del self._workers[key]

    def _send_newest(self) -> None:
        for connection in self._connections:
            connection.send(None)

    def _send_all(self, frame: bytes) -> None:
        for connection in self._connections:
            connection.send(frame)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        connection = _Connection(writer)
        user = user_of(writer.get_extra_info("socket"))
        if user not in (None, os.geteuid()):
            self._log("channel: connection of another user refused", level="warning", user_id=user)
            connection.abort()
            return
        self._connections.add(connection)
        sender: asyncio.Task[None] | None = None
        try:
            decoder = Decoder(FromWorker)
            hello = await self._first(reader, decoder)
            self._enter(connection, hello)
            sender = self._loop.create_task(self._send(connection, hello))
            while True:
                self._receive(connection, decoder.decode(await read_frame(reader)))
        except (EOFError, OSError):
            pass
        except MalformedFrame as error:
            self._log("channel: worker sent a malformed message", level="error", problem=str(error))
        finally:
            self._connections.discard(connection)
            connection.abort()
            connection.ended.set()
            self._leave(connection)
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _first(self, reader: asyncio.StreamReader, decoder: Decoder) -> Hello:
        hello = decoder.decode(await read_frame(reader))
        if not isinstance(hello, Hello):
            raise MalformedFrame("The first message is not Hello.")
        return hello

    def _enter(self, connection: _Connection, hello: Hello) -> None:
        with self._changed:
            worker = connection.worker = _Worker(hello, connection, self._clock())
            self._workers[hello.number, hello.pid, hello.started_ns] = worker

    def _leave(self, connection: _Connection) -> None:
        worker = connection.worker
        if worker is not None and worker.connection is connection:
            with self._changed:
                worker.is_connected = False
                self._changed.notify_all()

    def _receive(self, connection: _Connection, message: FromWorker | None) -> None:
        worker = connection.worker
        if worker is None:
            return
        with self._changed:
            worker.last_beat_at = self._clock()
            if isinstance(message, Applied):
                worker.version = message.version
                self._changed.notify_all()
            elif isinstance(message, Goodbye):
                worker.last_beat_at = float("-inf")
                self._changed.notify_all()
        if isinstance(message, Report):
            connection.answer(message)
        elif isinstance(message, NeedAll):
            connection.send(None)

    async def _send(self, connection: _Connection, hello: Hello) -> None:
        """Send everything that a worker needs, then what comes into its outbox."""
        try:
            if hello.wants_refill:
                await self._refill(connection)
            connection.send(None)
            sent = 0
            while True:
                frame = await connection.next()
                if frame is not None:
                    await connection.write(frame)
                    continue
                published = self._published
                if published is None or published.version == sent:
                    continue
                for message in all_of(published):
                    await connection.write(encode(message))
                sent = published.version
        except OSError:
            connection.abort()
        except Exception as error:  # edge: the worker connects again and gets everything again
            self._log("channel: worker cannot be served", level="error", problem=reason_without_key(error))
            connection.abort()

    async def _refill(self, connection: _Connection) -> None:
        if self._recent_attempts is None:
            return
        try:
            attempts = await asyncio.to_thread(self._recent_attempts)
        except Exception as error:  # edge: the worker must start without them
            self._log(
                "channel: rate limits of a worker start empty", level="warning", problem=reason_without_key(error)
            )
            return
        for part in parts(attempts, ROWS):
            await connection.write(encode(Refill(attempts=part)))


class _Worker:
    """State of a worker, across its connections of the last second. Guarded by the server's lock."""

    def __init__(self, hello: Hello, connection: _Connection, now: float) -> None:
        self.name = f"worker {hello.number} (process {hello.pid})"
        self.connection = connection
        self.is_connected = True
        self.last_beat_at = now
        self.version = 0
        self._hello = hello

    def seen(self) -> ConnectedWorker:
        return ConnectedWorker(
            self.name, self._hello.number, self._hello.pid, self.is_connected, self.last_beat_at, self.version
        )


class _Connection:
    """A worker's connection: what waits to be sent. None in the outbox stands for the newest configuration."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.worker: _Worker | None = None
        self.ended = asyncio.Event()
        self._writer = writer
        self._outbox: deque[bytes | None] = deque()
        self._wake = asyncio.Event()
        self._last_beat = b""
        self._asked: dict[int, asyncio.Future[list[MetricFamily]]] = {}

    def send(self, frame: bytes | None) -> None:
        """Send a frame, or the newest configuration, after what waits. Drops the connection if too much waits."""
        if frame is None and self._outbox and self._outbox[-1] is None:
            return
        if len(self._outbox) >= MAX_WAITING:
            self.abort()
            return
        self._outbox.append(frame)
        self._wake.set()

    def beat(self, frame: bytes) -> None:
        """Send a beat, unless the one before still waits."""
        if self._last_beat not in self._outbox:
            self._last_beat = frame
            self.send(frame)

    async def next(self) -> bytes | None:
        """Wait for the next frame to send; None stands for the newest configuration."""
        while not self._outbox:
            self._wake.clear()
            await self._wake.wait()
        return self._outbox.popleft()

    async def write(self, frame: bytes) -> None:
        """Write a frame, and wait while the worker does not read.

        Raises:
            OSError: the connection is broken.
        """
        self._writer.write(frame)
        await self._writer.drain()

    def ask(self, number: int, frame: bytes) -> asyncio.Future[list[MetricFamily]]:
        """Send the request for a report. Returns the future of the report, cancelled when the connection ends."""
        future = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        future.add_done_callback(lambda _: self._asked.pop(number, None))
        self.send(frame)
        return future

    def answer(self, report: Report) -> None:
        """Pass on a report that was requested."""
        future = self._asked.get(report.id)
        if future is not None and not future.done():
            future.set_result(report.families)

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()
        for future in list(self._asked.values()):
            future.cancel()
