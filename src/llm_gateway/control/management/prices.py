"""Endpoint of the prices in force, and of the models that were used without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.fields import Timestamp, iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.record_schemas import PER_MILLION, shown_price
from llm_gateway.control.management.router import Router
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.providers.price_lookup import PriceLookup
from llm_gateway.providers.prices import own_price
from llm_gateway.store.price_history import PriceHistory, Since
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.usage_reports import Grouping, UsageReports

UNPRICED_DAYS = 30
"""Days, today included, in which models without a price are looked for."""
UNPRICED = ("unpriced_requests", "input_tokens", "output_tokens")
"""Counters of the report that finds them."""


class ModelPrice(BaseModel):
    """The price of a provider's model."""

    provider: str
    model: str
    source: Annotated[
        Literal["operator", "public_list", "embedded", "none"],
        Field(description="set at the provider, from the public price list, free as the embedded model, or not known"),
    ]
    price: Annotated[dict[str, Any] | None, Field(description=PER_MILLION)]
    in_force_since: Annotated[
        Timestamp | None,
        Field(
            description="operator: when it was set; public_list: from when the list has it; null if neither is known, "
            "the price changes with the time of day, or there is none"
        ),
    ]


class UnpricedModel(BaseModel):
    """A model that answered requests, or was tried last, and whose tokens had no price."""

    provider: str
    model: str
    unpriced_requests: int
    total_tokens: int


class Prices(BaseModel):
    """Prices in force by provider and model, and models without one, the most used first, since a moment."""

    prices: list[ModelPrice]
    unpriced: list[UnpricedModel]
    unpriced_since: Timestamp


def prices_router(
    snapshot: Callable[[], Snapshot], reports: UsageReports, history: PriceHistory, up_to_date: UpToDate
) -> Router:
    """Build the endpoint of prices. `snapshot` returns the configuration in force."""
    router = Router("/api/v1/prices", "usage")
    listed, one_at_a_time = PriceLookup(lambda: snapshot().public_prices), Lock()

    def in_force(providers: Sequence[Provider]) -> list[ModelPrice]:
        since = history.since(providers)
        with one_at_a_time:
            return [
                _price(provider, model, since.get(provider.id, {}), listed)
                for provider in providers
                for model in provider.models
            ]

    @router.get("", responses=problems(422))
    def prices() -> Prices:
        end_ms = (up_to_date() // DAY_MS + 1) * DAY_MS
        start_ms = end_ms - UNPRICED_DAYS * DAY_MS
        providers = sorted(snapshot().providers.values(), key=lambda provider: provider.name)
        return Prices(
            prices=in_force(providers),
            unpriced=_unpriced(reports, start_ms, end_ms),
            unpriced_since=iso(start_ms),
        )

    return router


def _price(provider: Provider, model: str, set_ms: Since, listed: PriceLookup) -> ModelPrice:
    own = own_price(provider, model)
    price = own or provider.price_by_model.get(model)
    source: Literal["operator", "public_list", "embedded", "none"] = "none" if price is None else "public_list"
    if own is not None:
        source = "operator" if model in (provider.prices or {}) else "embedded"
    since_ms = set_ms.get(model) if source == "operator" else None
    if source == "public_list" and (since_s := listed.since_s(provider.price_vendor, model)) is not None:
        since_ms = since_s * 1000
    return ModelPrice(
        provider=provider.name,
        model=model,
        source=source,
        price=shown_price(price),
        in_force_since=None if since_ms is None else iso(since_ms),
    )


def _unpriced(reports: UsageReports, start_ms: int, end_ms: int) -> list[UnpricedModel]:
    by_model = Grouping((DIMENSION_BY_NAME["provider"], DIMENSION_BY_NAME["model"]), counters=UNPRICED)
    found = [
        UnpricedModel(
            provider=provider,
            model=model,
            unpriced_requests=totals.unpriced_requests,
            total_tokens=totals.total_tokens,
        )
        for (provider, model), totals in reports.totals(by_model, (start_ms, end_ms)).items()
        if totals.unpriced_requests
    ]
    return sorted(found, key=lambda each: (-each.unpriced_requests, each.provider, each.model))
