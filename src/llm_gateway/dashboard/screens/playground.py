"""Playground: ask a model, or two side by side. The browser calls the public API with a key, whose limits hold."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.page import Page


async def show(page: Page) -> Response:
    """Show the playground."""
    providers = await page.api.get("/providers") if page.may("read") else []
    enabled = [each for each in providers if each["is_enabled"]]
    return page.render(
        "playground.html",
        title="Playground",
        models=sorted({model for each in enabled for model in each["models"]}),
    )
