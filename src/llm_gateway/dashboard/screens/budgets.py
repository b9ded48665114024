"""Budgets: how full their accounts are; make, change and delete one, and raise its limit for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from llm_gateway import wall_clock
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.budget_accounts import elapsed_part, filled, request_filters, with_names
from llm_gateway.dashboard.formats import plain
from llm_gateway.dashboard.page import Form, Page
from llm_gateway.dashboard.screens.providers import number
from llm_gateway.dashboard.undo import toast_about
from llm_gateway.domain.budget import DIMENSIONS

UNITS = (("usd", "USD"), ("tokens", "tokens"), ("requests", "requests"))
CHOICES = {
    "period": ("hour", "day", "week", "month", "quarter", "total"),
    "mode": ("hard", "soft", "observe"),
    "hold": ("expected", "bound"),
    "unpriced": ("reject", "allow"),
}
PAGE, ACCOUNTS_PAGE, SHOWN_ACCOUNTS, PERIODS = 50, 100, 3, 24


async def show(page: Page) -> Response:
    """Show all budgets."""
    return await _table(page)


async def _table(page: Page, status: int = 200, **values: Any) -> Response:
    found = await page.api.get("/budgets", {"limit": PAGE, "cursor": page.given("cursor")})
    more = found["next_cursor"]
    budgets = await with_names(page, found["budgets"])
    return page.render(
        "budgets.html",
        status,
        title="Budgets",
        rows=await filled(page, budgets, SHOWN_ACCOUNTS),
        more=page.link("/budgets", {"cursor": more}) if more else None,
        **{**_form_choices(), "problem": None, "form": Form(timezone=page.timezone), "made": None, **values},
    )


async def create(page: Page) -> Response:
    """Make a budget."""
    form = await page.form()
    try:
        made = await page.api.send("POST", "/budgets", _fields(form))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _table(page, error.status, problem=_at_fields(error), form=form)
    return await _table(page, 201, made=made)


async def show_one(page: Page) -> Response:
    """Show a budget with its accounts and its forms."""
    return await _one(page)


async def _one(page: Page, status: int = 200, **values: Any) -> Response:
    path, value = f"/budgets/{page.request.path_params['id']}", page.request.query_params.get("account")
    query: dict[str, str | int | None] = {"limit": ACCOUNTS_PAGE, "cursor": page.given("cursor"), "value": value}
    found, accounts, past = await page.api.get_all(
        [(path, None), (f"{path}/accounts", query), (f"{path}/periods", {"limit": PERIODS, "value": value})]
    )
    [budget] = await with_names(page, [found])
    part = elapsed_part(accounts["period_start"], accounts["resets_at"], wall_clock.now())
    for each in accounts["accounts"]:
        filters, each["is_exact"] = request_filters(page.timezone, budget, accounts["period_start"], each["value"])
        each["requests"] = None if filters is None else page.link("/requests", filters)
        each["forecast"] = None if part is None else each["spent"] / part
        each["history"] = page.link(path, {"account": each["value"]})
    more = accounts["next_cursor"]
    given = {
        "title": budget["name"],
        "budget": budget,
        "found": accounts,
        "more": page.link(path, {"cursor": more}) if more else None,
        "account": value,
        "periods": [
            each | {"requests": _requests_of(page, budget, each, value), "limit": _limit_of(each, budget, accounts)}
            for each in past["periods"]
        ],
        "form": _form_of(budget),
        "problem": None,
        "override": Form(),
        "override_problem": None,
        "made": None,
    }
    return page.render("budget.html", status, **{**_form_choices(), **given, **values})


def _requests_of(page: Page, budget: dict[str, Any], period: dict[str, Any], value: str | None) -> str | None:
    """Return the address of the requests of a period, None if no filters show these and no others."""
    filters, is_exact = request_filters(
        page.timezone, budget | ({} if value else {"per": None}), period["start"], value or "", period["end"]
    )
    return page.link("/requests", filters) if filters is not None and is_exact else None


def _limit_of(period: dict[str, Any], budget: dict[str, Any], accounts: dict[str, Any]) -> float:
    """Return the limit that a period's fullest account is shown against: its own one, or the budget's for the past."""
    fullest = max(accounts["accounts"], key=lambda each: each["spent"], default=None)
    is_known = period["is_current"] and fullest is not None and fullest["spent"] == period["most"]
    return float(fullest["limit"] if is_known and fullest is not None else budget["limit"])


async def change(page: Page) -> Response:
    """Change a budget."""
    form = await page.form()
    path = f"/budgets/{page.request.path_params['id']}"
    try:
        made = await page.api.send("PATCH", path, _fields(form))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, error.status, problem=_at_fields(error), form=form)
    if not made["warnings"]:
        return page.redirect_changed(path)
    page.toast = await toast_about(page, page.api.written)
    return await _one(page, made=made)


async def override(page: Page) -> Response:
    """Set another limit until a moment."""
    form = await page.form()
    path = f"/budgets/{page.request.path_params['id']}"
    body = {
        **_amount("amount", form.get("unit", "usd"), form.get("amount", "")),
        "until": page.moment(form.get("until", "")),
    }
    try:
        await page.api.send("PUT", f"{path}/override", body)
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, error.status, override_problem=_at_fields(error), override=form)
    return page.redirect_changed(path)


async def end_override(page: Page) -> Response:
    """End the other limit at once."""
    path = f"/budgets/{page.request.path_params['id']}"
    await page.api.send("DELETE", f"{path}/override")
    return page.redirect_changed(path)


async def remove(page: Page) -> Response:
    """Delete a budget."""
    await page.api.send("DELETE", f"/budgets/{page.request.path_params['id']}")
    return page.redirect_changed("/budgets")


def _form_choices() -> dict[str, Any]:
    return {"units": UNITS, "choices": CHOICES, "dimensions": DIMENSIONS}


def _form_of(budget: Mapping[str, Any]) -> Form:
    """Return the fields of a budget's form. Anchor and overdraft are empty: they stay unless they are filled in."""
    return Form(
        name=budget["name"],
        match="\n".join(f"{name} = {glob}" for name, glob in budget["named_match"].items()),
        per=budget["per"] or "",
        unit=budget["unit"],
        limit=plain(budget["limit"]),
        carry=plain(budget["carry"]),
        notify_at=", ".join(map(plain, budget["notify_at"])),
        timezone=budget["timezone"],
        **{name: budget[name] for name in CHOICES},
    )


