"""Endpoint for Prometheus metrics: those of all processes come from control, a worker's own while control is away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.error_format.responses import send_body
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.telemetry.text_format import METRICS_CONTENT_TYPE, text_of

METRICS_PATH = "/metrics"


class MetricsEndpoint:
    """ASGI app that passes requests to `management`, and answers them itself while `has_control` returns False.

    `report` returns the metrics of this worker.
    """

    def __init__(
        self, report: Callable[[], Iterable[MetricFamily]], has_control: Callable[[], bool], management: ASGIApp
    ) -> None:
        self._report = report
        self._has_control = has_control
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._has_control() or scope["method"] not in ("GET", "HEAD"):
            await self._management(scope, receive, send)
            return
        context: RequestContext = scope[REQUEST_CONTEXT]
        headers = [(b"x-request-id", context.echo)]
        await send_body(send, 200, text_of(self._report()), METRICS_CONTENT_TYPE.encode(), headers)
