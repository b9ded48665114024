"""Playground: ask a model, or two side by side. The browser calls the public API with a key, whose limits hold."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import HEADERS, Page


async def show(page: Page) -> Response:
    """Show the playground."""
    providers = await page.api.get("/providers") if page.may("read") else []
    enabled = [each for each in providers if each["is_enabled"]]
    return page.render(
        "playground.html",
        title="Playground",
        models=sorted({model for each in enabled for model in each["models"]}),
    )


async def show_cost(page: Page) -> Response:
    """Return what an answer cost and who was tried, for the page's script; 204 while its record is not stored."""
    try:
        record = await page.api.get(f"/usage/records/{page.request.path_params['id']}")
    except ApiError as error:
        if error.status != 404:
            raise
        return Response(status_code=204, headers=HEADERS)
    return page.render("playground_cost.html", title="Playground", record=record)
