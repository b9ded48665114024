"""Providers: their state and use, forms to add and change one, and a test of its key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from starlette.responses import Response

from llm_gateway import wall_clock
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.model_lines import alias_lines, aliases_of, price_lines, prices_of
from llm_gateway.dashboard.page import Form, Page
from llm_gateway.dashboard.period import period_of
from llm_gateway.providers.presets import load_presets

NUMBERS = ("priority", "rate_limit_rpm", "rate_limit_tpm")
MOST_PROVIDERS = 1000
TEXTS = ("name", "display_name", "base_url", "api_key", "kind")
KINDS = ("openai", "anthropic", "gemini")
"""Kinds that a server of one's own can speak, the usual one first."""
LINES: tuple[tuple[str, Callable[[str], object]], ...] = (("prices", prices_of), ("model_aliases", aliases_of))
"""Fields with a line for each model."""


async def show(page: Page) -> Response:
    """Show all providers."""
    return await _table(page)


async def _table(page: Page, status: int = 200, **values: Any) -> Response:
    period = period_of(page, "today")
    lately = (wall_clock.now() - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0).isoformat()
    providers, usage, used_lately, latency, state = await page.api.get_all(
        [
            ("/providers", None),
            ("/usage/breakdown", {**period.query, "group_by": "provider", "limit": MOST_PROVIDERS}),
            ("/usage/breakdown", {"from": lately, "group_by": "provider", "limit": MOST_PROVIDERS}),
            ("/usage/latency", {**period.query, "group_by": "provider"}),
            ("/state", None),
        ]
    )
    return page.render(
        "providers.html",
        status,
        title="Providers",
        providers=sorted(providers, key=lambda each: (not each["is_enabled"], -each["priority"], each["name"])),
        used=_by_provider(usage),
        used_lately=_by_provider(used_lately),
        resting=state["resting"],
        limits_used=_limits_used(state),
        times={row["name"]: row["latency"] for row in latency["rows"]},
        period=period,
        lately=lately,
        kinds=KINDS,
        presets={name: preset for name, preset in load_presets().items() if name != "local"},
        **{"problem": None, "form": Form(), **values},
    )


def _by_provider(breakdown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["group"]["provider"]: row for row in breakdown["rows"]}


def _limits_used(state: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {each["provider"]: each for each in state["limits_used"]}


async def create(page: Page) -> Response:
    """Add a provider, then show it with the result of a test call."""
    form = await page.form()
    try:
        made = await page.api.send("POST", "/providers", _fields(form))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _table(page, error.status, problem=error, form=Form({**form, "api_key": ""}))
    tested = await page.api.send("POST", f"/providers/{made['id']}/test")
    return await _one(page, made, 201, tested=tested)


async def show_one(page: Page) -> Response:
    """Show a provider with its form."""
    return await _one(page, await page.api.get(_path(page)))


def _path(page: Page) -> str:
    return f"/providers/{page.request.path_params['id']}"


async def _one(page: Page, provider: dict[str, Any], status: int = 200, **values: Any) -> Response:
    every, state = await page.api.get_all([("/providers", None), ("/state", None)])
    others = [each for each in every if each["is_enabled"] and each["id"] != provider["id"]]
    names = [*provider["models"], *(provider["model_aliases"] or ())] if provider["is_enabled"] else []
    return page.render(
        "provider.html",
        status,
        title=provider["display_name"],
        provider=provider,
        used=_limits_used(state).get(provider["name"]),
        prices=price_lines(provider["prices"]),
        aliases=alias_lines(provider["model_aliases"]),
        served_alone=[name for name in names if not any(_serves(each, name) for each in others)],
        **{"tested": None, "problem": None, "form": Form(), **values},
    )


def _serves(provider: dict[str, Any], model: str) -> bool:
    """Return whether a provider has a model, by its name or an alias, which can be a glob."""
    return model in provider["models"] or any(fnmatchcase(model, alias) for alias in provider["model_aliases"] or ())


async def change(page: Page) -> Response:
    """Change a provider. An empty key leaves the stored one."""
    form, path = await page.form(), _path(page)
    try:
        await page.api.send("PATCH", path, _fields(form, is_change=True))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, await page.api.get(path), error.status, problem=error, form=form)
    return page.redirect_changed(path)


async def test(page: Page) -> Response:
    """Try a provider's key, and show the result."""
    tested = await page.api.send("POST", f"{_path(page)}/test")
    return await _one(page, await page.api.get(_path(page)), tested=tested)


async def enable(page: Page) -> Response:
    """Switch a provider on or off."""
    form = await page.form()
    await page.api.send("PATCH", _path(page), {"is_enabled": form.get("enabled") == "true"})
    return page.redirect_changed("/providers")


async def remove(page: Page) -> Response:
    """Delete a provider."""
    await page.api.send("DELETE", _path(page))
    return page.redirect_changed("/providers")


def _fields(form: Form, *, is_change: bool = False) -> dict[str, Any]:
    """Return the body for the API: of a new provider without its empty fields.

    Raises:
        ApiError: a line of prices or aliases cannot be read.
    """
    body: dict[str, Any] = {}
    for name in TEXTS:
        value = form.get(name, "").strip()
        if value:
            body[name] = value
        elif is_change and name == "base_url" and name in form:
            body[name] = None
    body.setdefault("display_name", form.get("name", "").strip() or None)
    if body["display_name"] is None:
        del body["display_name"]
    if form.get("models", "").strip():
        body["models"] = [each.strip() for each in form["models"].replace(",", "\n").splitlines() if each.strip()]
    for name, read in LINES:
        if name in form and (is_change or form[name].strip()):
            body[name] = read(form[name])
    for name in NUMBERS:
        if form.get(name, "").strip():
            body[name] = number(form[name])
    return body


def number(text: str) -> int | str:
    """Return the whole number that a field has, else its text: the API says what is wrong with it."""
    try:
        return int(text)
    except ValueError:
        return text
