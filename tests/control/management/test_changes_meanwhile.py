"""Changes of the same thing at the same time: what one was checked against is what it is made of, and none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llm_gateway.control.management.alert_targets import alert_targets_router
from llm_gateway.control.management.probe import Probe
from llm_gateway.control.management.provider_rules import ProviderRules
from llm_gateway.control.management.providers import providers_router
from llm_gateway.control.management.spend_limits import spend_limits_router
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.providers.presets import load_presets
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.store.alert_deliveries import AlertDeliveries
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.egress import Egress
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import client_of, copied
from tests.control.management.test_alert_targets import MAIL
from tests.control.management.test_budgets import World
from tests.control.management.test_providers import LEAST

LIMITS = "/v1/organizations/spend_limits"
ADDRESS = "93.184.216.34"


class LateBudgets(BudgetStore):
    """Budgets that others change after they were read."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def list(self, **filters: Any) -> list[StoredBudget]:
        """Return budgets as they are before others change them."""
        found = super().list(**filters)
        happens(self)
        return found

    def get(self, budget_id: str) -> StoredBudget:
        """Return a budget as it is before others change it."""
        found = super().get(budget_id)
        happens(self)
        return found


def happens(world: Any) -> None:
    """Let what others do happen, once."""
    meanwhile, world.meanwhile = world.meanwhile, lambda: None
    meanwhile()


async def no_call(*_: object) -> Any:
    """Fail: no provider is called here."""
    raise AssertionError


