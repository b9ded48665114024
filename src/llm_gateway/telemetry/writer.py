"""Write the log from a thread of its own, so that nobody waits for a terminal, a pipe or a disk."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.process import schedule_in_background
from llm_gateway.telemetry.console import Event
from llm_gateway.telemetry.lines import escape_json, renderer

FLUSH_SECONDS = 0.2
FULL_PIPE_PAUSE_S = 0.01
CLOSE_SECONDS = 1.0
MAX_WAITING_LINES = 10_000
LINES_AT_ONCE = 100

Redact = Callable[[str], str]


class LogWriter:
    """Queues log lines and writes them from one thread, so that lines stay whole and no caller ever waits.

    Lines are dropped and counted when the queue is full because the log's reader is too slow or has stopped, and when
    they cannot be written (the reader has gone, the disk is full); once lines can be written again, a line says how
    many are missing. `console` renders for people, otherwise JSON.

    Use it as a context manager: entering starts the thread, which writes what was logged before; leaving writes what
    still waits, for at most `close_s`.
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
        self._is_torn = False  # the last line written lacks its end
        self._is_closing = self._is_given_up = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def __enter__(self) -> Self:
        """Begin to write."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and end."""
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
        """Whether the thread still waits for the log's reader after this was left."""
        return self._is_given_up and self._thread.is_alive()

    def request(self, record: UsageRecord) -> None:
        """Queue the line of a request; it may take a moment."""
        if len(self._waiting) < self._max_waiting:
            self._waiting.append(record)
        else:
            self._drop(1)

    def event(self, fields: Event, *, at_once: bool = True) -> None:
        """Queue an event, `at_once` without delay; for those the other lines leave room in the queue."""
        if len(self._waiting) < (2 * self._max_waiting if at_once else self._max_waiting):
            self._waiting.append(fields)
        else:
            self._drop(1)
        if at_once:
            self._wake.set()

    def _drop(self, count: int) -> None:
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
                self._drop(lost)
        missing = self._dropped - self._dropped_told
        if missing and not self._write([_own_event("log lines dropped", "warning", count=missing)]):
            self._dropped_told += missing

    def _write(self, items: list[UsageRecord | Event]) -> int:
        """Write these lines. Returns how many could not be written."""
        render = self._render
        try:
            text = "".join([render(item) for item in items])
        except Exception:  # edge: one line that cannot be rendered must not end the log
            text = "".join([self._rendered(item) for item in items])
        text = self._redact(text)
        data = self._escape(text).encode("utf-8", "replace")
        if self._is_torn:
            data = b"\n" + data
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                if self._is_given_up:
                    break
                time.sleep(FULL_PIPE_PAUSE_S)
            except OSError:  # the reader has gone, or the disk is full: serving goes on
                break
        sent = len(data) - len(left)
        if sent:
            self._is_torn = data[sent - 1 : sent] != b"\n"
        return min(len(items), bytes(left).count(b"\n"))

    def _rendered(self, item: UsageRecord | Event) -> str:
        try:
            return self._render(item)
        except Exception as error:  # edge: the others are rendered
            return self._render(_own_event("log line cannot be rendered", "error", problem=repr(error)))


def _own_event(event: str, level: str, **fields: Any) -> Event:
    return {"timestamp": datetime.now(UTC), "level": level, "event": event, **fields}
