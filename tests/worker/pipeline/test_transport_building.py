"""Creation of a provider's pool: once for concurrent calls, within the attempt's timeout, with a pinned address."""

from __future__ import annotations

import asyncio
import time

from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.pipeline.transport import Transport
from tests.worker.pipeline.provider_server import CALL, Upstream


class Slow(Egress):
    """Egress that allows every host, after `seconds`."""

    def __init__(self, *, strict: bool, seconds: float = 0.05) -> None:
        super().__init__(strict=strict)
        self.seconds = seconds
        self.checks = 0

    def check(self, url: str, pinned: str | None = None) -> str | None:
        self.checks += 1
        time.sleep(self.seconds)
        return None


async def test_concurrent_calls_build_one_pool(upstream: Upstream) -> None:
    egress = Slow(strict=True)
    transport = Transport(egress, log=lambda *_, **__: None)
    exchanges = await asyncio.gather(*[transport.post(upstream.provider(), CALL, 5) for _ in range(20)])
    await transport.close()

    assert {exchange.status for exchange in exchanges} == {200}
    assert egress.checks == 1


async def test_resolving_the_host_counts_against_the_attempts_timeout(upstream: Upstream) -> None:
    transport = Transport(Slow(strict=True, seconds=0.5), log=lambda *_, **__: None)
    started = time.monotonic()
    exchange = await transport.post(upstream.provider(), CALL, 0.05)
    took = time.monotonic() - started
    await transport.close()

    assert (exchange.fault, exchange.is_ours) == ("not_sent", True)
    assert took < 0.45, "it did not wait for the resolver"


def test_the_pinned_address_is_kept_while_the_host_has_it() -> None:
    answers = [["93.184.216.34", "93.184.216.35"], ["93.184.216.35", "93.184.216.36"], ["93.184.216.36"]]
    egress = Egress(strict=True, resolve=lambda _host, _port: answers.pop(0))
    assert egress.check("https://a.example") == "93.184.216.34"
    assert egress.check("https://a.example", "93.184.216.35") == "93.184.216.35"
    assert egress.check("https://a.example", "93.184.216.35") == "93.184.216.36"
