"""A small OTLP/HTTP collector for tests: a real server that parses what it gets, and fails on command."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

PROTOBUF = "application/x-protobuf"


def value(any_value: AnyValue) -> Any:
    """Return a value as Python's own."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(each) for each in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Return attributes by their keys, each of which comes once."""
    listed = [(pair.key, value(pair.value)) for pair in pairs]
    found = dict(listed)
    assert len(found) == len(listed), [key for key, count in Counter(key for key, _ in listed).items() if count > 1]
    return found


def spans_of(body: bytes) -> list[Any]:
    """Return the spans in the body of a request."""
    message = ExportTraceServiceRequest.FromString(body)
    return [span for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans]


def logs_of(body: bytes) -> list[Any]:
    """Return the log records in the body of a request."""
    message = ExportLogsServiceRequest.FromString(body)
    return [log for resource in message.resource_logs for scope in resource.scope_logs for log in scope.log_records]


def metrics_of(body: bytes) -> list[Any]:
    """Return the metrics in the body of a request."""
    message = ExportMetricsServiceRequest.FromString(body)
    return [m for resource in message.resource_metrics for scope in resource.scope_metrics for m in scope.metrics]


class OtlpCollector:
    """`with OtlpCollector() as collector:` takes requests at `collector.url`.

    `answers` are given in order before the usual 200: (status, headers, body). Each answer comes after `delay_s`.
    """

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Any] = []
        self.logs: list[Any] = []
        self.metrics: list[list[Any]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.delay_s = 0.0
        self.connections: list[socket.socket] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(collector.delay_s)
                status, headers, answer = collector.take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                for name, text in {"content-type": PROTOBUF, **headers}.items():
                    self.send_header(name, text)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def setup(self) -> None:
                super().setup()
                collector.connections.append(self.connection)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Take a request, and return the answer to it."""
        self.requests.append((path, {name.lower(): text for name, text in headers.items()}))
        answer = self.answers.pop(0) if self.answers else (200, {}, b"")
        content = gzip.decompress(body)
        if answer[0] == 200 and path == "/v1/traces":
            self.spans += spans_of(content)
        elif answer[0] == 200 and path == "/v1/logs":
            self.logs += logs_of(content)
        elif answer[0] == 200:
            self.metrics.append(metrics_of(content))
        return answer

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End as a killed collector does: connections end, too."""
        self._server.shutdown()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
