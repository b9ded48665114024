"""Prices: what is in force for each model, where it comes from, and what has none."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.page import Page


async def show(page: Page) -> Response:
    """Show all prices."""
    found = await page.api.get("/prices")
    return page.render(
        "prices.html",
        title="Prices",
        prices=found["prices"],
        kinds=sorted({kind for each in found["prices"] for kind in each["price"] or {}}, key=_KINDS.index),
        unpriced=found["unpriced"],
        since=found["unpriced_since"],
    )


_KINDS = ["input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "audio_input", "audio_output"]
