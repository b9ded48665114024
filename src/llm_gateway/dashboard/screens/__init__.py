"""Screens of the dashboard by path below /ui: a module each, with its handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from llm_gateway.dashboard.page import Page
from llm_gateway.dashboard.screens import (
    alerts,
    audit,
    budgets,
    health,
    keys,
    me,
    overview,
    people,
    playground,
    prices,
    providers,
    requests,
    routing,
    sessions,
    spend,
    teams,
)
from llm_gateway.dashboard.undo import undo

SCREENS: dict[str, dict[str, Callable[[Page], Awaitable[Response]]]] = {
    "": {"GET": overview.show},
    "/": {"GET": overview.show},
    "/requests": {"GET": requests.show},
    "/requests/{id}": {"GET": requests.show_one},
    "/spend": {"GET": spend.show},
    "/spend/breakdown.csv": {"GET": spend.download},
    "/spend/export.csv": {"GET": spend.export},
    "/keys": {"GET": keys.show, "POST": keys.create},
    "/keys/{id}": {"GET": keys.show_one, "POST": keys.change},
    "/keys/{id}/rotate": {"POST": keys.rotate},
    "/keys/{id}/disable": {"POST": keys.disable},
    "/keys/{id}/remove": {"POST": keys.remove},
    "/me": {"GET": me.show},
    "/teams": {"GET": teams.suggest, "POST": teams.create},
    "/teams/{id}/remove": {"POST": teams.remove},
    "/budgets": {"GET": budgets.show, "POST": budgets.create},
    "/budgets/{id}": {"GET": budgets.show_one, "POST": budgets.change},
    "/budgets/{id}/override": {"POST": budgets.override},
    "/budgets/{id}/override/end": {"POST": budgets.end_override},
    "/budgets/{id}/remove": {"POST": budgets.remove},
    "/providers": {"GET": providers.show, "POST": providers.create},
    "/providers/{id}": {"GET": providers.show_one, "POST": providers.change},
    "/providers/{id}/test": {"POST": providers.test},
    "/providers/{id}/enable": {"POST": providers.enable},
    "/providers/{id}/remove": {"POST": providers.remove},
    "/routing": {"GET": routing.show, "POST": routing.create},
    "/routing/{id}/remove": {"POST": routing.remove},
    "/playground": {"GET": playground.show},
    "/playground/{id}": {"GET": playground.show_cost},
    "/prices": {"GET": prices.show},
    "/alerts": {"GET": alerts.show, "POST": alerts.create},
    "/alerts/{id}": {"GET": alerts.show_one, "POST": alerts.change},
    "/alerts/{id}/test": {"POST": alerts.try_one},
    "/alerts/{id}/enable": {"POST": alerts.enable},
    "/alerts/{id}/remove": {"POST": alerts.remove},
    "/audit": {"GET": audit.show},
    "/health": {"GET": health.show},
    "/people": {"GET": people.show, "POST": people.create},
    "/people/{id}": {"GET": people.show_one, "POST": people.change},
    "/people/{id}/password": {"POST": people.set_password},
    "/people/{id}/disable": {"POST": people.disable},
    "/people/{id}/remove": {"POST": people.remove},
    "/sessions": {"GET": sessions.show},
    "/sessions/password": {"POST": sessions.set_password},
    "/sessions/others/end": {"POST": sessions.end_others},
    "/sessions/{id}/end": {"POST": sessions.end},
    "/undo": {"POST": undo},
}
