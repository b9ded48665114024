"""Egress rules in production: which URLs may be called, and pinning of connections to the checked address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.upstream_call import UpstreamCall
from llm_gateway.upstream.egress import AddressRefused, Egress, resolve
from llm_gateway.worker.pipeline.transport import Transport
from tests.worker.pipeline.fakes import provider


class Names:
    """A resolver whose answers tests change."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if host not in self.known:
            raise OSError("Name or service not known")
        return self.known[host]


def strict(private_hosts: frozenset[str] = frozenset(), **known: list[str]) -> Egress:
    return Egress(strict=True, private_hosts=private_hosts, resolve=Names(**known))


class TestCheck:
    @pytest.mark.parametrize("url", ["http://localhost:1/v1", "https://10.0.0.1", "http://nowhere.invalid"])
    def test_outside_of_production_every_url_is_allowed(self, url: str) -> None:
        names = Names()

        assert Egress(strict=False, resolve=names).check(url) is None
        assert names.asked == []

    def test_a_public_address_is_pinned(self) -> None:
        assert strict(api=["93.184.216.34"]).check("https://api/v1") == "93.184.216.34"

    @pytest.mark.parametrize(("url", "port"), [("https://API/v1", 443), ("https://api:8443/v1", 8443)])
    def test_the_urls_host_and_port_are_resolved(self, url: str, port: int) -> None:
        names = Names(api=["8.8.8.8"])
        Egress(strict=True, resolve=names).check(url)

        assert names.asked == [("api", port)]

    def test_only_https_is_allowed(self) -> None:
        with pytest.raises(
            AddressRefused, match=r"^api must be called over https in production: .* LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS"
        ):
            strict(api=["8.8.8.8"]).check("http://api/v1")

    @pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"])
    def test_a_private_address_is_refused(self, address: str) -> None:
        with pytest.raises(AddressRefused) as raised:
            strict(api=[address]).check("https://api/v1")

        assert str(raised.value) == (
            f"api is at {address}, which is not a public address: "
            "to allow it, add the host to LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS."
        )

    def test_a_host_with_one_private_address_is_refused(self) -> None:
        for addresses in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["8.8.8.8", "2a00:1450::1", "::1"]):
            with pytest.raises(AddressRefused):
                strict(api=addresses).check("https://api/v1")

    def test_allowed_private_hosts_are_not_checked(self) -> None:
        egress = strict(frozenset({"gpu.internal"}))

        assert egress.check("http://gpu.internal:8000/v1") is None
        assert egress.check("https://GPU.internal/v1") is None
        with pytest.raises(AddressRefused):
            egress.check("http://other.internal/v1")

    def test_a_host_that_does_not_resolve_is_refused(self) -> None:
        with pytest.raises(AddressRefused, match=r"^nowhere does not resolve: Name or service not known\.$"):
            strict().check("https://nowhere/v1")

    @pytest.mark.parametrize("host", ["a" * 64 + ".example", "x..example"])
    def test_an_invalid_host_name_is_refused(self, host: str) -> None:
        with pytest.raises(AddressRefused, match="does not resolve"):
            Egress(strict=True).check(f"https://{host}/v1")

    def test_an_address_of_the_preferred_family_is_pinned(self) -> None:
        v4, v6 = ["34.1.1.1", "20.1.1.1"], ["2600::1", "2600::2"]

        assert strict(api=[*v4, *v6]).check("https://api") == "20.1.1.1"
        assert strict(api=[v6[1], *v4, v6[0]]).check("https://api") == "2600::1"

    def test_the_pinned_address_does_not_depend_on_the_resolvers_order(self) -> None:
        addresses = ["8.8.8.8", "8.8.4.4", "1.1.1.1"]

        assert {strict(api=addresses[i:] + addresses[:i]).check("https://api") for i in range(3)} == {"1.1.1.1"}

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "127.1", "0x7f.1", "2130706433"])
    def test_numeric_forms_of_loopback_are_refused(self, host: str) -> None:
        with pytest.raises(AddressRefused, match="which is not a public address"):
            Egress(strict=True).check(f"https://{host}/v1")


