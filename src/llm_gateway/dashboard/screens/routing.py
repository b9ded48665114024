"""Routing: in which order providers are tried, overrides of customers, and why a request would go where it goes."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Form, Page


async def show(page: Page) -> Response:
    """Show the order of the providers, and all overrides."""
    return await _page(page)


async def _page(page: Page, status: int = 200, **values: Any) -> Response:
    providers, overrides = await page.api.get_all([("/providers", None), ("/overrides", None)])
    enabled = sorted(
        (each for each in providers if each["is_enabled"]), key=lambda each: (-each["priority"], each["name"])
    )
    return page.render(
        "routing.html",
        status,
        title="Routing",
        providers=enabled,
        models=sorted({model for each in enabled for model in each["models"]}),
        overrides=overrides,
        explained={name: page.given(name) for name in ("user_id", "service", "model", "session", "as")},
        **{"problem": None, "form": Form(), **values},
    )


async def create(page: Page) -> Response:
    """Add an override."""
    form = await page.form()
    body = {
        "user_id": form.get("user_id", "").strip(),
        "service_name": form.get("service_name", "").strip() or None,
        "provider_name": form.get("provider_name", ""),
        "model_name": form.get("model_name", "").strip(),
        "allow_fallback": form.get("allow_fallback") == "true",
    }
    try:
        await page.api.send("POST", "/overrides", body)
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _page(page, error.status, problem=error, form=form)
    return page.redirect_changed("/routing#overrides")


async def remove(page: Page) -> Response:
    """Delete an override."""
    await page.api.send("DELETE", f"/overrides/{page.request.path_params['id']}")
    return page.redirect_changed("/routing#overrides")
