"""Write log lines from a background thread, so that no request waits for a terminal, a pipe or a disk."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from select import PIPE_BUF
from typing import Any, Self

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.process_setup import schedule_in_background
from llm_gateway.telemetry.console import Event
from llm_gateway.telemetry.lines import escape_json, renderer

FLUSH_SECONDS = 0.2
"""Maximum seconds a line waits in the queue before the thread looks at it."""

FULL_PIPE_PAUSE_S = 0.01
"""Seconds before the next try to write to a full, non-blocking pipe."""

CLOSE_SECONDS = 1.0
"""Maximum seconds of writing the remaining lines when the gateway stops."""

MAX_WAITING_LINES = 10_000
"""Length of the queue at which lines are dropped; events with `at_once` are dropped at twice the length."""

LINES_AT_ONCE = 100
"""Lines rendered and written together."""

Redact = Callable[[str], str]


class LogWriter:
    """Queue of log lines, written by one thread: lines stay whole, and callers never wait.

    Lines are dropped and counted if the queue is full, because the log's reader is too slow or has stopped, or if they
    cannot be written (the pipe is closed, the disk is full). Once writing works again, a line says how many are
    missing. `console` renders for people, otherwise as JSON.

    Use it as a context manager: entering starts the thread, which also writes lines queued before; leaving writes the
    remaining lines for at most `close_s` seconds.
    """

    def __init__(
        self,
        *,
        console: bool,
        redact: Redact,
        fd: int = 1,
        max_waiting: int = MAX_WAITING_LINES,
        flush_s: float = FLUSH_SECONDS,
        close_s: float = CLOSE_SECONDS,
    ) -> None:
        self._render = renderer(console=console, colors=console and os.isatty(fd))
        self._escape = str if console else escape_json
        self._redact = redact
        self._fd = fd
        self._max_waiting, self._flush_s, self._close_s = max_waiting, flush_s, close_s
        self._waiting: deque[UsageRecord | Event] = deque()
        self._dropped = self._dropped_told = 0
        self._dropping = threading.Lock()
        self._is_torn = False  # the last line was written without its newline
        self._is_closing = self._is_given_up = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the remaining lines and end the thread, waiting at most `close_s` seconds."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(self._close_s)
        self._is_given_up = True

    @property
    def dropped(self) -> int:
        """The number of lines dropped so far."""
        return self._dropped

    @property
    def is_stuck(self) -> bool:
        """True if the thread still blocks on the log's reader after the context was left."""
        return self._is_given_up and self._thread.is_alive()

    def request(self, record: UsageRecord) -> None:
        """Queue the line of a request; it is written within `flush_s` seconds."""
        if len(self._waiting) < self._max_waiting:
            self._waiting.append(record)
        else:
            self.drop(1)

    def event(self, fields: Event, *, at_once: bool = True) -> None:
        """Queue an event. `at_once` wakes the thread, and gives the event room beyond the usual length of the queue."""
        if len(self._waiting) < (2 * self._max_waiting if at_once else self._max_waiting):
            self._waiting.append(fields)
        else:
            self.drop(1)
        if at_once:
            self._wake.set()

    def drop(self, count: int) -> None:
        """Count lines as dropped."""
        with self._dropping:
            self._dropped += count

    def _run(self) -> None:
        schedule_in_background()
        while not self._is_closing:
            self._wake.wait(self._flush_s)
            self._wake.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._waiting and not self._is_given_up:
            count = min(len(self._waiting), LINES_AT_ONCE)
            lost = self._write([self._waiting.popleft() for _ in range(count)])
            if lost:
                self.drop(lost)
        missing = self._dropped - self._dropped_told
        if missing and not self._write([_own_event("log lines dropped", "warning", count=missing)]):
            self._dropped_told += missing

    def _write(self, items: list[UsageRecord | Event]) -> int:
        """Write these lines. Returns the number of lines that could not be written."""
        render = self._render
        try:
            text = "".join([render(item) for item in items])
        except Exception:  # edge: one line that cannot be rendered must not end the log
            text = "".join([self._rendered(item) for item in items])
        text = self._redact(text)
        data = self._escape(text).encode("utf-8", "replace")
        if self._is_torn:
            data = b"\n" + data
        sent = self._write_pieces(data)
        if sent:
            self._is_torn = data[sent - 1 : sent] != b"\n"
        return min(len(items), data.count(b"\n", sent))

    def _write_pieces(self, data: bytes) -> int:
        """Write lines in pieces that the lines of other processes cannot tear. Returns the number of bytes written."""
        sent = end = 0
        while sent < len(data):
            if sent == end:
                end = _end_of_piece(data, sent)
            try:
                sent += os.write(self._fd, data[sent:end])
            except BlockingIOError:
                if self._is_given_up:
                    break
                time.sleep(FULL_PIPE_PAUSE_S)
            except OSError:  # the pipe is closed, or the disk is full: the gateway goes on
                break
        return sent

    def _rendered(self, item: UsageRecord | Event) -> str:
        try:
            return self._render(item)
        except Exception as error:  # edge: the other lines must still be written
            return self._render(_own_event("log line cannot be rendered", "error", problem=repr(error)))


def _end_of_piece(data: bytes, start: int) -> int:
    """Return the end of the whole lines that one write keeps together; a longer line is a piece of its own.

    All processes of the gateway write to the same pipe, and only a write of at most PIPE_BUF bytes is atomic (pipe(7)).
    """
    end = data.rfind(b"\n", start, start + PIPE_BUF) + 1
    return end or data.find(b"\n", start) + 1 or len(data)


def _own_event(event: str, level: str, **fields: Any) -> Event:
    return {"timestamp": datetime.now(UTC), "level": level, "event": event, **fields}
