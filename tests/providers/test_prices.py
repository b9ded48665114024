"""Prices of the operator, and lookups in the public list, whose content test_prices_list.py checks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import FREE, Price
from llm_gateway.providers import prices
from llm_gateway.providers.presets import load_presets
from llm_gateway.providers.prices import PriceList, from_operator

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
KINDS = "input, output, cache_read, cache_write, cache_write_1h, reasoning, audio_input, audio_output"


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_operator_prices_become_nano_dollars_exactly() -> None:
    assert from_operator({"input": 0.15, "output": 0.6}) == Price(((0, 150_000_000),), ((0, 600_000_000),))
    assert from_operator({"input": 3, "output": 0}) == Price(((0, 3_000_000_000),), ((0, 0),))
    assert from_operator({"output": 0.0, "input": 0.0}) == FREE
    assert from_operator({"input": 1.1, "output": 1_000_000}).input == ((0, 1_100_000_000),)


def test_operator_prices_of_every_kind() -> None:
    given_prices = {kind: float(n) for n, kind in enumerate(KINDS.split(", "))}
    price = from_operator(given_prices)
    for n, kind in enumerate(KINDS.split(", ")):
        assert getattr(price, kind) == ((0, n * 1_000_000_000),)


@pytest.mark.parametrize(
    ("usd", "nanos"), [(1e-9, 1), (5e-10, 1), (4.9e-10, 0), (1.5e-9, 2), (2.5e-9, 3), (1e6, 10**15), (-0.0, 0)]
)
def test_operator_prices_round_half_up(usd: float, nanos: int) -> None:
    assert from_operator({"input": usd, "output": 0}).input == ((0, nanos),)


@given(st.decimals(0, 1000, places=6))
def test_operator_prices_of_six_digits_are_exact(usd: Decimal) -> None:
    assert from_operator({"input": float(usd), "output": 1}).input == ((0, int(usd * 10**9)),)


@pytest.mark.parametrize("given_prices", [{}, {"input": 1.0}, {"output": 1.0}, {"cache_read": 1.0}])
def test_operator_prices_need_input_and_output(given_prices: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="price") as caught:
        from_operator(given_prices)
    assert str(caught.value) == (
        f"A price has the kinds {KINDS} (input and output are required), in USD per million tokens"
    )


def test_operator_prices_of_unknown_kinds_are_rejected() -> None:
    with pytest.raises(ValueError, match="price") as caught:
        from_operator({"input": 1.0, "output": 1.0, "cached": 1.0, "image": 2.0})
    assert str(caught.value) == (
        f"A price has the kinds {KINDS} (input and output are required), in USD per million tokens; "
        "unknown: 'cached', 'image'"
    )


@pytest.mark.parametrize(
    "usd", [-0.01, float("nan"), float("inf"), float("-inf"), 1_000_000.1, 10**400, True, "1", None]
)
@pytest.mark.parametrize("kind", ["output", "cache_read"])
def test_operator_prices_that_are_not_numbers_in_range_are_rejected(kind: str, usd: float) -> None:
    with pytest.raises(ValueError, match="price") as caught:
        from_operator({"input": 1.0, "output": 1.0, kind: usd})
    assert str(caught.value) == f"The price of {kind} must be a number from 0 to 1000000, in USD per million tokens"


@pytest.mark.parametrize(
    ("model_price", "price"),
    [
        (ModelPrice(), None),
        (ModelPrice(output_mtok=Decimal(1)), None),
        (ModelPrice(input_mtok=None, output_mtok=Decimal(1)), None),
        (ModelPrice(input_document_kpages=Decimal(1)), None),
        (ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), requests_kcount=Decimal(5)), None),
        (ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), output_citation_mtok=Decimal(2)), None),
        (ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0)), FREE),
        (ModelPrice(input_mtok=Decimal("0.02")), Price(((0, 20_000_000),), ((0, 0),))),
        (
            ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), output_image_mtok=Decimal(30)),
            Price(((0, 10**9),), ((0, 2 * 10**9),)),
        ),
    ],
)
def test_a_list_price_is_converted_if_it_is_per_token_only(model_price: ModelPrice, price: Price | None) -> None:
    assert prices._from_genai(model_price) == price


def test_tiers_and_kinds_of_list_prices_are_converted() -> None:
    gemini = PriceList(Clock()).find("gemini", "gemini-2.5-pro")
    assert gemini is not None
    assert gemini.input == ((0, 1_250_000_000), (200_000, 2_500_000_000))
    assert gemini.output == ((0, 10_000_000_000), (200_000, 15_000_000_000))
    claude = PriceList(Clock()).find("anthropic", "claude-3-haiku-20240307")
    assert claude == Price(
        input=((0, 250_000_000),),
        output=((0, 1_250_000_000),),
        cache_read=((0, 30_000_000),),
        cache_write=((0, 300_000_000),),
        cache_write_1h=((0, 500_000_000),),
    )


@pytest.mark.parametrize(
    ("vendor", "model", "price_per_million"),
    [
        ("openai", "gpt-4o-mini", 150_000_000),
        ("openai", "gpt-4o-mini-2024-07-18", 150_000_000),
        ("openai", "GPT-4o-mini", 150_000_000),
        (None, "gpt-4o-mini", 150_000_000),
        ("my-own", "gpt-4o-mini", 150_000_000),
        (None, "claude-3-haiku-20240307", 250_000_000),
        ("anthropic", "claude-3-haiku".ljust(256, "x"), 250_000_000),
        ("groq", "llama-3.1-8b-instant", 50_000_000),
    ],
)
def test_the_price_of_a_known_model_name_is_found(vendor: str | None, model: str, price_per_million: int) -> None:
    price = PriceList(Clock()).find(vendor, model)
    assert price is not None
    assert price.input == ((0, price_per_million),)


@pytest.mark.parametrize(
    ("vendor", "model"),
    [
        ("openai", "no-such-model"),
        ("groq", "gpt-4o-mini"),
        ("my-own", "no-such-model"),
        (None, ""),
        ("openai", ""),
        ("ollama", "gpt-4o-mini"),
        ("vllm", "gpt-4o-mini"),
        ("lmstudio", "gpt-4o-mini"),
        ("local", "gpt-4o-mini"),
        ("mistral", "mistral-ocr-2503"),
        ("perplexity", "sonar"),
        ("openrouter", "perplexity/sonar-pro"),
        ("openai", "gpt-4o-search-preview"),
        ("openai", "gpt-4o-mini-Search-Preview-2025-03-11"),
        ("openai", "gpt-5-search-api"),
        ("openai", "o4-mini-deep-research-2025-06-26"),
        ("anthropic", "claude-3-haiku".ljust(257, "x")),
    ],
)
def test_an_unknown_model_name_has_no_price(vendor: str | None, model: str) -> None:
    assert PriceList(Clock()).find(vendor, model) is None


def test_every_hosted_preset_is_known_to_genai_prices() -> None:
    ids = {provider.id for provider in get_snapshot().providers}
    assert set(prices.GENAI_PROVIDERS.values()) <= ids
    assert set(load_presets()) == set(prices.GENAI_PROVIDERS) | prices.SELF_HOSTED


def test_a_price_that_depends_on_the_time_of_day_is_determined_again_after_a_minute() -> None:
    day = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
    clock = Clock(day + 29 * 60 + 30)
    price_list = PriceList(clock)
    standard = price_list.find("deepseek", "deepseek-chat")
    assert price_list.find("deepseek", "deepseek-chat") is standard
    clock.now += 0.5
    assert price_list.find("deepseek", "deepseek-chat") is standard
    clock.now = day + 30 * 60 + 29.9
    assert price_list.find("deepseek", "deepseek-chat") is standard
    clock.now = day + 30 * 60 + 30
    off_peak = price_list.find("deepseek", "deepseek-chat")
    assert standard is not None
    assert off_peak is not None
    assert off_peak != standard
    clock.now = day + 16 * 3600 + 29 * 60 + 59
    assert price_list.find("deepseek", "deepseek-chat") == off_peak
    clock.now += 1
    assert price_list.find("deepseek", "deepseek-chat") == off_peak
    clock.now += 59
    assert price_list.find("deepseek", "deepseek-chat") == standard
    clock.now = day + 3600
    assert price_list.find("deepseek", "deepseek-chat") == off_peak


def test_times_of_day_in_price_lists_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    day = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
    in_utc = [PriceList(Clock(day + hour * 3600)).find("deepseek", "deepseek-chat") for hour in range(24)]
    monkeypatch.setenv("TZ", "UTC-7")
    time.tzset()
    try:
        there = [PriceList(Clock(day + hour * 3600)).find("deepseek", "deepseek-chat") for hour in range(24)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert there == in_utc


def test_lookups_are_cached_up_to_a_limit() -> None:
    price_list = PriceList(Clock(), max_names=3)
    assert price_list.find("openai", "gpt-4o-mini") is price_list.find("openai", "gpt-4o-mini")
    for n in range(5):
        assert price_list.find(None, f"zz-{n}") is None
        assert price_list.find(f"own-{n}", "zz-0") is None
    assert list(price_list._lookup._entries) == [("*", "zz-3"), ("*", "zz-0"), ("*", "zz-4")]


def test_lookups_leave_the_cache_of_genai_prices_empty() -> None:
    price_list = PriceList(Clock())
    snapshot = get_snapshot()
    for name in ("gpt-4o-mini-remembered", "zz-remembered"):
        price_list.find("openai", name)
        price_list.find(None, name)
    assert "remembered" not in repr((snapshot._lookup_cache, snapshot._provider_cache, snapshot._provider_misses))


@pytest.mark.parametrize(
    ("preset", "model", "window"),
    [
        ("openai", "gpt-4o", 128_000),
        ("vllm", "gpt-4o", None),
        ("openai", "no-such-model", None),
        ("openai", "x" * 257, None),
    ],
)
def test_context_windows_come_from_the_list(preset: str, model: str, window: int | None) -> None:
    assert PriceList().context_window(preset, model) == window