class Others:
    """Endpoints in production; what others do happens once, when the next host is looked up."""

    def __init__(self, database: Database) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        box, egress = SecretBox([b"k" * 32]), Egress(strict=True, resolve=self._resolve)
        self.providers, self.targets = ProviderStore(database, box), AlertTargetStore(database, box)
        self.budgets = LateBudgets(database)
        configuration = World(database).configuration
        probe = Probe(no_call, DIALECTS, Redactor(), {}, passed=no_call)
        routers = [
            providers_router(self.providers, configuration, ProviderRules(load_presets(), egress, lambda: None), probe),
            alert_targets_router(self.targets, AlertDeliveries(database), egress),
            spend_limits_router(self.budgets, configuration),
        ]
        self.client: Client = client_of(routers, "admin")

    def _resolve(self, _host: str, _port: int) -> list[str]:
        happens(self)
        return [ADDRESS]

    async def made(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        response = await self.client.call("POST", path, fields)
        assert response.status in (200, 201), response.body
        found: dict[str, Any] = response.json
        return found


@pytest.fixture
def others(migrated: Path, tmp_path: Path) -> Iterator[Others]:
    with copied(migrated, tmp_path) as database:
        yield Others(database)


async def test_a_provider_is_checked_as_it_is_when_it_changes(others: Others) -> None:
    providers = "/api/v1/providers"
    made = await others.made(
        providers, {**LEAST, "name": "one", "models": ["a", "b"], "base_url": "https://one.example/v1"}
    )
    one = f"{providers}/{made['id']}"
    elsewhere = {"base_url": "https://two.example/v1", "api_key": "sk-two"}

    others.meanwhile = lambda: others.providers.update(made["id"], {"model_aliases": {"fast": "b"}})
    refused = await others.client.call("PATCH", one, {**elsewhere, "models": ["a"]})
    assert "the alias 'fast' needs 'b'" in assert_problem(refused, 422, "validation_error")["detail"]
    assert others.providers.get(made["id"]).models == ("a", "b")

    others.meanwhile = lambda: others.providers.update(made["id"], {"kind": "anthropic", "priority": 3})
    renamed = (await others.client.call("PATCH", one, {**elsewhere, "name": "two"})).json
    assert (renamed["name"], renamed["kind"], renamed["priority"]) == ("two", "anthropic", 3)

    others.meanwhile = lambda: others.providers.update(
        made["id"], {"base_url": "https://three.example", "api_key": "k"}
    )
    refused = await others.client.call("PATCH", one, {"base_url": "https://two.example/v2"})
    assert "api_key is required" in assert_problem(refused, 422, "validation_error")["detail"]

    others.meanwhile = lambda: others.providers.delete(made["id"])
    assert_problem(await others.client.call("PATCH", one, elsewhere), 404, "not_found")


async def test_a_change_ends_if_others_change_the_same_all_the_time(others: Others) -> None:
    made = await others.made("/api/v1/providers", {**LEAST, "name": "one", "base_url": "https://one.example/v1"})

    def again() -> None:
        others.providers.update(made["id"], {"priority": 1})
        others.meanwhile = again

    others.meanwhile = again
    change = {"base_url": "https://one.example/v2"}
    refused = await others.client.call("PATCH", f"/api/v1/providers/{made['id']}", change)
    assert "Somebody has changed this provider meanwhile" in assert_problem(refused, 409, "conflict")["detail"]
    assert others.providers.get(made["id"]).base_url == "https://one.example/v1"


async def test_an_alert_target_is_checked_as_it_is_and_no_transaction_waits_for_the_lookup(others: Others) -> None:
    targets = "/api/v1/alert-targets"
    login = {"host": "mail.example", "security": "tls", "user": "u", "password": "p"}
    made = await others.made(targets, {**MAIL, **login})
    one = f"{targets}/{made['id']}"

    others.meanwhile = lambda: others.targets.update(
        made["id"], lambda target, secret: (replace(target, events=("key.expiring",)), secret)
    )
    moved = (await others.client.call("PATCH", one, {"host": "post.example", "password": "q"})).json
    assert (moved["host"], moved["events"]) == ("post.example", ["key.expiring"])

    def without_login() -> None:
        others.targets.update(
            made["id"],
            lambda target, secret: (
                replace(target, mailbox=replace(target.mailbox, user=None)),  # type: ignore[type-var]
                replace(secret, password=None),
            ),
        )

    others.meanwhile = without_login
    refused = await others.client.call("PATCH", one, {"host": "mail.example", "password": "r"})
    assert "user is missing" in assert_problem(refused, 422, "validation_error")["detail"]


async def test_a_spend_limit_that_others_make_change_or_delete_meanwhile_is_set_nevertheless(others: Others) -> None:
    ann = {"scope": {"type": "user", "user_id": "ann"}, "period": "monthly"}

    async def limits() -> list[tuple[str, str]]:
        return [(each["amount"], each["period"]) for each in (await others.client.call("GET", LIMITS)).json["data"]]

    first = await others.made(LIMITS, {**ann, "amount": "100"})
    [stored] = others.budgets.list()
    others.budgets.delete(stored.id)
    others.budgets.meanwhile = lambda: others.budgets.create(stored.budget)
    second = await others.made(LIMITS, {**ann, "amount": "200"})
    assert (first["amount"], await limits()) == ("100", [("200", "monthly")])

    [stored] = others.budgets.list()
    others.budgets.meanwhile = lambda: others.budgets.update(
        stored.id, lambda budget: replace(budget, period="day", anchor=0, name="now daily")
    )
    third = await others.made(LIMITS, {**ann, "amount": "300"})
    assert (third["id"] == second["id"], await limits()) == (False, [("200", "daily"), ("300", "monthly")])

    [daily, monthly] = others.budgets.list()
    others.budgets.meanwhile = lambda: others.budgets.delete(monthly.id)
    await others.made(LIMITS, {**ann, "amount": "400"})
    assert await limits() == [("200", "daily"), ("400", "monthly")]

    others.budgets.meanwhile = lambda: others.budgets.update(daily.id, lambda budget: replace(budget, carry=0.5))
    kept = await others.client.call("DELETE", f"{LIMITS}/{second['id']}")
    assert (kept.status, await limits()) == (404, [("400", "monthly")])
    assert others.budgets.get(daily.id).budget.carry == 0.5
