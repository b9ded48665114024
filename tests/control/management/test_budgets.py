"""Budgets over the API: create, list, get, patch, delete, another limit for a while, and what accounts spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.effective_keys import EffectiveKeys
from llm_gateway.control.live_configuration import LiveConfiguration, Sources
from llm_gateway.control.management.budget_match import MatchCheck
from llm_gateway.control.management.budget_schemas import BudgetOut
from llm_gateway.control.management.budgets import accounts_router, budget_override_router, budgets_router
from llm_gateway.control.management.key_spending import KeySpending
from llm_gateway.control.management.keys import EnvironmentKeys
from llm_gateway.control.management.spend_limits import spend_limits_router
from llm_gateway.control.overrides_in_force import OverridesInForce
from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.configuration import Account, Configuration
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.domain.stored_key import Fixed, KeySettings
from llm_gateway.domain.usage import Usage
from llm_gateway.routing.snapshot import SnapshotBuilder
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.teams import TeamStore
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import UsageReports
from tests.application.driver import Response, assert_problem
from tests.control.management.reports_api import client_of, copied
from tests.rows import each_row
from tests.store.histories import NOW_MS, attempt, close, record

PATH = "/api/v1/budgets"
PEPPERS = [Pepper(1, b"pepper")]
UNKNOWN = f"{PATH}/01890000-0000-7000-8000-000000000000"


def ignore(*_: object) -> None:
    """Drop what is told."""


class World:
    """The endpoints over a database, and the configurations that they sent to workers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sent: list[Configuration] = []
        self.keys, self.teams, self.store = KeyStore(database, PEPPERS), TeamStore(database), BudgetStore(database)
        providers = ProviderStore(database, SecretBox([b"k" * 32]))
        providers.create(
            ProviderDraft(name="acme", display_name="A", api_key="k", kind="openai", models=("gpt-4o", "gpt-4o-mini"))
        )
        sources = Sources(providers, OverridesInForce(OverrideStore(database)), EffectiveKeys(self.keys), self.store)
        self.configuration = LiveConfiguration(
            sources,
            lambda provider, _: Account(provider=provider),
            PublicPrices,
            SnapshotBuilder(lambda account: account.provider, ignore).build,
            ignore,
        )
        self.configuration.reload()
        self.configuration.connect(self.sent.append)
        environment = EnvironmentKeys([("env-key", ["call"])])
        check = MatchCheck(self.teams, environment, lambda: self.configuration.snapshot)
        routers = [
            budgets_router(self.store, self.configuration, check),
            budget_override_router(self.store, self.configuration, lambda: NOW_MS),
            spend_limits_router(self.store, self.configuration),
            accounts_router(
                self.store,
                BudgetSpend(database),
                UsageReports(database).names,
                lambda: NOW_MS,
                lambda _, refs: {ref: {"a host": 3} for ref in refs if ref.value == "b"},
                lambda refs: {ref: 2 for ref in refs if ref.value == "b"},
            ),
        ]
        self.client = client_of(routers, "admin")
        self.reader = client_of(routers)

    async def made(self, **fields: Any) -> dict[str, Any]:
        response = await self.client.call("POST", PATH, {"name": "core", "limit_usd": 5, **fields})
        assert response.status == 201, response.body
        found: dict[str, Any] = response.json
        return found


@pytest.fixture
def world(migrated: Path, tmp_path: Path) -> Iterator[World]:
    with copied(migrated, tmp_path) as database:
        yield World(database)


