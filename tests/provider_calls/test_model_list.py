"""Requests for a provider's model list: a new connection each, under the same rules as other calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.model_list import ModelLists
from llm_gateway.provider_calls.pool_factory import PoolFactory
from llm_gateway.upstream.egress import AddressRefused, Egress
from tests.worker.pipeline.fakes import provider

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Upstream:
    """A server that keeps the heads of requests and sends `answer` (None: nothing)."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.answer: bytes | None = ANSWER
        self.url = ""
        self.serving: list[asyncio.Task[None]] = []

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
        writer.close()
        await writer.wait_closed()

    def provider(self, **changes: object) -> Provider:
        made = provider()
        assert made.target is not None
        target = msgspec.structs.replace(
            made.target, models_url=f"{self.url}/v1/models", headers={"authorization": "Bearer k"}
        )
        return msgspec.structs.replace(made, **{"target": target, **changes})


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    await asyncio.gather(*made.serving)


def lists(egress: Egress | None = None) -> ModelLists:
    return ModelLists(PoolFactory(egress or Egress(strict=False), max_body_bytes=1000))


async def test_it_sends_a_get_with_the_key_also_to_disabled_providers(upstream: Upstream) -> None:
    assert await lists().get(upstream.provider(is_enabled=False), 5) == UpstreamResult(200, b"{}")
    [head] = upstream.heads
    assert head.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"authorization: Bearer k\r\n" in head.lower().replace(b"bearer k", b"Bearer k")


async def test_each_list_uses_a_new_connection(upstream: Upstream) -> None:
    one = lists()
    for _ in range(2):
        await one.get(upstream.provider(), 5)
    assert len(upstream.heads) == 2


async def test_a_redirect_is_not_followed(upstream: Upstream) -> None:
    upstream.answer = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    assert (await lists().get(upstream.provider(), 5)).status == 302
    assert len(upstream.heads) == 1


async def test_a_late_response_is_a_timeout(upstream: Upstream) -> None:
    upstream.answer = None
    began = time.monotonic()
    found = await lists().get(upstream.provider(), 0.1)
    assert found == UpstreamResult(fault="timeout", message="No complete answer in time")
    assert time.monotonic() - began < 2


async def test_a_refused_connection_is_not_sent(upstream: Upstream) -> None:
    upstream.url = "http://127.0.0.1:1"
    found = await lists().get(upstream.provider(), 5)
    assert found.fault == "not_sent"
    assert found.message.startswith("No connection: ")


async def test_a_response_that_is_too_large_is_broken(upstream: Upstream) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000
    assert (await lists().get(upstream.provider(), 5)).fault == "broken"


@pytest.mark.parametrize("target", [None, "bad key"])
async def test_a_request_that_cannot_be_sent_is_reported(upstream: Upstream, target: str | None) -> None:
    made = upstream.provider()
    assert made.target is not None
    bad = None if target is None else msgspec.structs.replace(made.target, headers={"authorization": "Bearer a\nb"})
    found = await lists().get(msgspec.structs.replace(made, target=bad), 5)
    assert found.fault == "not_sent"
    assert "a\nb" not in found.message
    assert upstream.heads == []


async def test_production_refuses_private_addresses_and_plain_http(upstream: Upstream) -> None:
    for url, names in (
        (upstream.url, ["93.184.216.34"]),
        (upstream.url.replace("http:", "https:"), ["127.0.0.1"]),
    ):
        upstream.url = url
        egress = Egress(strict=True, resolve=lambda host, port, names=names: names)  # type: ignore[misc]
        assert (await lists(egress).get(upstream.provider(), 5)).fault == "not_sent"
    assert upstream.heads == []


class Pinned(Egress):
    """Strict egress that takes every host to be at one address; `answer` None refuses."""

    def __init__(self, answer: str | None) -> None:
        super().__init__(strict=True)
        self.answer = answer

    def check(self, url: str, pinned: str | None = None) -> str | None:
        if self.answer is None:
            raise AddressRefused("Not there.")
        return self.answer


async def test_the_connection_is_pinned_to_the_checked_address(upstream: Upstream) -> None:
    upstream.url = upstream.url.replace("127.0.0.1", "api.example")
    assert (await lists(Pinned("127.0.0.1")).get(upstream.provider(), 5)).status == 200
    refused = await lists(Pinned(None)).get(upstream.provider(), 5)
    assert refused == UpstreamResult(fault="not_sent", message="Not there.")
    assert len(upstream.heads) == 1


async def test_the_embedded_model_needs_no_check(upstream: Upstream) -> None:
    made = upstream.provider(kind="local", base_url=None)
    assert (await lists(Pinned(None)).get(made, 5)).status == 200
