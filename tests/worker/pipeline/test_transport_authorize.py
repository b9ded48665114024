"""Calls authorised one by one, by a signature or a refreshed token, sent to a server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.catalog import CallToSign, NotAuthorized, Provider, Target, UpstreamAuthorizer
from llm_gateway.domain.configuration import Account
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.provider_calls.model_list import ModelLists
from llm_gateway.provider_calls.pool_factory import PoolFactory
from llm_gateway.providers import openai
from llm_gateway.providers.account_assembler import AccountAssembler
from llm_gateway.providers.upstream_credentials import RefreshedToken, Token
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.egress import Egress
from llm_gateway.upstream.pool import CancelledBeforeSend
from llm_gateway.worker.pipeline.transport import Transport
from tests.upstream import MockUpstream
from tests.worker.pipeline.fakes import Clock, provider

BODY = msgspec.json.encode({"model": "ok", "messages": [{"role": "user", "content": "Hi"}]})
CALL = UpstreamCall("/chat/completions", BODY, header_lines=b"x-own: 1\r\n")


class Signing:
    """A fake authoriser: it keeps the calls, waits for `allow`, and then raises `fault` if there is one."""

    def __init__(self) -> None:
        self.seen: list[CallToSign] = []
        self.asked = asyncio.Event()
        self.allow = asyncio.Event()
        self.allow.set()
        self.fault: Exception | None = None

    async def __call__(self, call: CallToSign) -> bytes:
        self.seen.append(call)
        self.asked.set()
        await self.allow.wait()
        if self.fault is not None:
            raise self.fault
        return b"authorization: Bearer signed\r\n"


@pytest.fixture
async def mock() -> AsyncIterator[MockUpstream]:
    async with MockUpstream() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(Egress(strict=False), log=lambda *_, **__: None)
    yield made
    await made.close()


def signed(mock: MockUpstream, signing: UpstreamAuthorizer) -> Provider:
    return provider(target=Target(mock.base_url, f"{mock.base_url}/models", {}, signing))


async def send(transport: Transport, how: str, to: Provider, timeout_s: float = 5) -> Any:
    if how == "list_models":
        return await ModelLists(PoolFactory(Egress(strict=False))).get(to, timeout_s)
    return await (transport.open if how == "open" else transport.post)(to, CALL, timeout_s)


SENDS = pytest.mark.parametrize("how", ["post", "open", "list_models"])


@SENDS
async def test_each_request_is_authorised_by_its_method_address_and_body(
    transport: Transport, mock: MockUpstream, how: str
) -> None:
    signing = Signing()
    to = signed(mock, signing)

    assert [(await send(transport, how, to)).status for _ in range(2)] == [200, 200]

    listed = CallToSign("GET", f"{mock.base_url}/models", b"")
    sent = CallToSign("POST", f"{mock.base_url}/chat/completions", BODY)
    assert signing.seen == [listed if how == "list_models" else sent] * 2
    assert {call.key for call in mock.calls} <= {"signed"}


@SENDS
async def test_a_call_that_cannot_be_authorised_is_not_sent_and_gives_the_reason(
    transport: Transport, mock: MockUpstream, how: str
) -> None:
    signing = Signing()
    signing.fault = NotAuthorized("No access token could be fetched: the client secret has expired")

    found = await send(transport, how, signed(mock, signing))

    assert found == UpstreamResult(fault="not_sent", message=str(signing.fault))
    assert mock.total == 0


@pytest.mark.parametrize("how", ["post", "open"])
async def test_a_call_that_is_not_authorised_in_time_is_not_the_providers_fault(
    transport: Transport, mock: MockUpstream, how: str
) -> None:
    signing = Signing()
    signing.allow.clear()

    found = await send(transport, how, signed(mock, signing), 0.05)

    assert found == UpstreamResult(fault="not_sent", message="The call was not authorised in time", is_ours=True)


@pytest.mark.parametrize("how", ["post", "open"])
async def test_a_call_cancelled_during_authorisation_counts_as_not_sent(
    transport: Transport, mock: MockUpstream, how: str
) -> None:
    signing = Signing()
    signing.allow.clear()
    sending = asyncio.create_task(send(transport, how, signed(mock, signing)))
    await signing.asked.wait()
    sending.cancel()

    with pytest.raises(CancelledBeforeSend):
        await sending


async def test_a_refreshed_token_survives_new_snapshots_and_is_never_shown(
    transport: Transport, mock: MockUpstream
) -> None:
    clock, redact, fetched = Clock(), Redactor(), ["canary-token-1", "canary-token-2"]
    left = list(fetched)

    async def fetch() -> Token:
        return Token(left.pop(0), 100.0)

    assembler = AccountAssembler(
        dialects={"openai": openai},
        learn=redact.learn,
        authorize=lambda _provider, _key: RefreshedToken(
            fetch, learn=redact.learn, log=lambda *_, **__: None, clock=clock
        ),
    )

    def assemble(updated_at_ms: int) -> Provider:
        stored = provider("acme", target=None, updated_at_ms=updated_at_ms)
        return assembler.assemble(Account(provider=stored, base_url=mock.base_url, api_key="unused"))

    first = assemble(1)
    await transport.post(first, CALL, 5)
    again = assemble(2)
    await transport.post(again, CALL, 5)
    clock.now += 75
    await transport.post(again, CALL, 5)
    await transport.post(again, CALL, 5)

    assert [call.key for call in mock.calls] == [fetched[0]] * 3 + [fetched[1]]
    assert redact(f"a {fetched[0]} b {fetched[1]}") == "a [redacted] b [redacted]"
    assert not any(token in repr((first, again)) for token in fetched)