async def test_a_budget_from_creation_to_deletion(world: World) -> None:
    client = world.client
    made = await world.made(
        match={"model": "gpt-*"}, per="session", timezone="Europe/Berlin", carry=0.5, notify_at=[1.0, 0.5]
    )
    assert made.pop("warnings") == []
    assert set(made) == set(BudgetOut.model_fields)
    assert (made["limit_usd"], made["limit_tokens"], made["overdraft_usd"]) == (5, None, 1)
    assert (made["period"], made["anchor"], made["mode"], made["notify_at"]) == ("month", 1, "hard", [0.5, 1.0])
    assert world.sent[-1].budgets == world.store.in_force()
    path = f"{PATH}/{made['id']}"
    assert (await world.reader.call("GET", path)).json == made
    assert (await world.reader.call("GET", PATH)).json == {"budgets": [made], "next_cursor": None}
    assert (await world.reader.call("GET", f"{PATH}?name=other")).json["budgets"] == []
    assert_problem(await client.call("POST", PATH, {"name": "core", "limit_usd": 1}), 409, "conflict")
    patched = (await client.call("PATCH", path, {"limit_usd": "7.000000001", "name": "more"})).json
    assert (patched["limit_usd"], patched["overdraft_usd"], patched["counts_from"]) == (
        7.000000001, 1.4, made["counts_from"],
    )  # fmt: skip
    assert world.store.get(made["id"]).budget.limit == 7_000_000_001
    patched = (await client.call("PATCH", path, {"period": "day"})).json
    assert (patched["anchor"], patched["counts_from"] > made["counts_from"]) == (0, True)
    patched = (await client.call("PATCH", path, {"limit_tokens": 10, "period": "hour"})).json
    assert (patched["limit_usd"], patched["limit_tokens"], patched["overdraft_tokens"]) == (None, 10, 2)
    assert patched["anchor"] is None
    assert (await client.call("PATCH", path, {})).json == patched
    assert (await client.call("DELETE", path)).status == 204
    assert world.sent[-1].budgets == ()
    assert_problem(await client.call("GET", path), 404, "not_found")


async def test_who_may_only_read_changes_nothing(world: World) -> None:
    made = await world.made()
    path = f"{PATH}/{made['id']}"
    for method, where in (("POST", PATH), ("PATCH", path), ("DELETE", path), ("PUT", f"{path}/override")):
        assert_problem(await world.reader.call(method, where, {}), 403, "forbidden")


NO_MONEY: list[Any] = [0, -1, True, "1e3", "x", "", None, 1e-10, "0.0000000001", 10**10, "1_0", [], {}]
NO_ZONES: list[Any] = ["Mars/Base", "", "../../etc/passwd", "America", 5, "a" * 300, "\x00"]
NO_PARTS: list[Any] = [[0], [11], [0.5, 0.5], ["x"], [True], 0.5, [0.00001], [0.1] * 11, [None]]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"limit_usd": 1, "limit_tokens": 1}, "limit_usd and limit_tokens are both given"),
    ({}, "limit_usd, limit_tokens or limit_requests is required"),
    *(({"limit_usd": money}, "must be an amount in USD above 0") for money in NO_MONEY),
    ({"limit_tokens": 1.5}, "limit_tokens"), ({"limit_requests": 0}, "limit_requests"),
    ({"limit_usd": 1, "overdraft_tokens": 1}, "overdraft_tokens is not in the unit of the budget's limit"),
    *(({"limit_usd": 1, "timezone": zone}, "is not a time zone") for zone in NO_ZONES),
    ({"limit_usd": 1, "anchor": 29}, "anchor"), ({"limit_usd": 1, "anchor": 0}, "anchor must be 1 to 28"),
    ({"limit_usd": 1, "period": "week", "anchor": 8}, "anchor must be 1 to 7 for the period week"),
    ({"limit_usd": 1, "period": "day", "anchor": 24}, "anchor must be 0 to 23"),
    ({"limit_usd": 1, "period": "hour", "anchor": 1}, "the period hour has none"),
    ({"limit_usd": 1, "period": "year"}, "period"),
    ({"limit_usd": 1, "period": "total", "carry": 0.5}, "no period before"), ({"limit_usd": 1, "carry": 2}, "carry"),
    ({"limit_usd": 1, "match": {"model": ""}}, "model takes a glob of 1 to 256 characters"),
    ({"limit_usd": 1, "match": {"model": "*" * 9}}, "at most 8 wildcards"),
    ({"limit_usd": 1, "match": {"modle": "x"}}, "'modle' is no dimension"),
    ({"limit_usd": 1, "match": {"tag:": "x"}}, "'tag:' is no dimension"), ({"limit_usd": 1, "match": []}, "object"),
    ({"limit_usd": 1, "match": {"model": 5}}, "model takes a glob"),
    ({"limit_usd": 1, "per": "customer"}, "'customer' is no dimension"), ({"limit_usd": 1, "per": 5}, "no dimension"),
    ({"limit_usd": 1, "mode": "loud"}, "mode"), ({"limit_usd": 1, "limit": 5}, "limit is not a field of this request"),
    *(({"limit_usd": 1, "notify_at": parts}, "notify_at") for parts in NO_PARTS),
]  # fmt: skip


