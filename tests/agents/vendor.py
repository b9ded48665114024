"""Mock vendors for agents: an HTTP server whose scripted model answers in the dialects of three vendors.

Every request is judged as its vendor would (`strict.py`); one that the vendor would refuse gets a 400.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.agents import dialects
from tests.agents.script import Step, Turn, next_step
from tests.agents.strict import complaint

Json = dict[str, Any]


class Dialect(NamedTuple):
    """Functions that read a vendor's requests and write its replies."""

    turns: Callable[[Json], list[Turn]]
    tools: Callable[[Json], dict[str, Json]]
    reply: Callable[[Json, Step, int], bytes]
    events: Callable[[Json, Step, int], Iterator[bytes]]


DIALECTS = {
    name: Dialect(*(getattr(dialects, f"{prefix}_{part}") for part in Dialect._fields))
    for name, prefix in (
        ("openai", "chat"), ("responses", "responses"), ("anthropic", "messages"), ("gemini", "gemini")
    )
}  # fmt: skip
ENDPOINTS = {
    "/chat/completions": "openai", "/responses": "responses", "/messages": "anthropic", ":generateContent": "gemini",
    ":streamGenerateContent": "gemini",
}  # fmt: skip
GEMINI_MODEL = re.compile(r"/models/([^:]+):")


class Vendor:
    """`with Vendor() as vendor`: mock vendors at `vendor.base_url(kind)`, and the requests that they got."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Json]] = []
        self.refused: list[str] = []
        self._connections: list[socket.socket] = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                vendor._connections.append(self.connection)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, content_type, answer = vendor.answer(self.path, body, headers)
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering: open connections end, further ones are refused."""
        self._server.shutdown()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it has ended before
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def base_url(self, kind: str) -> str:
        root = f"http://127.0.0.1:{self._server.server_port}"
        return f"{root}/v1" if kind in ("openai", "responses") else root

    def answer(self, path: str, body: Json, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Return status, content type and body of the answer to a request."""
        path = path.partition("?")[0]
        kind = next((name for ending, name in ENDPOINTS.items() if path.endswith(ending)), None)
        if kind is None:
            return 404, "application/json", b'{"error": {"message": "no such path"}}'
        streamed = ":stream" in path if kind == "gemini" else body.get("stream") is True
        model = GEMINI_MODEL.search(path)
        self.requests.append((kind, body))
        problem = complaint(kind, body, headers, "" if model is None else model[1])
        if problem is not None:
            self.refused.append(problem)
            sys.stderr.write(f"{kind} refuses: {problem}\n")  # pytest shows it if the test fails
            error = {"message": problem, "type": "invalid_request_error", "code": 400, "status": "INVALID_ARGUMENT"}
            return 400, "application/json", json.dumps({"type": "error", "error": error}).encode()
        dialect = DIALECTS[kind]
        step = next_step(dialect.turns(body), dialect.tools(body))
        if streamed:
            return 200, "text/event-stream", b"".join(dialect.events(body, step, len(self.requests)))
        return 200, "application/json", dialect.reply(body, step, len(self.requests))
