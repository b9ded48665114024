"""Connection pools of a transport: one per provider, reused between calls, replaced when its configuration changes."""

from __future__ import annotations

import asyncio

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.worker.pipeline.transport import Transport
from tests.worker.pipeline.fakes import snapshot
from tests.worker.pipeline.provider_server import CALL, Upstream, answering


async def test_consecutive_calls_share_a_connection(transport: Transport, upstream: Upstream) -> None:
    for _ in range(3):
        assert (await transport.post(upstream.provider(), CALL, 5)).status == 200

    assert (len(upstream.requests), upstream.connections) == (3, 1)


async def test_calls_of_many_paths_share_connections(transport: Transport, upstream: Upstream) -> None:
    paths = ["/v1/models/a:generate", "/v1/models/x%2Fy%20%C3%A9:generate", "/v1/models/a:generate", "/b?alt=sse"]
    for path in paths:
        await transport.post(upstream.provider("/root"), UpstreamCall(path, b"{}"), 5)

    assert [head.split(b" ")[1].decode() for head, _ in upstream.requests] == ["/root" + path for path in paths]
    assert upstream.connections == 1


async def test_a_changed_provider_gets_a_new_pool(transport: Transport, upstream: Upstream) -> None:
    await transport.post(upstream.provider(), CALL, 5)
    headers = {"authorization": "Bearer new"}
    changed = upstream.provider(updated_at_ms=2, target=Target(f"http://127.0.0.1:{upstream.port}", "", headers))
    await transport.post(changed, CALL, 5)

    assert upstream.connections == 2
    assert [b"Bearer new" in head for head, _ in upstream.requests] == [False, True]


async def test_every_provider_has_its_own_pool(transport: Transport, upstream: Upstream) -> None:
    for name in ("a", "b", "a"):
        await transport.post(upstream.provider(name=name, id=name), CALL, 5)

    assert upstream.connections == 2


async def test_a_deleted_providers_pool_is_closed(transport: Transport, upstream: Upstream) -> None:
    stays, goes = upstream.provider(name="a", id="a"), upstream.provider(name="b", id="b")
    for one in (stays, goes):
        await transport.post(one, CALL, 5)
    transport.keep_only(snapshot([stays]))
    counts = []
    for one in (stays, goes):
        await transport.post(one, CALL, 5)
        counts.append(upstream.connections)

    assert counts == [2, 3]


async def test_a_closed_transport_can_be_used_again(transport: Transport, upstream: Upstream) -> None:
    await transport.post(upstream.provider(), CALL, 5)
    await transport.close()
    await transport.close()

    assert (await transport.post(upstream.provider(), CALL, 5)).status == 200


async def test_a_stream_that_is_closed_twice_gives_its_connection_back_once(
    transport: Transport, upstream: Upstream
) -> None:
    """Otherwise two requests would share one connection, and get each other's responses."""
    upstream.behaviour = answering("200 OK", "content-type: text/event-stream\r\n", b"data: 1\n\n")
    asked = upstream.provider()
    first = await transport.open(asked, CALL, 5)
    assert not isinstance(first, UpstreamResult)
    while await first.next(5):
        pass
    first.close()
    first.close()

    both = await asyncio.gather(transport.open(asked, CALL, 5), transport.open(asked, CALL, 5))

    assert upstream.connections == 2
    for stream in both:
        assert not isinstance(stream, UpstreamResult)
        stream.close()
