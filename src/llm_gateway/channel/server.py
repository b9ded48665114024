"""Control's end of the channel: publish configurations, send heartbeats, collect workers' metrics."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

import msgspec

from llm_gateway.channel.history import History
from llm_gateway.channel.messages import (
    BEAT_S,
    Applied,
    AskReport,
    Commit,
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
    WorkerBeat,
    encode,
    read_frame,
)
from llm_gateway.channel.roster import ConnectedWorker, Roster
from llm_gateway.channel.splitter import ROWS, parts
from llm_gateway.channel.worker_connection import WorkerConnection
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.usage import RecentCalls
from llm_gateway.errors import reason_without_key
from llm_gateway.forwarding.control_socket import ControlSocket, keep_bound
from llm_gateway.server.same_user import user_of

BEATS_PER_REPORT = 20
"""Beats between two reports of each worker: a worker that is killed loses no more of its counts than of this time."""
BACKLOG = 128

CommitBy: TypeAlias = Callable[[str, int, Callable[[int], None]], None]
"""Gets a worker's request: name of its journal, number of entries, and what to call in any thread with the number of
entries that are stored."""


class ChannelServer:
    """Serves the workers' connections in the event loop; `publish`, `wait_applied` and `passed` are for all threads.

    Args:
        address: the address to listen on: a `ControlSocket` with the name `messages.NAME`.
        state: returns the next beat; it must not block.
        log: `log(event, level=…, **fields)`.
        recent_calls: returns the calls of the last minute, for the rate limits of workers that start; it is called
            in a thread. None if workers share their limits.
        on_report: called in the event loop with the key of a worker and each of its reports, which come every 5 s,
            when they are requested, and when a worker ends.
        clock: monotonic time in seconds.
        workers: number of workers of this host, which connect within a moment of the start.
    """

    def __init__(
        self,
        address: ControlSocket,
        *,
        state: Callable[[], ControlBeat],
        log: Callable[..., None],
        recent_calls: Callable[[], RecentCalls] | None = None,
        on_report: Callable[[str, list[MetricFamily]], object] = lambda _key, _families: None,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 0,
    ) -> None:
        self._address = address
        self._state = state
        self._log = log
        self._recent_calls = recent_calls
        self._on_report = on_report
        self._roster, self._expected = Roster(clock), workers
        self._loop = asyncio.get_running_loop()
        self._history = History()
        self._connections: set[WorkerConnection] = set()
        self._serving: set[asyncio.Task[object]] = set()
        self._report_ids = count(1)
        self._listener: asyncio.Server | None = None
        self._commit_by: CommitBy | None = None
        self._is_leaving = False
        self._tasks: list[asyncio.Task[None]] = []

    def commit_by(self, commit: CommitBy) -> None:
        """Pass requests of workers to store their journals at once on to `commit`. Call it before `start`."""
        self._commit_by = commit

    async def start(self) -> None:
        """Bind the socket and accept connections.

        Raises:
            ConfigurationError: the socket's file cannot be made.
        """
        await self._listen(self._address.bind_at_start())
        self._roster.expect(self._expected)
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
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def publish(self, configuration: Configuration) -> int:
        """Send a new configuration to all workers, of now and later. Returns its version: 1, 2, ….

        Workers get the changes since the version that they have, or everything if they are far behind.
        """
        version = self._history.publish(configuration)
        self._loop.call_soon_threadsafe(self._put_all, None)
        return version

    def wait_applied(self, version: int, timeout_s: float) -> list[str]:
        """Wait in a thread until every living worker has applied a version. Returns the names of those that have not.

        A worker lives while its last beat is less than a second old. Connected ones that do not live are not waited
        for, but named.
        """
        return self._roster.wait_applied(version, timeout_s)

    def passed(self, provider_id: str) -> None:
        """Tell all workers that a provider has passed its test, after the configurations published so far."""
        self._loop.call_soon_threadsafe(self._put_all, encode(Passed(provider_id=provider_id)))

    async def ask_reports(self, timeout_s: float) -> dict[str, list[MetricFamily]]:
        """Return the metrics of the workers that send them in time, by the worker's key."""
        number = next(self._report_ids)
        frame = encode(AskReport(id=number))
        asked = {connection.ask(number, frame): connection.key for connection in self._connections}
        if asked:
            await asyncio.wait(asked, timeout=timeout_s)
        for future in asked:
            future.cancel()
        return {key: future.result() for future, key in asked.items() if not future.cancelled()}

    def announce_leaving(self) -> None:
        """Tell all workers that another control process takes the place of this one in a moment."""
        self._is_leaving = True
        self._put_all(encode(self._beat_now()))

    @property
    def workers(self) -> list[ConnectedWorker]:
        """All workers that are connected, or lived a second ago."""
        return self._roster.known()

    async def _listen(self, sock: socket.socket) -> None:
        before = self._listener
        sock.listen(BACKLOG)
        self._listener = await asyncio.start_unix_server(self._serve, sock=sock, backlog=BACKLOG)
        if before is not None:
            before.close()

    async def _beat(self) -> None:
        ask = encode(AskReport(id=0))
        for number in count(1):
            frame = encode(self._beat_now())
            for connection in self._connections:
                connection.put_beat(frame)
                if number % BEATS_PER_REPORT == 0:
                    connection.put_once(ask)
            await asyncio.sleep(BEAT_S)

    def _beat_now(self) -> ControlBeat:
        try:
            beat = self._state()
        except Exception as error:  # edge: control lives, whatever is wrong with its state
            self._log("channel: state cannot be sent", level="error", problem=reason_without_key(error))
            beat = ControlBeat(database_ok=False)
        return msgspec.structs.replace(beat, is_leaving=self._is_leaving)

    def _put_all(self, frame: bytes | None) -> None:
        for connection in self._connections:
            connection.put(frame)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        user = user_of(writer.get_extra_info("socket"))
        try:
            if user in (None, os.geteuid()):
                await self._serve_worker(reader, writer)
            else:
                self._log("channel: connection of another user refused", level="warning", user_id=user)
        except (EOFError, OSError, asyncio.CancelledError):
            pass
        except MalformedFrame as error:
            self._log("channel: worker sent a malformed message", level="error", problem=str(error))
        except Exception as error:  # edge: the worker connects again and gets everything again
            self._log("channel: worker cannot be served", level="error", problem=reason_without_key(error))
        finally:
            writer.transport.abort()

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder(FromWorker)
        hello = decoder.decode(await read_frame(reader))
        if not isinstance(hello, Hello):
            raise MalformedFrame("The first message is not Hello.")
        worker = self._roster.enter(hello)
        connection = WorkerConnection(worker.key, writer, self._history)
        self._connections.add(connection)
        sending = self._loop.create_task(self._send(connection, hello))
        sending.add_done_callback(lambda _: connection.abort())
        try:
            while True:
                message = decoder.decode(await read_frame(reader))
                self._receive(connection, message)
        finally:
            self._connections.discard(connection)
            self._roster.leave(worker, is_over=connection.is_over)
            sending.cancel()
            [ended] = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(ended, Exception) and not isinstance(ended, OSError):
                raise ended

    def _receive(self, connection: WorkerConnection, message: FromWorker | None) -> None:
        self._roster.beat(connection.key)
        match message:
            case WorkerBeat():
                self._roster.state(connection.key, is_ready=message.is_ready, can_record=message.can_record)
            case Applied():
                self._roster.applied(connection.key, message.version)
            case Report():
                self._on_report(connection.key, message.families)
                connection.answer(message)
            case Commit():
                self._commit(message, connection)
            case NeedAll():
                connection.put_all()
            case Goodbye():
                connection.is_over = True

    def _commit(self, message: Commit, connection: WorkerConnection) -> None:
        def stored(entries: int) -> None:
            self._loop.call_soon_threadsafe(connection.put_stored, entries)

        if self._commit_by is not None:
            self._commit_by(message.writer, message.entries, stored)

    async def _send(self, connection: WorkerConnection, hello: Hello) -> None:
        await connection.send_now(self._beat_now())  # so that a worker knows it when it starts to serve
        if hello.wants_refill:
            calls = await self._calls()
            for attempts in parts(calls.attempts, ROWS):
                await connection.send_now(Refill(attempts=attempts))
            for key_calls in parts(calls.key_calls, ROWS):
                await connection.send_now(Refill(key_calls=key_calls))
        connection.put(None)
        await connection.send_forever()

    async def _calls(self) -> RecentCalls:
        if self._recent_calls is None:
            return RecentCalls([], [])
        try:
            return await asyncio.to_thread(self._recent_calls)
        except Exception as error:  # edge: the worker must start without them
            reason = reason_without_key(error)
            self._log("channel: rate limits of a worker start empty", level="warning", problem=reason)
            return RecentCalls([], [])
