"""Alerts: the targets with their events, last delivery and error, forms to add and change one, and a test."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Form, Page
from llm_gateway.dashboard.screens.providers import number
from llm_gateway.dashboard.undo import toast_about
from llm_gateway.domain.alert_target import EVENTS

OF_KIND = {
    "webhook": ("url", "secret"),
    "slack": ("url",),
    "email": ("host", "security", "user", "password", "sender"),
}
"""Texts of the form that each kind of target has."""
SECRETS = ("url", "secret", "password")
SHOWN = ("name", "host", "port", "security", "user", "sender")


async def show(page: Page) -> Response:
    """Show all targets."""
    return await _table(page)


async def _table(page: Page, status: int = 200, **values: Any) -> Response:
    return page.render(
        "alerts.html",
        status,
        title="Alerts",
        targets=await page.api.get("/alert-targets"),
        events=EVENTS,
        **{"problem": None, "form": Form(), "tested": None, **values},
    )


async def create(page: Page) -> Response:
    """Add a target, then show it with the answer to a test message."""
    form = await page.form()
    try:
        made = await page.api.send("POST", "/alert-targets", _fields(form))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _table(page, error.status, problem=error, form=_without_secrets(form))
    return await _tested(page, f"/alert-targets/{made['id']}", 201)


async def show_one(page: Page) -> Response:
    """Show a target with its form."""
    target = await page.api.get(_path(page))
    return _one(page, target, form=_form_of(target))


def _one(page: Page, target: dict[str, Any], status: int = 200, **values: Any) -> Response:
    return page.render(
        "alert.html", status, title=target["name"], target=target, events=EVENTS, **{"problem": None, **values}
    )


def _form_of(target: dict[str, Any]) -> Form:
    """Return the fields of a target's form, without its secrets."""
    texts = {name: str(target[name]) for name in SHOWN if target[name] is not None}
    events, recipients = target["events"], target["recipients"] or []
    return Form(texts, events="\n".join(events) if events != ["*"] else "", recipients="\n".join(recipients))


async def change(page: Page) -> Response:
    """Change a target, then show all with the answer to a test message. Secrets that are left empty stay."""
    form, path = await page.form(), _path(page)
    body = _fields(form)
    del body["kind"]  # it stays: the form has it to say which fields are meant
    body.setdefault("events", ["*"])
    if form["kind"] == "email" and not form["user"].strip():
        body = {"user": None, "password": None} | body
    try:
        await page.api.send("PATCH", path, body)
    except ApiError as error:
        if not error.is_about_form:
            raise
        return _one(page, await page.api.get(path), error.status, problem=error, form=_without_secrets(form))
    page.toast = await toast_about(page, page.api.written)
    return await _tested(page, path)


async def try_one(page: Page) -> Response:
    """Send a test message to a target, and show what its server answered."""
    return await _tested(page, _path(page))


async def _tested(page: Page, path: str, status: int = 200) -> Response:
    tested = await page.api.send("POST", f"{path}/test")
    target = await page.api.get(path)
    return await _table(page, status, tested={**tested, "name": target["name"]})


async def enable(page: Page) -> Response:
    """Switch a target on or off."""
    form = await page.form()
    await page.api.send("PATCH", _path(page), {"is_enabled": form["enabled"] == "true"})
    return page.redirect_changed("/alerts")


async def remove(page: Page) -> Response:
    """Delete a target."""
    await page.api.send("DELETE", _path(page))
    return page.redirect_changed("/alerts")


def _without_secrets(form: Form) -> Form:
    return Form({name: value for name, value in form.items() if name not in SECRETS})


def _path(page: Page) -> str:
    return f"/alert-targets/{page.request.path_params['id']}"


def _fields(form: Form) -> dict[str, Any]:
    """Return the body for the API, without empty fields and those of other kinds."""
    kind = form["kind"]
    body: dict[str, Any] = {"name": form["name"].strip(), "kind": kind}
    for name in OF_KIND.get(kind, ()):
        if form[name].strip():
            body[name] = form[name].strip()
    if kind == "email":
        body["recipients"] = _listed(form["recipients"])
        if form["port"].strip():
            body["port"] = number(form["port"])
    events = _listed(form["events"])
    if events:
        body["events"] = events
    return body


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.replace(",", "\n").splitlines() if each.strip()]
