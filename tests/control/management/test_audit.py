"""Audit trail over the API: an entry for every management write, who made it, and failed authentications."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from llm_gateway.store.audit_check import verify
from llm_gateway.store.audit_head import HeadFile
from llm_gateway.store.database import Database
from tests.application.driver import Client, Response, assert_problem
from tests.application.fixtures import Start
from tests.dashboard.browser import Browser
from tests.in_one_loop import GatewayInOneLoop
from tests.upstream import MockUpstream

AUDIT, FAILED = "/api/v1/audit", "/api/v1/audit/failed-authentications"
KEYS = "ann:key-of-ann,reader:key-of-the-reader:read"
FROM = {"x-forwarded-for": "6.6.6.6, 203.0.113.7, 127.0.0.1"}
ASK = {"user_id": "alice", "service": "shop", "prompt": "Hello"}


OVERRIDE = {"amount_usd": 9, "until": "2099-01-01T00:00:00Z"}
SPEND_LIMITS = "/v1/organizations/spend_limits"
SPEND_LIMIT = {"scope": {"type": "user", "user_id": "ann"}, "amount": "75000"}
TARGETS = "/api/v1/alert-targets"
TARGET = {"name": "operations", "kind": "slack", "url": "http://127.0.0.1:9/services/sk-token-in-a-url"}
PERSON = {"name": "eve", "password": "correct horse battery"}
GONE = "01890000-0000-7000-8000-000000000001"
DECLARED = {"document": {"teams": [{"name": "one"}, {"name": "two"}]}}


class Write(NamedTuple):
    """A write, the action of its entry, and the field of the world's ids that its response fills."""

    method: str
    path: str
    body: object
    action: str
    filled: str = ""


def writes(vendor: str) -> list[Write]:
    """Return one request for each way to change something, in an order in which all of them succeed."""
    provider = {"name": "acme", "display_name": "Acme", "api_key": "sk-secret", "models": ["m"], "base_url": vendor}
    override = {"user_id": "bob", "provider_name": "acme", "model_name": "m"}
    noun = "/api/v1/providers/{provider_id}"
    return [
        Write("POST", "/api/v1/providers", provider, "provider.create", "provider_id"),
        Write("PATCH", noun, {"priority": 7, "api_key": "sk-other-secret"}, "provider.update"),
        Write("POST", f"{noun}/test", b"", "provider.test"),
        Write("POST", "/api/v1/overrides", override, "override.create", "override_id"),
        Write("DELETE", "/api/v1/overrides/{override_id}", b"", "override.delete"),
        Write("POST", "/api/v1/configuration", DECLARED, "team.create"),
        Write("POST", "/api/v1/teams", {"name": "core"}, "team.create", "team_id"),
        Write("PATCH", "/api/v1/teams/{team_id}", {"description": "d"}, "team.update"),
        Write("POST", "/api/v1/budgets", {"name": "all", "limit_usd": 5}, "budget.create", "budget_id"),
        Write("PATCH", "/api/v1/budgets/{budget_id}", {"limit_usd": 6}, "budget.update"),
        Write("PUT", "/api/v1/budgets/{budget_id}/override", OVERRIDE, "budget.update"),
        Write("DELETE", "/api/v1/budgets/{budget_id}/override", b"", "budget.update"),
        Write("DELETE", "/api/v1/budgets/{budget_id}", b"", "budget.delete"),
        Write("POST", TARGETS, TARGET, "alert_target.create", "alert_target_id"),
        Write("PATCH", f"{TARGETS}/{{alert_target_id}}", {"is_enabled": False}, "alert_target.update"),
        Write("POST", f"{TARGETS}/{{alert_target_id}}/test", b"", "alert_target.test"),
        Write("DELETE", f"{TARGETS}/{{alert_target_id}}", b"", "alert_target.delete"),
        Write("POST", SPEND_LIMITS, SPEND_LIMIT, "budget.create", "spend_limit_id"),
        Write("DELETE", f"{SPEND_LIMITS}/{{spend_limit_id}}", b"", "budget.delete"),
        Write("POST", "/api/v1/keys", {"name": "shop"}, "key.create", "key_id"),
        Write("PATCH", "/api/v1/keys/{key_id}", {"rpm": 5}, "key.update"),
        Write("POST", "/api/v1/keys/{key_id}/rotate", {"overlap_s": 5}, "key.rotate"),
        Write("DELETE", "/api/v1/keys/{key_id}", b"", "key.delete"),
        Write("DELETE", "/api/v1/teams/{team_id}", b"", "team.delete"),
        Write("POST", "/api/v1/people", PERSON, "person.create", "person_id"),
        Write("PATCH", "/api/v1/people/{person_id}", {"role": "admin"}, "person.update"),
        Write("DELETE", "/api/v1/people/{person_id}", b"", "person.delete"),
        Write("DELETE", "/api/v1/hosts/{host_id}", b"", "host.delete"),
        Write("DELETE", "/api/v1/sessions/{session_id}", b"", "session.end"),
        Write("DELETE", "/api/v1/sessions", b"", "session.end"),
        Write("DELETE", "/api/v1/usage/customers/{user_id:label}", b"", "customer.erased"),
        Write("DELETE", noun, b"", "provider.delete"),
    ]


def changing_routes(app: GatewayInOneLoop) -> set[tuple[str, str]]:
    routes = cast(Any, app.control)._entry._management._routes  # behind WithDashboard
    return {(method, route.path) for route in routes for method in route.methods if method not in ("GET", "HEAD")}