@each_row(("fields", "words"), BAD)
async def test_every_wrong_field_gets_one_clear_sentence(world: World, fields: dict[str, Any], words: str) -> None:
    problem = assert_problem(await world.client.call("POST", PATH, {"name": "n", **fields}), 422, "validation_error")
    assert words in problem["detail"]
    assert len(problem["errors"]) == 1
    assert problem["errors"][0]["loc"][0] == "body"
    assert world.store.list() == []


async def test_a_patch_that_does_not_fit_changes_nothing(world: World) -> None:
    made = await world.made(period="month", anchor=28)
    path = f"{PATH}/{made['id']}"
    before = (await world.client.call("GET", path)).json
    for fields in ({"limit_usd": 6, "anchor": 0}, {"period": "week", "anchor": 28}, {"name": "x", "per": "nothing"}):
        assert_problem(await world.client.call("PATCH", path, fields), 422, "validation_error")
    assert (await world.client.call("GET", path)).json == before
    other = (await world.client.call("POST", PATH, {"name": "other", "limit_usd": 1})).json
    assert_problem(await world.client.call("PATCH", f"{PATH}/{other['id']}", {"name": "core"}), 409, "conflict")


async def test_a_budget_that_matches_nothing_today_is_made_with_a_warning(world: World) -> None:
    team = world.teams.create("platform")
    key = world.keys.create(KeyDraft(name="shop")).key
    world.configuration.reload()
    made = await world.made(match={"team": "core", "key": "x*", "model": "claude-*", "provider": "b", "session": "s"})
    assert [words.split(":")[0] for words in made["warnings"]] == [
        "match.team", "match.key", "match.model", "match.provider",
    ]  # fmt: skip
    fits = await world.made(name="fits", match={"team": "platform", "key": "shop", "model": "gpt-*", "provider": "ac*"})
    assert fits["warnings"] == []
    assert fits["match"] == {"team": team.id, "key": key.id, "model": "gpt-*", "provider": "ac*"}
    assert (await world.made(name="env", match={"key": "env-key"}))["match"] == {"key": "env-key"}


async def test_another_limit_holds_until_its_end(world: World) -> None:
    made = await world.made()
    path = f"{PATH}/{made['id']}"
    until = "2099-01-01T00:00:00.000Z"
    put = (await world.client.call("PUT", f"{path}/override", {"amount_usd": 10.5, "until": until})).json
    assert put["override"] == {"amount": 10.5, "until": until}
    [account] = (await world.client.call("GET", f"{path}/accounts")).json["accounts"]
    assert (account["limit"], account["remaining"]) == (10.5, 10.5)
    rows: list[tuple[dict[str, Any], str]] = [
        ({"amount_usd": 1, "until": "1999-01-01T00:00:00Z"}, "in the past"),
        ({"amount_tokens": 1, "until": until}, "not in the unit"),
        ({"until": until}, "amount_usd is required"),
        ({"amount_usd": 1, "until": "tomorrow"}, "must be a date and time with its time zone"),
        ({"amount_usd": 1}, "until is required"),
    ]
    for body, words in rows:
        problem = assert_problem(await world.client.call("PUT", f"{path}/override", body), 422, "validation_error")
        assert words in problem["detail"]
    assert world.sent[-1].budgets[0].override_limit == 10_500_000_000
    assert (await world.client.call("DELETE", f"{path}/override")).status == 204
    assert (await world.client.call("GET", path)).json["override"] is None
    for method, where in (("PUT", "/override"), ("DELETE", "/override"), ("GET", "/accounts"), ("PATCH", "")):
        body = {"amount_usd": 1, "until": until} if method == "PUT" else {}
        assert_problem(await world.client.call(method, UNKNOWN + where, body), 404, "not_found")


def spent(world: World, budget_id: str, amounts: dict[str, int]) -> None:
    stored = world.store.get(budget_id)
    start_ms = stored.period(NOW_MS).start_ms
    for value, nanos in amounts.items():
        refs = [AccountRef(stored.budget.id, value, start_ms)]
        one = record(attempts=[attempt(cost_nanos=nanos, usage=Usage(input_tokens=2, output_tokens=1), accounts=refs)])
        close(one)
        UsageStore(world.database).write([one])


