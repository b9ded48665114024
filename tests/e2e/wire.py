"""Raw bytes to and from a running gateway, for requests that no HTTP client would send, and checks of its errors."""

from __future__ import annotations

import json
import re
import socket
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.e2e.process import KEY

WAIT_S = 30.0
MINE = "mine-1"
"""The client's own request id."""
LONGEST_DETAIL = 600


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Wire:
    """A TCP connection to the gateway."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._incoming = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._incoming.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end(self) -> None:
        """Shut down the sending side of the connection."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self, *, bodyless: bool = False) -> Answer:
        """Read the next response; that to HEAD is `bodyless`."""
        status_line = self._incoming.readline()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        headers: dict[str, str] = {}
        while (line := self._incoming.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, f"{name} came twice"
            headers[name.lower()] = value.strip()
        status = int(status_line[9:12])
        if bodyless or status in (100, 204):
            return Answer(status, headers, b"")
        return Answer(status, headers, self._incoming.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Return True if the gateway has closed or reset the connection."""
        try:
            return self._incoming.read(1) == b""
        except ConnectionResetError:
            return True


def request(
    method: str, target: str | bytes, body: bytes | None = None, *headers: str | bytes, host: str = "localhost"
) -> bytes:
    """Build a request with the key, the id `MINE`, and a content-length unless the body is None."""
    path = target.encode() if isinstance(target, str) else target
    lines = [b"%b %b HTTP/1.1" % (method.encode(), path), b"host: " + host.encode(), b"x-service-key: " + KEY.encode()]
    lines.append(b"x-request-id: " + MINE.encode())
    lines += [header.encode() if isinstance(header, str) else header for header in headers]
    if body is not None:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunks(body: bytes, size: int = 100_000) -> bytes:
    """Encode the body in chunks."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def ask(port: int, data: bytes, *, bodyless: bool = False) -> Answer:
    """Send these bytes on a new connection and return the response."""
    with Wire(port) as wire:
        wire.send(data)
        return wire.answer(bodyless=bodyless)


def is_problem(answer: Answer, status: int, code: str, *, echo: str | None = MINE) -> dict[str, Any]:
    """Assert that the response is this problem document; `echo` None if the server could not read the client's id."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-should-retry"] in ("true", "false")
    problem: dict[str, Any] = answer.json
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"} | (
        {"errors"} if status == 422 else set()
    )
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:llm-gateway:error:{code}"
    assert answer.headers["x-request-id"] == problem["request_id"]
    if echo is None:
        assert uuid.UUID(problem["request_id"]).version == 7
    else:
        assert problem["request_id"] == echo
    detail = problem["detail"]
    assert re.fullmatch(r"[^\x00-\x1f\x7f]+[.?]", detail), detail
    assert len(detail) <= LONGEST_DETAIL
    assert "Traceback" not in detail
    return problem
