"""The bound of a call in flight has the price of the tier that the request asks for."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.request import ClientRequest
from tests.worker.pipeline.fakes import PRICE, World, provider, reply, request


def _unread(document: dict[str, Any]) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("protocol", "vendor", "model", "settings", "percent"),
    [
        ("openai_chat", "openai", "gpt-5.4", {"service_tier": "priority"}, 200),
        ("openai_responses", "openai", "gpt-5.4", {"service_tier": "fast"}, 200),
        ("anthropic_messages", "anthropic", "claude-opus-4-8", {"speed": "fast"}, 200),
        ("anthropic_messages", "anthropic", "claude-opus-4-8", {"speed": "fast", "inference_geo": "us"}, 220),
        ("gemini_content", "google", "gemini-2.5-pro", {"serviceTier": "PRIORITY"}, 200),
        ("openai_chat", "openai", "gpt-5.4", {"service_tier": "flex"}, 100),
        ("openai_chat", "openai", "gpt-5.4", {"service_tier": "auto"}, 100),
        ("anthropic_messages", "anthropic", "claude-opus-4-8", {"service_tier": "standard_only"}, 100),
        ("openai_chat", "openai", "gpt-5.4", {"service_tier": 5}, 100),
    ],
)
async def test_the_bound_of_an_intent_has_the_price_of_a_dearer_tier_that_is_requested(
    world: World, protocol: str, vendor: str, model: str, settings: dict[str, Any], percent: int
) -> None:
    kind = {"google": "gemini"}.get(vendor, vendor)
    account = provider("one", kind=kind, models=(model,), price_vendor=vendor, protocols=(protocol,))
    asked = request(client_request=ClientRequest(protocol, settings, _unread))

    made = world.recorder.new_attempt(asked, Candidate.of(account, model), 118)

    assert (made.cost_nanos, made.cost_status) == (3_360 * percent, "estimated")
    assert (made.service_tier is not None) is (percent > 100)


@pytest.mark.parametrize(
    ("protocol", "kind", "vendor", "model", "settings", "percent"),
    [
        ("anthropic_messages", "openai", "openai", "gpt-5.4", {"speed": "fast"}, 100),
        ("anthropic_messages", "openai", "*", "claude-opus-4-8", {"inference_geo": "us"}, 100),
        ("openai_chat", "gemini", "google", "gemini-2.5-pro", {"service_tier": "priority"}, 200),
        ("gemini_content", "openai", "openai", "gpt-5.4", {"serviceTier": "priority"}, 200),
    ],
)
async def test_a_setting_that_is_not_translated_does_not_raise_the_bound(
    world: World, protocol: str, kind: str, vendor: str, model: str, settings: dict[str, Any], percent: int
) -> None:
    def read(document: dict[str, Any]) -> Any:
        tier = document.get("service_tier", document.get("serviceTier"))
        return Conversation(turns=[], service_tier=tier), ()

    account = provider("one", kind=kind, models=(model,), price_vendor=vendor)
    asked = request(client_request=ClientRequest(protocol, settings, read))

    made = world.recorder.new_attempt(asked, Candidate.of(account, model), 118)

    assert made.cost_nanos == 3_360 * percent


async def test_an_answer_at_the_standard_tier_costs_the_standard_price_whatever_was_requested(world: World) -> None:
    account = provider("one", models=("gpt-5.4",), price_vendor="openai")
    asked = request(client_request=ClientRequest("openai_chat", {"service_tier": "priority"}, _unread))
    made = world.recorder.new_attempt(asked, Candidate.of(account, "gpt-5.4"), 118)

    world.recorder.set_cost(account, made, reply())

    assert (made.price, made.cost_nanos, made.service_tier) == (PRICE, 130_000, None)
    world.recorder.set_cost(account, made, reply(service_tier="priority"))
    assert made.cost_nanos == 260_000
