"""Budgets that are never passed: the bound of a request is one, whatever its document says or leaves out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.token_estimate import equivalent_length_of
from llm_gateway.domain.usage import FREE, Price
from llm_gateway.errors import BudgetExceeded, GatewayError, RequestNotAllowed
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.caching import Caching
from llm_gateway.worker.pipeline.output_limit import DEFAULT_MAX_TOKENS, output_limit
from tests.rows import each_row
from tests.worker.pipeline.fakes import PRICE, World, answer, provider, request, snapshot

NOW_MS = 1_700_000_000_000
PLENTY = 10**15
PDF = {"type": "file", "file": {"file_id": "file-1"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
SEARCH = {"tools": [{"type": "web_search"}]}


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    descriptor = create()
    yield HostMemory(descriptor)
    os.close(descriptor)


class Scene:
    """A gateway with one budget and one provider, which speaks chat completions unless `changes` say otherwise."""

    def __init__(self, memory: HostMemory, budget: dict[str, Any], **changes: Any) -> None:
        self.world = World(BudgetAccounts(memory, "worker", lambda: NOW_MS))
        fields: dict[str, Any] = {"id": "b", "name": "agents", "limit": PLENTY, "hold": "bound", **budget}
        self.world.budgets.change(BudgetTable([Budget(**fields)]))
        self.provider = provider("a", rate_limit_rpm=10**6, rate_limit_tpm=10**12, **changes)
        state = snapshot([self.provider])
        self.gateway = Gateway(
            lambda: state,
            Caching(MemoryCache(1_000_000), ttl_s=3600, shared=False),
            self.world.failover,
            self.world.recorder,
            self.world.admission.state,
            budgets=self.world.budgets,
        )

    async def ask(self, document: dict[str, Any], protocol: str = "openai_chat") -> dict[str, Any]:
        """Send a document, and return the one that reached the provider."""
        self.world.script(a=(answer(),))
        await self.gateway.generate(asked(document, protocol))
        sent: dict[str, Any] = msgspec.json.decode(self.world.upstream.bodies[-1])
        return sent

    async def refusal(self, document: dict[str, Any], protocol: str = "openai_chat") -> GatewayError:
        self.world.script(a=())
        with pytest.raises(GatewayError) as refused:
            await self.gateway.generate(asked(document, protocol))
        assert self.world.upstream.calls == []
        return refused.value


def asked(document: dict[str, Any], protocol: str) -> Request:
    descriptor = PROTOCOLS[protocol]

    def read(document: dict[str, Any]) -> Any:
        found = descriptor.read_request(document)
        return found.conversation, found.dropped

    return request(
        client_request=ClientRequest(protocol, document, read),
        max_tokens=output_limit(document, descriptor),
        input_length=equivalent_length_of(document, descriptor.input_fields),
        use_cache=False,
    )


def chat(content: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "m1", "messages": [{"role": "user", "content": content}], **fields}


@each_row(
    ("budget", "is_set"),
    [
        ({}, True),
        ({"unit": "tokens"}, True),
        ({"match": {"model": "m*"}}, True),
        ({"match": {"model": "other"}}, False),
        ({"match": {"user_id": "other"}}, False),
        ({"hold": "expected"}, False),
        ({"mode": "soft"}, False),
        ({"unit": "requests"}, False),
    ],
)
async def test_an_answer_is_limited_to_what_is_held_for_it(
    memory: HostMemory, budget: dict[str, Any], is_set: bool
) -> None:
    limit = {"max_completion_tokens": DEFAULT_MAX_TOKENS} if is_set else {}
    assert await Scene(memory, budget).ask(chat()) == chat(**limit)


async def test_the_limit_reaches_translated_requests_and_those_with_one_keep_it(memory: HostMemory) -> None:
    scene = Scene(memory, {})
    assert (await scene.ask(chat(max_tokens=7)))["max_tokens"] == 7
    google = {"model": "m1", "contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    sent = await scene.ask(google, "gemini_content")
    assert sent.get("max_tokens", sent.get("max_completion_tokens")) == DEFAULT_MAX_TOKENS


async def test_a_document_too_large_to_be_given_a_limit_needs_its_own(memory: HostMemory) -> None:
    scene = Scene(memory, {})
    large = asked(chat(), "openai_chat")
    large.client_request.apart = object()
    with pytest.raises(RequestNotAllowed, match=r"'agents' holds the most that a request can cost.*: set one"):
        await scene.gateway.generate(large)


async def test_a_picture_is_held_at_the_most_that_it_can_take(memory: HostMemory) -> None:
    scene = Scene(memory, {"limit": 25_000 * 2_000})
    refused = await scene.refusal(chat([PICTURE], max_tokens=1))
    assert isinstance(refused, BudgetExceeded)
    await scene.ask(chat(max_tokens=1))


@pytest.mark.parametrize("unit", ["usd", "tokens"])
async def test_a_file_is_held_as_the_whole_context_window(memory: HostMemory, unit: str) -> None:
    limit = {"usd": 100_000 * 2_000, "tokens": 100_000}[unit]
    scene = Scene(memory, {"limit": limit, "unit": unit}, context_window_by_model={"m1": 100_000})
    assert isinstance(await scene.refusal(chat([PDF], max_tokens=1)), BudgetExceeded)
    await scene.ask(chat(max_tokens=1))


async def test_a_file_is_refused_where_nothing_bounds_it(memory: HostMemory) -> None:
    refused = await Scene(memory, {}).refusal(chat([PDF]))
    assert refused.detail == (
        "Budget 'agents' holds the most that a request can cost, which is not known for a file, a video or audio while "
        "the context window of a/m1 is not: give the provider its context_window, or leave the file out."
    )
    for budget, changes in (
        ({"hold": "expected"}, {}),
        ({"mode": "soft"}, {}),
        ({}, {"price_by_model": {"m1": FREE}}),
        ({}, {"context_window_by_model": {"m1": 100_000}}),
    ):
        await Scene(memory, budget, **changes).ask(chat([PDF]))


async def test_a_tool_that_the_provider_runs_follows_unpriced(memory: HostMemory) -> None:
    refused = await Scene(memory, {}).refusal(chat(**SEARCH))
    assert refused.detail == (
        "Budget 'agents' holds the most that a request can cost, and what the provider's own tool 'web_search' costs "
        "is only known afterwards: leave it out, or set the budget's unpriced to allow."
    )
    for budget in ({"unpriced": "allow"}, {"hold": "expected"}, {"unit": "tokens"}):
        await Scene(memory, budget).ask(chat(**SEARCH))


async def test_audio_and_reasoning_are_held_at_their_own_prices(memory: HostMemory) -> None:
    dear = Price(input=PRICE.input, output=PRICE.output, reasoning=((0, 9 * 10**9),), audio_input=((0, 9 * 10**9),))
    spoken = chat([{"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}], max_tokens=100)
    for document, most in ((chat(max_tokens=1000), 9_000 * 1000), (spoken, 9_000 * 1000)):
        scene = Scene(memory, {"limit": most}, price_by_model={"m1": dear}, context_window_by_model={"m1": 1000})
        assert isinstance(await scene.refusal(document), BudgetExceeded)


@each_row(
    ("protocol", "fields"),
    [
        ("openai_chat", {"n": 8.0}),
        ("openai_chat", {"n": "8"}),
        ("openai_chat", {"n": 129}),
        ("gemini_content", {"generationConfig": {"candidateCount": "8"}}),
    ],
)
async def test_a_number_of_choices_that_is_not_counted_is_refused(
    memory: HostMemory, protocol: str, fields: dict[str, Any]
) -> None:
    inputs = {"openai_chat": chat(), "gemini_content": {"model": "m1", "contents": [{"parts": [{"text": "Hi"}]}]}}
    refused = await Scene(memory, {}).refusal(inputs[protocol] | fields, protocol)
    assert isinstance(refused, RequestNotAllowed)
    assert refused.detail.startswith("Budget 'agents' holds the most that a request can cost, so ")
    assert refused.detail.endswith(" must be an integer from 1 to 128.")


async def test_all_choices_are_held(memory: HostMemory) -> None:
    scene = Scene(memory, {"unit": "tokens", "limit": 128 * 100_000})
    assert isinstance(await scene.refusal(chat(n=128, max_tokens=100_000)), BudgetExceeded)
    await scene.ask(chat(n=127, max_tokens=100_000))
