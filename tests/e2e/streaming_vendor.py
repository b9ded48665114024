"""A mock vendor that streams given events and pauses, and records when its clients disconnect."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "streamer-1"}


def delta(**fields: Any) -> bytes:
    """Build a chat completion chunk with these fields in its delta."""
    return event({**HEAD, "choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


def finish(reason: str = "stop") -> bytes:
    return event({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(asked: int, answered: int) -> bytes:
    return event({**HEAD, "choices": [], "usage": {"prompt_tokens": asked, "completion_tokens": answered}})


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
BEGIN = delta(role="assistant", content="")


@dataclass(frozen=True)
class Pause:
    """A pause of this many seconds, or until the client disconnects."""

    seconds: float


CUT = "cut"
"""Step that closes the connection in the middle of the stream."""

Step = bytes | Pause | str


POLL_S = 0.02
"""Maximum seconds until a vendor's server notices that it is stopped; by default half a second for each test."""


class StreamingVendor:
    """`with StreamingVendor() as vendor`: all requests get `steps`, or `answer` if that is set."""

    def __init__(self) -> None:
        self.steps: Sequence[Step] = ()
        self.answer: Any = None
        self.calls: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.gone = threading.Semaphore(0)
        self.gone_at: list[float] = []
        self.ended = 0
        self.said = 0
        """Bytes of steps, over all calls."""
        self.open: set[int] = set()
        """The connections there are, each by a number of its own."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Handler,), {"vendor": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vendor: StreamingVendor

    def setup(self) -> None:
        super().setup()
        self.vendor.open.add(id(self))

    def finish(self) -> None:
        self.vendor.open.discard(id(self))
        super().finish()

    def do_POST(self) -> None:
        vendor = self.vendor
        vendor.headers = {name.lower(): value for name, value in self.headers.items()}
        vendor.paths.append(self.path)
        vendor.calls.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if vendor.answer is not None:
            body = json.dumps(vendor.answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for step in vendor.steps:
                self._take(step)
            self.wfile.write(b"0\r\n\r\n")
            vendor.ended += 1
        except (ConnectionError, TimeoutError):
            vendor.gone_at.append(time.monotonic())
            vendor.gone.release()
            self.close_connection = True

    def _take(self, step: Step) -> None:
        if isinstance(step, Pause):
            self._wait(step.seconds)
        elif isinstance(step, str):
            self.connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionError
        else:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(step), step))
            self.wfile.flush()
            self.vendor.said += len(step)

    def _wait(self, seconds: float) -> None:
        self.connection.settimeout(seconds)
        try:
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionError
        except TimeoutError:
            pass
        finally:
            self.connection.settimeout(None)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
