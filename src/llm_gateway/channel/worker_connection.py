"""Control's end of one worker's connection: queue messages, and send them in order as fast as the worker reads."""

from __future__ import annotations

import asyncio
from collections import deque

from llm_gateway.channel.history import History
from llm_gateway.channel.messages import Message, Report, Stored, encode
from llm_gateway.domain.metric_families import MetricFamily

MAX_WAITING = 1_000
"""Messages that wait for a worker that does not read, besides the configuration; with one more it is disconnected."""


class WorkerConnection:
    """A connection whose worker has said hello. Run `send_forever` until the connection ends.

    Memory is bounded: while the worker does not read, of all configurations only the newest one waits, as an object
    that control has anyway, and messages beyond `MAX_WAITING` end the connection.

    Args:
        key: the worker's key.
        writer: the connection.
        history: the published configurations.
    """

    def __init__(self, key: str, writer: asyncio.StreamWriter, history: History) -> None:
        self.key = key
        self.is_over = False
        self._writer = writer
        self._history = history
        self._outbox: deque[bytes | None] = deque()  # None stands for the newest configuration
        self._wake = asyncio.Event()
        self._last_beat = self._last_stored = b""
        self._sent: int | None = None
        self._asked: dict[int, asyncio.Future[list[MetricFamily]]] = {}

    async def send_forever(self) -> None:
        """Send what is put into the outbox.

        Raises:
            OSError: the connection is broken.
        """
        while True:
            while not self._outbox:
                self._wake.clear()
                await self._wake.wait()
            frame = self._outbox.popleft()
            if frame is None:
                await self._send_newest()
            else:
                await self._write(frame)

    async def send_now(self, message: Message) -> None:
        """Send a message before the outbox; only before `send_forever`.

        Raises:
            OSError: the connection is broken.
        """
        await self._write(encode(message))

    def put(self, frame: bytes | None) -> None:
        """Send a frame, or the newest configuration, after what waits. Drops the connection if too much waits."""
        if frame is None and self._outbox and self._outbox[-1] is None:
            return
        if len(self._outbox) >= MAX_WAITING:
            self.abort()
            return
        self._outbox.append(frame)
        self._wake.set()

    def put_once(self, frame: bytes) -> None:
        """Send a frame, unless the same one still waits."""
        if frame not in self._outbox:
            self.put(frame)

    def put_beat(self, frame: bytes) -> None:
        """Send a beat, unless the one before still waits."""
        if self._last_beat not in self._outbox:
            self._last_beat = frame
            self.put(frame)

    def put_stored(self, entries: int) -> None:
        """Send how much of the worker's journal is stored, in place of an earlier number that still waits."""
        if self._last_stored in self._outbox:
            self._outbox.remove(self._last_stored)
        self._last_stored = encode(Stored(entries=entries))
        self.put(self._last_stored)

    def put_all(self) -> None:
        """Send the whole configuration, since the worker has not what the last changes build on."""
        self._sent = None
        self.put(None)

    def ask(self, number: int, frame: bytes) -> asyncio.Future[list[MetricFamily]]:
        """Send the request for a report. Returns the future of the report, cancelled when the connection ends."""
        future = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        future.add_done_callback(lambda _: self._asked.pop(number, None))
        self.put(frame)
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

    async def _send_newest(self) -> None:
        self._sent, messages = self._history.since(self._sent)
        for message in messages:
            await self._write(encode(message))

    async def _write(self, frame: bytes) -> None:
        """Write a frame, and wait while the worker does not read."""
        self._writer.write(frame)
        await self._writer.drain()