async def newest(client: Client) -> Any:
    entries = (await client.call("GET", f"{AUDIT}?limit=1")).json["entries"]
    return entries[0] if entries else None


def add_host_that_is_gone(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "gateway.db")) as database, database:
        database.execute("INSERT INTO hosts VALUES (?, 'old', '1', '0016', 'r', 'p', '{}', 1, 1)", (GONE,))


async def test_every_management_write_leaves_an_entry_of_who_made_it(
    start: Start, mock: MockUpstream, data_dir: Path
) -> None:
    """A new route that changes something fails here until it has a row above, and an entry."""
    async with start(service_keys=KEYS, trusted_proxies="127.0.0.1") as app:
        ann, texts = Client(app, "key-of-ann"), ""
        steps = writes(mock.base_url)
        assert {(step.method, step.path) for step in steps} == changing_routes(app)
        for _ in range(2):
            assert (await Browser(app).sign_in("key-of-ann")).status == 303
        session = (await ann.call("GET", "/api/v1/sessions")).json["sessions"][0]["id"]
        ids, number = {"user_id:label": "alice", "session_id": session, "host_id": GONE}, 0
        add_host_that_is_gone(data_dir)
        for step in steps:
            path = step.path
            for name, value in ids.items():
                path = path.replace(f"{{{name}}}", value)
            if step.action == "customer.erased":
                assert (await ann.call("POST", "/api/v1/generate", ASK)).status == 200
            response = await ann.call(step.method, path, step.body, headers=FROM)
            assert response.status < 300, response.body
            if step.filled:
                ids[step.filled] = response.json["id"]
            created = f"{path}/{response.json['id']}" if response.status == 201 else None
            assert response.headers.get("location") == created, step
            entry = await newest(ann)
            assert (entry["action"], entry["number"] > number) == (step.action, True), step
            assert (entry["actor"]["name"], entry["actor"]["address"]) == ("ann", "203.0.113.7")
            assert entry["actor"]["request_id"] == response.headers["x-request-id"]
            assert entry["resource"]["type"] == step.action.partition(".")[0]
            assert entry["before"] is not None or entry["after"] is not None
            number, texts = entry["number"], texts + str(entry) + secret_of(response)
        await check_reading(app, ann, number)
        await check_failures(app, ann)
        made = [word for word in texts.split() if word.startswith("gw_")]
        check_stored(app, ["sk-secret", "sk-other-secret", "sk-token-in-a-url", *made])


def secret_of(response: Response) -> str:
    """Return the secret of a key that a response shows, apart from other words."""
    return f" {response.json.get('secret', '')} " if response.body else ""


async def check_reading(app: GatewayInOneLoop, ann: Client, number: int) -> None:
    """Pages, filters, refused changes, the scope."""
    assert (await ann.call("POST", "/api/v1/teams", {"nme": "x"})).status == 422
    assert (await newest(ann))["number"] == number
    first = (await ann.call("GET", f"{AUDIT}?limit=10")).json
    rest = (await ann.call("GET", f"{AUDIT}?limit=30&cursor={first['next_cursor']}")).json
    numbers = [entry["number"] for page in (first, rest) for entry in page["entries"]]
    assert (numbers, rest["next_cursor"]) == (list(range(number, 0, -1)), None)
    found = (await ann.call("GET", f"{AUDIT}?resource=team&actor=ann&action=team.update&from=2026-01-01")).json
    [updated] = found["entries"]
    assert (updated["before"], updated["after"]) == ({"description": ""}, {"description": "d"})
    assert (await ann.call("GET", f"{AUDIT}?to=2026-01-01")).json["entries"] == []
    for query, words in (
        ("from=2026-02-01&to=2026-01-01", "from must be before to"),
        ("from=yesterday", "from must be a date"),
        (f"cursor={first['next_cursor']}&actor=ann", "cursor belongs to a query with other parameters"),
        ("cursor=nonsense", "cursor is not one that this API returned"),
        ("limit=0", "limit"),
        (f"actor={quote('a' * 201)}", "actor"),
        ("who=ann", "who is not a query parameter"),
    ):
        problem = assert_problem(await ann.call("GET", f"{AUDIT}?{query}"), 422, "validation_error")
        assert words in problem["detail"], query
    for path in (AUDIT, FAILED):
        problem = assert_problem(await Client(app, "key-of-the-reader").call("GET", path), 403, "forbidden")
        assert "lacks the scope 'admin'" in problem["detail"]


async def check_failures(app: GatewayInOneLoop, ann: Client) -> None:
    """Failed authentications are counted by address, and appear nowhere else."""
    assert (await ann.call("GET", FAILED)).json == {"addresses": [], "other": 0}
    for key, headers in ((None, {}), ("wrong", {}), ("wrong", FROM)):
        assert (await Client(app, key).call("GET", "/api/v1/providers", headers=headers)).status == 401
    answer = (await ann.call("GET", FAILED)).json
    assert [(each["address"], each["count"]) for each in answer["addresses"]] == [("127.0.0.1", 2), ("203.0.113.7", 1)]
    assert b"failed_authentications" not in (await ann.call("GET", "/metrics")).body


def check_stored(app: GatewayInOneLoop, secrets: list[str]) -> None:
    """The stored chain is whole and has no secret."""
    directory = app.settings.data_dir
    database = Database.open(app.settings.url)
    [report] = verify(database, HeadFile(directory).read())
    assert (report.problems, report.gaps) == ([], [])
    with database.read() as connection:
        text = repr(connection.exec_driver_sql("SELECT * FROM audit_entries").all())
    database.close()
    assert len(secrets) == 5
    assert not [secret for secret in secrets if secret in text]