async def test_a_key_sees_what_it_spent_and_its_budgets(world: World) -> None:
    key = world.keys.create(KeyDraft(name="shop", team_id=world.teams.create("core").id)).key
    world.configuration.reload()
    own = await world.made(name="own", per="key")
    await world.made(name="of the team", match={"team": "core"}, per="session")
    await world.made(name="of another", match={"key": "env-key"})
    spent(world, own["id"], {key.id: 2 * 10**9})
    one = record(key_id=key.id, attempts=[attempt(cost_nanos=3, usage=Usage(input_tokens=2, output_tokens=1))])
    close(one)
    UsageStore(world.database).write([one])
    spending = KeySpending(
        UsageReports(world.database), world.store, BudgetSpend(world.database),
        lambda: world.configuration.snapshot, lambda: NOW_MS,
    )  # fmt: skip
    found = {each.name: (each.spent, each.limit, each.remaining) for each in spending.budgets(key.id, key.id)}
    assert found == {"own": (2, 5, 3), "of the team": (None, 5, None)}
    assert [each.name for each in spending.budgets("env-key", None)] == ["own", "of another"]
    await sees_budgets_of_its_customers_only(world, spending)
    month = spending.of_month(key.id)
    assert month is not None
    assert (month.since, month.cost_usd, month.tokens, month.requests) == ("2024-10-01T00:00:00.000Z", 3e-9, 3, 1)


async def sees_budgets_of_its_customers_only(world: World, spending: KeySpending) -> None:
    """A key learns nothing of budgets that its customers, services and tags cannot count in."""
    rows: list[tuple[KeySettings, list[str]]] = [
        (KeySettings(customers=Fixed("ann")), ["a*", "ann", "project"]),
        (KeySettings(customers=("bo*",)), ["a*", "bob", "project"]),
        (KeySettings(services=("s",), tags={"project": "x"}), ["a*", "ann", "bob", "project"]),
        (KeySettings(services=("other",), tags={"project": "y"}), ["a*", "bob"]),
    ]
    made = [
        await world.made(name="a*", match={"user_id": "a*"}, per="user_id"),
        await world.made(name="ann", match={"user_id": "ann", "service": "s"}),
        await world.made(name="bob", match={"user_id": "bob"}),
        await world.made(name="project", match={"tag:project": "x"}),
    ]
    names = {each["name"] for each in made}
    for number, (settings, wanted) in enumerate(rows):
        key = world.keys.create(KeyDraft(name=f"key {number}", settings=settings)).key
        world.configuration.reload()
        found = {each.name: each.spent for each in spending.budgets(key.id, key.id) if each.name in names}
        assert sorted(found) == wanted
        assert (found["a*"] is None) is (settings.customers != Fixed("ann"))


async def test_spend_limits_are_budgets_in_the_vendors_shape(world: World) -> None:
    limits, user = "/v1/organizations/spend_limits", {"type": "user", "user_id": "ann"}
    await world.made(name="other", match={"model": "*"})
    made = (await world.client.call("POST", limits, {"scope": {"type": "organization"}, "amount": "50000"})).json
    assert (made["type"], made["amount"], made["currency"], made["period"]) == (
        "spend_limit", "50000", "USD", "monthly",
    )  # fmt: skip
    own = (await world.client.call("POST", limits, {"scope": user, "amount": "700", "period": "daily"})).json
    again = (await world.client.call("POST", limits, {"scope": user, "amount": "750", "period": "daily"})).json
    assert (again["id"], again["scope"], again["amount"]) == (own["id"], user, "750")
    assert [(each.per, each.match, each.limit, each.period) for each in world.sent[-1].budgets[1:]] == [
        ("user_id", {}, 500 * 10**9, "month"), (None, {"user_id": "ann"}, 7_500_000_000, "day"),
    ]  # fmt: skip
    first = (await world.reader.call("GET", f"{limits}?limit=1")).json
    assert [each["id"] for each in first["data"]] == [made["id"]]
    second = (await world.reader.call("GET", f"{limits}?limit=1&page={first['next_page']}")).json
    assert (second["data"], second["next_page"]) == ([again], None)
    assert (await world.reader.call("GET", f"{limits}/{own['id']}")).json == again
    wrong: list[tuple[str, Any, int, str]] = [
        (limits, {"scope": {"type": "user"}, "amount": "5"}, 400, "scope.user_id is required"),
        (limits, {"scope": {"type": "user", "user_id": "a*"}, "amount": "5"}, 400, "without a *"),
        (limits, {"scope": user, "amount": "0"}, 400, "amount"),
        (limits, {"scope": user, "amount": None}, 400, "amount"),
        (limits, {"scope": {"type": "workspace"}, "amount": "5"}, 400, "scope.type"),
    ]
    for path, body, status, words in wrong:
        refused = await world.client.call("POST", path, body)
        assert (refused.status, refused.json["error"]["type"]) == (status, "invalid_request_error")
        assert words in refused.json["error"]["message"]
    assert (await world.reader.call("POST", limits, {})).status == 403
    assert (await client_of([], "call").call("GET", limits)).json["error"]["type"] == "permission_error"
    assert (await world.client.call("DELETE", f"{limits}/{own['id']}")).json["id"] == own["id"]
    for unknown in (own["id"], "spl_x", "x"):
        missing = await world.client.call("GET", f"{limits}/{unknown}")
        assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")


