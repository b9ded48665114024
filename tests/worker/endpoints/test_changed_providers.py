"""The data plane of one process: what a changed configuration does to requests under way."""

from __future__ import annotations

import asyncio

from tests.application.driver import Client, assert_problem
from tests.upstream import MockUpstream


async def test_a_raised_limit_serves_a_request_that_waits_for_it_at_once(client: Client, mock: MockUpstream) -> None:
    asyncio.get_running_loop().set_debug(True)  # raises errors for calls from other threads
    mock.behave("slow-1500")
    account = {"name": "a", "display_name": "A", "api_key": "key-0123456789", "models": ["m"], "rate_limit_tpm": 150}
    created = await client.call("POST", "/api/v1/providers", {**account, "base_url": mock.base_url})
    ask = {"user_id": "u", "service": "s", "prompt": "Hi", "max_tokens": 100}
    first, second = (
        asyncio.create_task(client.call("POST", "/api/v1/generate", {**ask, "prompt": prompt})) for prompt in "ab"
    )
    await asyncio.sleep(0.3)
    changed = await client.call("PATCH", f"/api/v1/providers/{created.json['id']}", {"rate_limit_tpm": 10_000})

    assert changed.status == 200
    answers = await asyncio.gather(first, second)
    assert [answer.status for answer in answers] == [200, 200]
    waited = [
        int(answer.headers["x-gateway-queued-ms"]) for answer in answers if "x-gateway-queued-ms" in answer.headers
    ]
    assert len(waited) == 1
    assert waited[0] < 1200, "it did not wait until the first answer gave its tokens back"


async def test_a_provider_is_deleted_while_a_request_waits_for_its_rate_limit(
    client: Client, mock: MockUpstream
) -> None:
    asyncio.get_running_loop().set_debug(True)  # raises errors for calls from other threads
    mock.behave("slow-1500")
    account = {"name": "a", "display_name": "A", "api_key": "key-0123456789", "models": ["m"], "rate_limit_tpm": 150}
    created = await client.call("POST", "/api/v1/providers", {**account, "base_url": mock.base_url})
    ask = {"user_id": "u", "service": "s", "prompt": "Hi", "max_tokens": 100}
    first, second = (
        asyncio.create_task(client.call("POST", "/api/v1/generate", {**ask, "prompt": prompt})) for prompt in "ab"
    )
    await asyncio.sleep(0.3)

    async with asyncio.timeout(20):
        deleted = await client.call("DELETE", f"/api/v1/providers/{created.json['id']}")

        assert deleted.status == 204, deleted.body
        answered, refused = await asyncio.gather(first, second)
    assert answered.status == 200
    assert_problem(refused, 429, "rate_limited")
    assert 200 < int(refused.headers["x-gateway-queued-ms"]) < 1400
