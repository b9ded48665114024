"""HTTP calls to a provider over loopback: the request sent, the response read, and Retry-After."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.pipeline.transport import Transport
from tests.worker.pipeline.provider_server import CALL, Upstream, answering, saying


async def test_an_answer_returns_its_status_and_body(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = answering("200 OK", "content-type: application/json\r\nretry-after: 5\r\n", b'{"a": 1}')

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(200, b'{"a": 1}')


async def test_the_call_is_sent_with_path_key_and_body(transport: Transport, upstream: Upstream) -> None:
    await transport.post(upstream.provider("/v1"), UpstreamCall("/chat/completions", b'{"model": "m"}'), 5)

    [(head, body)] = upstream.requests
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /v1/chat/completions http/1.1"
    assert {"authorization: bearer k", "user-agent: llm-gateway", "content-length: 14"} <= set(lines)
    assert body == b'{"model": "m"}'


@pytest.mark.parametrize("status", [201, 400, 401, 404, 429, 500, 503, 529])
async def test_every_status_is_returned_with_its_body(transport: Transport, upstream: Upstream, status: int) -> None:
    upstream.behaviour = answering(f"{status} X", body=b"said")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(status, b"said")


async def test_a_response_without_a_body_is_returned(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = answering("503 X", "retry-after: 3\r\n")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(503, b"", 3.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 20 ", 20.0),
        ("-3", 0.0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00", 0.0),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +999999", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
async def test_retry_after_is_read_as_number_or_date(
    transport: Transport, upstream: Upstream, value: str, seconds: float | None
) -> None:
    upstream.behaviour = answering("429 X", f"Retry-After: {value}\r\n", b"slow")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(429, b"slow", seconds)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000", "+0200"])
async def test_a_retry_after_date_is_read_in_its_time_zone(
    transport: Transport, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        at = datetime.now(UTC) + timedelta(seconds=30) + (timedelta(hours=2) if zone == "+0200" else timedelta(0))
        upstream.behaviour = answering("429 X", f"Retry-After: {format_datetime(at)[:-5]}{zone}\r\n")
        exchange = await transport.post(upstream.provider(), CALL, 5)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert exchange.retry_after_s is not None
    assert 27 < exchange.retry_after_s <= 30


async def test_a_retry_after_that_is_not_text_is_ignored(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = saying(b"HTTP/1.1 503 Busy\r\nretry-after: \xe9\r\ncontent-length: 0\r\n\r\n")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(503)


async def test_a_chunked_body_is_joined(transport: Transport, upstream: Upstream) -> None:
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (b"one", b"two" * 100, b"three")]
    upstream.behaviour = saying(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *parts, b"0\r\n\r\n", pause_s=0.005
    )

    assert (await transport.post(upstream.provider(), CALL, 5)).body == b"one" + b"two" * 100 + b"three"


async def test_redirects_are_not_followed(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = answering("307 X", f"location: http://127.0.0.1:{upstream.port}/elsewhere\r\n", b"moved")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(307, b"moved")
    assert len(upstream.requests) == 1


async def test_proxies_of_the_environment_are_ignored(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    transport = Transport(Egress(strict=False), log=lambda *_, **__: None)

    assert (await transport.post(upstream.provider(), CALL, 5)).status == 200
    await transport.close()
