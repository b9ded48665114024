"""Worker's end of the channel: receive configurations, send heartbeats and metrics, reconnect forever."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from llm_gateway.channel.assembler import ConfigurationAssembler
from llm_gateway.channel.messages import (
    ALIVE_S,
    BEAT_S,
    Accounts,
    Applied,
    AskReport,
    Begin,
    Budgets,
    Commit,
    ControlBeat,
    Decoder,
    End,
    FromControl,
    Goodbye,
    Hello,
    Keys,
    MalformedFrame,
    Message,
    NeedAll,
    Overrides,
    Passed,
    Prices,
    Refill,
    Report,
    Stored,
    WorkerBeat,
    encode,
    read_frame,
)
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.usage import RecentCalls
from llm_gateway.errors import reason_without_key
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.stopped_process import is_stopped, listener_of
from llm_gateway.wall_clock import CLOCK

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.2
"""Seconds between attempts to connect: they double from the first to the longest."""
SLICE_S = 0.002
"""Seconds for which messages are handled before other work of the event loop gets its turn."""
HANDED_OVER_WAIT_S = 0.02
"""Seconds between attempts to connect while another control process takes over."""
HANDED_OVER_S = 2.0
"""Seconds after the announcement of another control process for which it is waited for."""
SILENT_S = 3.0
"""Seconds without a message after which a connected control counts as stopped. Libraries keep the lock of its
interpreter for up to a second: the first use of the public price lists, say, on a busy machine. A process that a signal
or a debugger has stopped is no such case: the system knows it, so `ALIVE_S` are enough."""
CLOSE_S = 1.0
"""Seconds in which the last messages of a worker that ends must be read."""


class ChannelHandlers(NamedTuple):
    """Functions that the client calls in the event loop.

    `on_refill` comes at most once, before the first `on_configuration`. `report` returns the metrics, `state`
    the next beat. `on_stored` gets the number of entries of this worker's journal that are in the database.
    """

    on_configuration: Callable[[Configuration], object]
    on_passed: Callable[[str], object]
    on_refill: Callable[[RecentCalls], object]
    report: Callable[[], list[MetricFamily]]
    state: Callable[[], WorkerBeat] = WorkerBeat
    on_stored: Callable[[int], object] = lambda _entries: None


class ChannelClient:
    """The worker's connection to control. While there is no connection, the last configuration stays in force.

    Args:
        address: the address of control: a `ControlSocket` with the name `messages.NAME`.
        handlers: see `ChannelHandlers`.
        number: the worker's number.
        log: `log(event, level=…, **fields)`.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        address: ControlSocket,
        handlers: ChannelHandlers,
        *,
        number: int,
        log: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_beat: ControlBeat | None = None
        self._address = address
        self._handlers = handlers
        self._number = number
        self._log = log
        self._clock = clock
        self._started_ns = time.time_ns()
        self._heard_at = -math.inf
        self._ran_at = -math.inf
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refill = RecentCalls([], [])
        self._wants_refill = True
        self._writer: asyncio.StreamWriter | None = None
        self._control_pid: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._receiver = ConfigurationAssembler()
        self._wait_s = FIRST_WAIT_S
        self._is_closing = False

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def first_configuration(self) -> None:
        """Wait until the first configuration is applied.

        Raises:
            Exception: it cannot be applied.
        """
        await self._first

    def is_alive(self) -> bool:
        """Return whether control answers: it is connected and not silent for `SILENT_S`, or was a second ago.

        Silence does not count while this process did not run, since what arrived then is not read yet.
        """
        now = self._clock()
        silent_s = now - self._heard_at
        if silent_s < ALIVE_S:
            return True
        if self._writer is None:
            return False
        if now - self._ran_at > ALIVE_S:
            return True
        return silent_s < SILENT_S and not is_stopped(self._control_pid)

    def has_heard(self, within_s: float) -> bool:
        """Return whether control sent anything in the last `within_s` seconds."""
        return self._clock() - self._heard_at < within_s

    def ask_commit(self, journal: str, entries: int) -> None:
        """Ask control to store the first `entries` entries of a journal; lost while control does not read it."""
        writer = self._writer
        if writer is not None and not self._is_closing and writer.transport.get_write_buffer_size() == 0:
            self._send(writer, Commit(writer=journal, entries=entries))

    def is_handed_over(self) -> bool:
        """Return whether control has announced that another process takes its place, and that one is still awaited."""
        beat = self.last_beat
        return beat is not None and beat.is_leaving and self._clock() - self._heard_at < HANDED_OVER_S

    async def close(self) -> None:
        """Send the last report and end the connection."""
        if self._task is None:
            return
        writer = self._writer
        if writer is not None and not writer.is_closing():
            self._is_closing = True
            self._send(writer, Report(id=0, families=self._handlers.report()))
            self._send(writer, Goodbye())
            writer.write_eof()
            await asyncio.wait([self._task], timeout=CLOSE_S)  # until control has read it and closes its side
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._is_closing:
            try:
                await self._serve(*await asyncio.open_unix_connection(sock=self._address.connect()))
            except (EOFError, OSError):
                pass
            except MalformedFrame as error:
                self._log("channel: control sent a malformed message", level="error", problem=str(error))
            except Exception as error:  # edge: a handler's defect must not leave the worker without its control
                self._log("channel: worker failed", level="error", problem=reason_without_key(error))
            if not self._is_closing:
                await asyncio.sleep(HANDED_OVER_WAIT_S if self.is_handed_over() else self._wait_s)
                self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        hello = Hello(
            number=self._number, pid=os.getpid(), started_ns=self._started_ns, wants_refill=self._wants_refill
        )
        self._send(writer, hello)
        self._control_pid = listener_of(writer.get_extra_info("socket"))
        self._writer = writer
        beats = asyncio.get_running_loop().create_task(self._beat(writer))
        try:
            await self._receive(reader, writer)
        finally:
            self._writer = None
            beats.cancel()
            writer.transport.abort()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        while True:
            self._ran_at = self._clock()
            if not self._is_closing and writer.transport.get_write_buffer_size() == 0:
                writer.write(encode(self._handlers.state()))
            await asyncio.sleep(BEAT_S)

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle messages until the connection ends, in slices."""
        decoder = Decoder(FromControl)
        self._refill = RecentCalls([], [])
        self._receiver.forget_version()
        slice_ends_at = time.monotonic() + SLICE_S
        while True:
            payload = await read_frame(reader)
            self._heard_at = self._clock()
            self._wait_s = FIRST_WAIT_S
            self._handle(decoder.decode(payload), writer)
            if time.monotonic() >= slice_ends_at:
                await asyncio.sleep(0)
                slice_ends_at = time.monotonic() + SLICE_S

    def _handle(self, message: FromControl | None, writer: asyncio.StreamWriter) -> None:
        match message:
            case ControlBeat():
                self._take_beat(message)
            case Begin():
                if not self._receiver.begin(message):
                    self._send(writer, NeedAll())
            case Accounts() | Overrides() | Keys() | Budgets() | Prices():
                self._receiver.take(message)
            case End():
                configuration = self._receiver.end(message)
                if configuration is not None:
                    self._apply(message.version, configuration, writer)
            case Refill():
                self._refill.attempts.extend(message.attempts)
                self._refill.key_calls.extend(message.key_calls)
            case AskReport():
                self._send(writer, Report(id=message.id, families=self._handlers.report()))
            case Passed() | Stored():
                self._tell(message)

    def _tell(self, message: Passed | Stored) -> None:
        if isinstance(message, Passed):
            self._handlers.on_passed(message.provider_id)
        else:
            self._handlers.on_stored(message.entries)

    def _take_beat(self, beat: ControlBeat) -> None:
        self.last_beat = beat
        if beat.clock_offset_ms is not None:
            CLOCK.correct(beat.clock_offset_ms)

    def _apply(self, version: int, configuration: Configuration, writer: asyncio.StreamWriter) -> None:
        if self._wants_refill:
            refill, self._refill, self._wants_refill = self._refill, RecentCalls([], []), False
            if any(refill):
                self._handlers.on_refill(refill)
        try:
            self._handlers.on_configuration(configuration)
        except Exception as error:  # edge: the last configuration stays in force, whatever is wrong with this one
            self._log(
                "channel: configuration cannot be applied",
                level="error",
                version=version,
                problem=reason_without_key(error),
            )
            if not self._first.done():
                self._first.set_exception(error)
            return
        if not self._first.done():
            self._first.set_result(None)
        self._send(writer, Applied(version=version))

    def _send(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.write(encode(message))