async def test_spend_limits_of_any_two_customers_have_names_of_their_own(world: World) -> None:
    users = ["each customer", "a" * 255 + "b", "a" * 255 + "c", "line\nbreak"]
    scopes = [{"type": "organization"}, *({"type": "user", "user_id": user} for user in users)]
    for scope in scopes:
        made = await world.client.call("POST", "/v1/organizations/spend_limits", {"scope": scope, "amount": "5"})
        assert (made.status, made.json["scope"]) == (200, scope)
    names = [each.name for each in world.sent[-1].budgets]
    assert len(set(names)) == len(scopes)
    assert max(map(len, names)) == 100
    assert all(map(str.isprintable, names))


async def pages(call: Callable[[str], Any], path: str) -> list[dict[str, Any]]:
    found, cursor = [], ""
    while True:
        response: Response = await call(path + cursor)
        assert response.status == 200, response.body
        found.append(response.json)
        if response.json["next_cursor"] is None:
            return found
        cursor = f"&cursor={response.json['next_cursor']}"


async def test_accounts_come_in_pages_those_that_spent_most_first(world: World) -> None:
    made = await world.made(per="key", timezone="Europe/Berlin")
    key = world.keys.create(KeyDraft(name="shop")).key
    spent(world, made["id"], {"b": 10**9, key.id: 6 * 10**9, "a": 10**9, "ü\n": 1, "c": 10**9})
    path = f"{PATH}/{made['id']}/accounts"

    async def call(url: str) -> Response:
        return await world.reader.call("GET", url)

    found = await pages(call, f"{path}?limit=2")
    assert [[each["value"] for each in page["accounts"]] for page in found] == [[key.id, "a"], ["b", "c"], ["ü\n"]]
    first = found[0]["accounts"][0]
    assert first == {
        "value": key.id, "name": "shop", "spent": 6, "limit": 5, "remaining": 0,
        "spent_usd": 6, "spent_tokens": 3, "spent_requests": 1, "notified": 0, "leased": [], "held": 0,
    }  # fmt: skip
    assert found[1]["accounts"][0]["held"] == 2e-9
    assert found[1]["accounts"][0]["leased"] == [{"host": "a host", "amount": 3e-9}]
    assert (found[0]["unit"], found[0]["period"]) == ("usd", "month")
    assert (found[0]["period_start"], found[0]["resets_at"]) == ("2024-09-30T22:00:00.000Z", "2024-10-31T23:00:00.000Z")
    [own] = (await call(f"{path}?value=a")).json["accounts"]
    assert (own["spent"], own["remaining"]) == (1, 4)
    [new] = (await call(f"{path}?value=nobody")).json["accounts"]
    assert (new["spent"], new["remaining"]) == (0, 5)
    for wrong in ("cursor=x", f"cursor={found[0]['next_cursor']}&value=a", "limit=0", "value="):
        assert_problem(await call(f"{path}?{wrong}"), 422, "validation_error")