def test_the_system_resolver_returns_addresses_or_raises() -> None:
    assert resolve("127.0.0.1", 443) == ["127.0.0.1"]
    with pytest.raises(OSError, match=r".+"):
        resolve("does-not-exist.invalid", 443)


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.logged.append((event, fields))


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server that keeps the first bytes of each connection, and never answers."""
    first: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.append(await reader.read(2000))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], first


def at(url: str, **changes: Any) -> Provider:
    return provider(**{"target": Target(url, "", {}), **changes})


class Pinned(Egress):
    """Strict egress that accepts loopback addresses, since only there can tests see where a connection goes.

    It returns one address after the other, then the last one again. The host `bell` is for waiting: it sets an event
    when it is checked for the `rounds`-th time, since hosts that are checked before it have been checked as often.
    """

    def __init__(self, *answers: str | Exception, rounds: int = 0) -> None:
        super().__init__(strict=True)
        self.answers = answers
        self.checks = 0
        self.rounds = rounds
        self.rang = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def check(self, url: str, pinned: str | None = None) -> str | None:
        if url == BELL:
            self.rounds -= 1
            if self.rounds < 0:
                self.loop.call_soon_threadsafe(self.rang.set)
            return "127.0.0.1"
        self.checks += 1
        answer = self.answers[min(self.checks, len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


CALL = UpstreamCall("/chat", b"{}")
BELL = "https://bell.invalid:1/"
ONE = "https://api.invalid:1/"


class TestPinning:
    async def test_the_connection_goes_to_the_checked_address(self) -> None:
        async with listening() as (port, first):
            transport = Transport(Pinned("127.0.0.1"), log=Lines())
            exchange = await transport.post(at(f"https://api.invalid:{port}/v1"), CALL, 5)
            await transport.close()

        assert exchange.fault == "not_sent", "the server speaks no TLS"
        assert b"api.invalid" in first[0], "the name is still what TLS asks for"

    async def test_a_refused_address_is_never_called(self) -> None:
        async with listening() as (port, first):
            transport = Transport(strict(api=["127.0.0.1"]), log=Lines())
            exchange = await transport.post(at(f"https://api:{port}/v1"), CALL, 5)

        assert exchange.fault == "not_sent"
        assert exchange.message.startswith("api is at 127.0.0.1, which is not a public address")
        assert first == []

    async def test_the_embedded_model_is_allowed_on_loopback(self) -> None:
        async with listening() as (port, first):
            transport = Transport(strict(), log=Lines())
            await transport.post(at(f"http://127.0.0.1:{port}/v1", kind="local"), CALL, 5)
            await transport.close()

        assert len(first) == 1

    async def test_the_address_is_checked_once_per_pool(self) -> None:
        egress = Pinned("127.0.0.1")
        transport = Transport(egress, log=Lines())
        for version in (1, 1, 2, 2):
            await transport.post(at("https://api.invalid:1/", updated_at_ms=version), CALL, 5)
        await transport.close()

        assert egress.checks == 2


class TestRecheck:
    """Repeated checks of every pinned address."""

    @staticmethod
    async def rechecked(egress: Pinned, lines: Lines, updated_at_ms: int = 1) -> int:
        """Wait for the rounds; return how many checks the next call makes (1: its pool was closed)."""
        transport = Transport(egress, log=lines, recheck_s=0.001)
        await transport.post(at(ONE), CALL, 5)
        await transport.post(at(BELL, id="bell"), CALL, 5)
        if isinstance(egress, Meddling):
            egress.meddle = transport.post(at(ONE, updated_at_ms=updated_at_ms), CALL, 5)
        task = asyncio.create_task(transport.recheck())
        await asyncio.wait_for(egress.rang.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        before = egress.checks
        await transport.post(at(ONE, updated_at_ms=updated_at_ms), CALL, 5)
        await transport.close()
        return egress.checks - before

    async def test_an_address_that_stays_keeps_its_pool(self) -> None:
        lines = Lines()

        assert await self.rechecked(Pinned("127.0.0.1", rounds=3), lines) == 0
        assert lines.logged == []

    async def test_a_changed_address_gets_a_new_pool(self) -> None:
        lines = Lines()

        assert await self.rechecked(Pinned("127.0.0.1", "127.0.0.2", rounds=2), lines) == 1
        assert lines.logged == []

    async def test_a_host_that_moved_to_a_private_address_loses_its_pool(self) -> None:
        lines = Lines()

        assert await self.rechecked(Pinned("127.0.0.1", AddressRefused("it moved"), rounds=2), lines) == 1
        assert lines.logged == [
            ("upstream address refused", {"level": "error", "url": ONE, "reason": "it moved"}),
        ]

    async def test_a_defect_of_the_check_is_logged_and_closes_no_pool(self) -> None:
        lines, defect = Lines(), ValueError("no address")

        assert await self.rechecked(Pinned("127.0.0.1", defect, rounds=2), lines) == 0
        event = ("upstream address not checked", {"level": "error", "url": ONE, "exc_info": defect})
        assert lines.logged
        assert all(logged == event for logged in lines.logged)

    async def test_a_failing_resolver_closes_no_pool(self) -> None:
        lines = Lines()
        with pytest.raises(AddressRefused) as unknown:
            strict().check("https://api")

        assert await self.rechecked(Pinned("127.0.0.1", unknown.value, rounds=3), lines) == 0
        assert lines.logged == []

    async def test_a_pool_made_during_the_check_is_kept(self) -> None:
        egress = Meddling("127.0.0.1", "127.0.0.2", "127.0.0.3", rounds=3)

        assert await self.rechecked(egress, Lines(), updated_at_ms=2) == 0

    async def test_pools_without_a_pinned_address_are_not_checked(self) -> None:
        names = Names()
        transport = Transport(Egress(strict=False, resolve=names), log=Lines(), recheck_s=0.001)
        await transport.post(at("http://127.0.0.1:1/"), CALL, 5)
        task = asyncio.create_task(transport.recheck())
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()

        assert names.asked == []


class Meddling(Pinned):
    """Egress during whose second check a call with a newer configuration makes another pool."""

    meddle: Coroutine[Any, Any, object]

    def check(self, url: str, pinned: str | None = None) -> str | None:
        address = super().check(url, pinned)
        if url == ONE and self.checks == 2:
            asyncio.run_coroutine_threadsafe(self.meddle, self.loop).result(5)
        return address