def _fields(form: Form) -> dict[str, Any]:
    """Return the body for the API.

    Raises:
        ApiError: two conditions are on one dimension, of which the API would get only one.
    """
    unit = form.get("unit", "usd")
    body: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "match": _match(form.get("match", "")),
        "per": form.get("per", "").strip() or None,
        **_amount("limit", unit, form.get("limit", "")),
        "notify_at": [_part(text) for text in form.get("notify_at", "").split(",") if text.strip()],
    }
    body |= {name: form[name] for name in CHOICES if form.get(name)}
    if form.get("timezone", "").strip():
        body["timezone"] = form["timezone"].strip()
    if form.get("carry", "").strip():
        body["carry"] = _part(form["carry"])
    if form.get("anchor", "").strip():
        body["anchor"] = number(form["anchor"].strip())
    if form.get("overdraft", "").strip():
        body |= _amount("overdraft", unit, form["overdraft"])
    return body


def _match(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, glob = (part.strip() for part in line.partition("="))
        if name in found:
            sentence = f"{name} is there twice: write one line for each dimension."
            raise ApiError(422, "Not valid", f"match: {sentence}", {"match": sentence})
        found[name] = glob
    return found


def _amount(kind: str, unit: str, text: str) -> dict[str, Any]:
    given = text.strip()
    return {f"{kind}_{unit}": given if unit == "usd" else number(given)}


def _part(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _at_fields(error: ApiError) -> ApiError:
    """Return the error with its sentences at the fields of the form, which has one amount for all units."""
    kinds = ("limit", "amount", "overdraft")
    fields = {next((kind for kind in kinds if name.startswith(f"{kind}_")), name): sentence
              for name, sentence in error.fields.items()}  # fmt: skip
    return ApiError(error.status, error.title, error.detail, fields)
