"""Pages of the dashboard: each screen, forms that keep what was typed, and labels that never run."""

from __future__ import annotations

import gzip
import hashlib
import re
import tomllib
from html import unescape
from importlib import resources

import pytest

from llm_gateway.dashboard.screens import SCREENS
from llm_gateway.dashboard.static_files import StaticFiles
from tests.application.driver import Client, Response
from tests.control.management.test_providers import created
from tests.dashboard.browser import Browser, text_of
from tests.upstream import MockUpstream

PAGES = [
    f"/ui{path}" for path, handlers in SCREENS.items() if "GET" in handlers and "{" not in path and ".csv" not in path
]
CANARY = """<script>alert(1)</script>'"><img src=x onerror=alert(2)>"""
MOST_TRANSFERRED = 150_000
MOST_SEARCHES = 50
SOFT = {"mode": "soft", "unpriced": "allow"}
"""Fields of a budget that refuses nothing: the application of these tests has no memory of the accounts' amounts."""
ASK = {"user_id": CANARY, "service": CANARY, "task_type": CANARY, "prompt": "Hello"}


@pytest.fixture
async def browser(client: Client) -> Browser:
    browser = Browser(client.app)
    assert (await browser.sign_in()).status == 303
    return browser


def assert_safe(response: Response) -> None:
    """Check that a page needs nothing that its Content-Security-Policy forbids, and has no canary as it is."""
    page = response.body.decode()
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]* src=)", page)
    for tag in re.findall(r"<[a-z][^<>]*>", page):
        assert not re.search(r"\s(style|on\w+)\s*=", re.sub(r'"[^"]*"', '""', tag)), tag
    assert "<script>alert" not in page
    assert "<img" not in page


async def text_with(browser: Browser, path: str, words: str) -> str:
    """Return the texts of a table's pages until one has these words: a search ends after 200 ms, and goes on there."""
    address, texts = path, ""
    for _ in range(MOST_SEARCHES):
        response = await browser.get(address, {"hx-request": "true"})
        older = re.search(r'href="([^"]*)">Older', response.body.decode())
        texts = texts + text_of(response) if address != path else text_of(response)
        if words in texts:
            return texts
        address = unescape(older[1]) if older else path
    raise AssertionError(texts)


async def test_every_screen_of_an_empty_gateway(browser: Browser) -> None:
    for path in PAGES:
        response = await browser.get(path)
        assert response.status == 200, (path, text_of(response))
        assert_safe(response)
    overview = text_of(await browser.get("/ui"))
    assert "Get started" in overview
    assert "database ok, journal ok" in overview


async def test_labels_of_requests_keys_and_overrides_never_run(
    browser: Browser, client: Client, mock: MockUpstream
) -> None:
    await created(client, name="acme", display_name=CANARY, base_url=mock.base_url, models=["m", CANARY])
    for path, body in (
        ("/api/v1/teams", {"name": CANARY, "description": CANARY}),
        ("/api/v1/keys", {"name": "shop", "owner": CANARY, "models": [CANARY], "tags": {"project": CANARY[:20]}}),
        ("/api/v1/budgets", {"name": CANARY, "match": {"service": "*<*"}, "per": "user_id", "limit_usd": 5, **SOFT}),
        ("/api/v1/overrides", {"user_id": CANARY, "provider_name": "acme", "model_name": CANARY}),
    ):
        assert (await client.call("POST", path, body)).status == 201, path
    headers = {"x-request-id": CANARY.replace(" ", "/"), "x-session-id": CANARY, "user-agent": CANARY}
    assert (await client.call("POST", "/api/v1/generate", ASK, headers=headers)).status == 200
    shown = 0
    await text_with(browser, "/ui/requests", "alert(1)")
    records = (await client.call("GET", "/api/v1/usage/records")).json["records"]
    keys = (await client.call("GET", "/api/v1/keys")).json["keys"]
    provider = (await client.call("GET", "/api/v1/providers")).json[0]
    details = [
        f"/ui/playground/{records[0]['id']}",
        f"/ui/requests/{records[0]['id']}",
        f"/ui/providers/{provider['id']}",
    ]
    [budget] = (await client.call("GET", "/api/v1/budgets")).json["budgets"]
    details.append(f"/ui/budgets/{budget['id']}")
    details += [f"/ui/keys/{key['id']}" for key in keys if key["source"] == "api"]
    groups = [f"/ui/spend?group={first}&then={then}" for first in ("service", "task_type") for then in ("", "model")]
    for path in [*PAGES, *details, *groups]:
        for fragment in ({}, {"hx-request": "true"}):
            response = await browser.get(path, fragment)
            assert response.status == 200, (path, text_of(response))
            assert_safe(response)
            shown += "&lt;script&gt;alert(1)" in response.body.decode()
    assert shown > 14


async def test_a_form_that_is_refused_keeps_what_was_typed_but_the_key(browser: Browser) -> None:
    form = {"name": "acme", "display_name": "Acme", "api_key": "sk-secret", "models": "", "priority": "ten"}
    response = await browser.post("/ui/providers", form)
    page = response.body.decode()
    assert response.status == 422
    assert 'value="Acme"' in page
    assert "sk-secret" not in page
    assert "priority" in text_of(response)
    response = await browser.post("/ui/keys", {"name": "shop", "scopes": "call", "rpm": "-1", "owner": "ann"})
    assert response.status == 422
    assert 'value="ann"' in response.body.decode()
    assert (await browser.get("/ui/keys")).body.decode().count("shop") == 0


async def test_a_keys_secret_is_shown_once_and_the_key_works(
    browser: Browser, client: Client, mock: MockUpstream
) -> None:
    await created(client, base_url=mock.base_url, models=["m"])
    response = await browser.post("/ui/keys", {"name": "shop", "scopes": "call", "rpm": "5", "models": "m, n*"})
    assert response.status == 201
    secret = re.search(r"<code data-secret>(gw_\w+)</code>", response.body.decode())
    assert secret is not None
    assert_safe(response)
    own = Client(client.app, secret[1])
    assert (await own.call("POST", "/api/v1/generate", {**ASK, "model": "m"})).status == 200
    key = (await client.call("GET", "/api/v1/keys?name=shop")).json["keys"][0]
    assert (key["rpm"], key["models"]) == (5, ["m", "n*"])
    page = await browser.get(f"/ui/keys/{key['id']}")
    assert secret[1] not in page.body.decode()
    form = {"name": "shop", "scopes": "call", "rpm": "", "models": "m", "expires_at": "2031-01-02T03:04"}
    assert (await browser.post(f"/ui/keys/{key['id']}", form)).status == 303
    key = (await client.call("GET", f"/api/v1/keys/{key['id']}")).json
    assert (key["rpm"], key["models"], key["expires_at"]) == (None, ["m"], "2031-01-02T02:04:00.000Z")  # Berlin's clock
    assert (await browser.post(f"/ui/keys/{key['id']}", {"name": "shop", "services": " = batch "})).status == 303
    assert 'name="services" value="= batch"' in (await browser.get(f"/ui/keys/{key['id']}")).body.decode()
    assert (await client.call("GET", f"/api/v1/keys/{key['id']}")).json["services"] == {"fixed": "batch"}
    form = {"name": "shop", "services": ""}
    assert (await browser.post(f"/ui/keys/{key['id']}", form)).status == 303
    await assert_parent_effort_and_tags(browser, client, key["id"])
    rotated = await browser.post(f"/ui/keys/{key['id']}/rotate", {"overlap_hours": "0"})
    assert "data-secret" in rotated.body.decode()
    assert (await own.call("POST", "/api/v1/generate", ASK)).status == 401
    assert (await browser.post(f"/ui/keys/{key['id']}/disable", {"disabled": "true"})).status == 303
    assert "disabled" in text_of(await browser.get("/ui/keys"))
    assert (await browser.post(f"/ui/keys/{key['id']}/remove")).status == 303
    assert (await browser.get(f"/ui/keys/{key['id']}")).status == 404


async def assert_parent_effort_and_tags(browser: Browser, client: Client, parent: str) -> None:
    """Make a key below the key `shop` of this id in the form, and take its parent and tags away again."""
    form = {"name": "nightly", "parent": "shop", "max_reasoning_effort": "low", "tags": "project=a, stage = b"}
    assert (await browser.post("/ui/keys", form)).status == 201
    key = (await client.call("GET", "/api/v1/keys?name=nightly")).json["keys"][0]
    assert (key["parent_id"], key["max_reasoning_effort"]) == (parent, "low")
    assert key["tags"] == {"project": "a", "stage": "b"}
    page = (await browser.get(f"/ui/keys/{key['id']}")).body.decode()
    for shown in (f'href="/ui/keys/{parent}">shop<', "selected>low<", 'value="project=a, stage=b"', 'value="shop"'):
        assert shown in page, shown
    for field, value, words in (
        ("parent", "nobody", "no key named"),
        ("tags", "x", "name=value"),
        ("tags", "a b=c", "tags"),
    ):
        refused = await browser.post(f"/ui/keys/{key['id']}", {field: value})
        assert (refused.status, words in text_of(refused)) == (422, True), text_of(refused)
    assert (await browser.post(f"/ui/keys/{key['id']}", {"parent": "", "tags": ""})).status == 303
    key = (await client.call("GET", f"/api/v1/keys/{key['id']}")).json
    assert (key["parent_id"], key["tags"], key["max_reasoning_effort"]) == (None, {}, "low")


async def test_a_provider_is_added_tested_changed_and_removed(
    browser: Browser, client: Client, mock: MockUpstream
) -> None:
    form = {"name": "acme", "api_key": "sk-1", "models": "m\nn", "base_url": mock.base_url, "priority": "20"}
    response = await browser.post("/ui/providers", form)
    assert response.status == 201, text_of(response)
    assert "The test call" in text_of(response)
    path = f"/ui/providers/{(await client.call('GET', '/api/v1/providers')).json[0]['id']}"
    assert "The test call" in text_of(await browser.post(f"{path}/test"))
    assert "No other enabled provider serves m, n: requests for that fail." in text_of(await browser.get(path))
    other = {
        "name": "other",
        "display_name": "Other",
        "models": ["x"],
        "model_aliases": {"m*": "x"},
        "base_url": mock.base_url,
    }
    await created(client, **other)
    assert "No other enabled provider serves n: requests" in text_of(await browser.get(path))
    assert (await browser.post(f"{path}/enable", {"enabled": "false"})).status == 303
    assert (await browser.post(path, {"display_name": "Acme", "models": "n", "priority": "3"})).status == 303
    provider = (await client.call("GET", f"/api/v1/providers/{path.rpartition('/')[2]}")).json
    assert (provider["display_name"], provider["models"], provider["priority"]) == ("Acme", ["n"], 3)
    assert (provider["is_enabled"], provider["base_url"]) == (False, mock.base_url)
    priced = {"display_name": "Acme", "models": "n", "prices": "n: input 1.5, output 2", "model_aliases": "x* = n"}
    assert (await browser.post(path, priced)).status == 303
    page = await browser.get(path)
    assert "n: input 1.5, output 2" in text_of(page)
    provider = (await client.call("GET", f"/api/v1/providers/{path.rpartition('/')[2]}")).json
    assert (provider["prices"], provider["model_aliases"]) == ({"n": {"input": 1.5, "output": 2.0}}, {"x*": "n"})
    for prices, words in (("n: 1.5", "cannot be read"), ("n: inptu 1, output 2", "kinds")):
        refused = await browser.post(path, {**priced, "prices": prices})
        assert (refused.status, words in text_of(refused), prices in text_of(refused)) == (422, True, True), prices
    assert (await browser.post(path, {**priced, "prices": "", "model_aliases": ""})).status == 303
    provider = (await client.call("GET", f"/api/v1/providers/{path.rpartition('/')[2]}")).json
    assert (provider["prices"], provider["model_aliases"]) == (None, None)
    assert (await browser.post(f"{path}/remove")).status == 303
    assert "Acme" not in text_of(await browser.get("/ui/providers"))


async def test_the_table_of_requests_follows_its_address(browser: Browser, client: Client, mock: MockUpstream) -> None:
    await created(client, base_url=mock.base_url, models=["m"])
    for number in range(3):
        body = {"user_id": f"customer-{number}", "service": "s", "prompt": f"Hello {number}"}
        assert (await client.call("POST", "/api/v1/generate", body)).status == 200
    table = await text_with(browser, "/ui/requests?period=today", "customer-0")
    assert all(f"customer-{number}" in table for number in range(3))
    filtered = await text_with(browser, "/ui/requests?user_id=customer-1", "customer-1")
    assert "customer-2" not in filtered
    assert "<html" not in filtered
    wrong = await browser.get("/ui/requests?outcome=odd")
    assert wrong.status == 422
    assert "outcome" in text_of(wrong)
    wrong = await browser.get("/ui/spend?period=custom&from=2026-13-01&to=2026-01-01")
    assert wrong.status == 422
    assert (await browser.get("/ui/requests/no-such-id")).status == 404
    await assert_keys_and_teams_are_named(browser, client)


async def assert_keys_and_teams_are_named(browser: Browser, client: Client) -> None:
    """A request shows its key and team by their names, and is found by them."""
    team = (await client.call("POST", "/api/v1/teams", {"name": "core"})).json["id"]
    key = (await client.call("POST", "/api/v1/keys", {"name": "shop", "team_id": team})).json
    body = {"user_id": "of-shop", "service": "s", "prompt": "Hello"}
    headers = {"x-session-id": "thread 7"}
    asked = await Client(client.app, key["secret"]).call("POST", "/api/v1/generate", body, headers=headers)
    assert asked.status == 200
    for query, words, others in (
        ("key=shop", "of-shop", 0),
        ("team=core", "of-shop", 0),
        (f"key={key['id']}", "of-shop", 0),
        ("key=dev", "customer-0", 3),
        ("key=other", "No requests match", 0),
    ):
        table = await text_with(browser, f"/ui/requests?{query}", words)
        assert table.count("customer-") == others, query
    record = (await client.call("GET", f"/api/v1/usage/records?key={key['id']}")).json["records"][0]
    page = unescape((await browser.get(f"/ui/requests/{record['id']}")).body.decode())
    assert f'href="/ui/requests?key={key["id"]}">shop<' in page
    assert f'href="/ui/requests?team={team}">core<' in page
    assert 'href="/ui/routing?user_id=of-shop&service=s&session=thread%207&as=shop#explain"' in page
    routing = (await browser.get("/ui/routing?user_id=of-shop&service=s&session=thread%207&as=shop")).body.decode()
    for name, value in (("user_id", "of-shop"), ("service", "s"), ("session", "thread 7"), ("as", "shop")):
        assert re.search(f'<input name="{name}"[^>]* value="{value}"', routing), name


async def test_reports_are_files_to_save(browser: Browser, client: Client, mock: MockUpstream) -> None:
    await created(client, base_url=mock.base_url, models=["m"])
    body = {"user_id": "ann", "service": "s", "prompt": "Hello"}
    assert (await client.call("POST", "/api/v1/generate", body)).status == 200
    for path, words in (
        ("/ui/spend/breakdown.csv?group=service&then=model&period=today", "service,model,"),
        ("/ui/spend/export.csv?format=csv&period=today", "ann"),
        ("/ui/spend/export.csv?format=focus&period=today", "BilledCost"),
    ):
        response = await browser.get(path)
        assert response.headers["content-type"].startswith("text/csv"), path
        assert response.headers["content-disposition"].startswith("attachment"), path
        assert words in response.body.decode(), path


async def test_numbers_and_names_lead_on(browser: Browser, client: Client, mock: MockUpstream) -> None:
    await created(client, base_url=mock.base_url, models=["m"])
    for service in ("search", "shop"):
        body = {"user_id": "ann", "service": service, "prompt": service}
        assert (await client.call("POST", "/api/v1/generate", body)).status == 200
    page = unescape((await browser.get("/ui/spend?group=service&period=today")).body.decode())
    assert 'href="/ui/spend?period=today&service=shop&group=model">shop' in page
    assert 'href="/ui/requests?service=shop&period=today">1' in page
    assert "cost_status=unpriced" in page
    narrow = await browser.get("/ui/spend?period=today&service=shop&group=model")
    assert re.search(r"Only service shop × .* m .* Total of the period .* 1 ", text_of(narrow))
    page = unescape(narrow.body.decode())
    assert 'href="/ui/spend?period=today&group=model" aria-label="Without this filter"' in page
    assert 'href="/ui/spend?period=today&service=shop&model=m&group=key">m' in page
    assert "search" not in await text_with(browser, "/ui/requests?service=shop&cost_status=unpriced", "shop")
    link = re.search(r'href="(/ui/spend/export.csv[^"]*service=shop[^"]*)"', page)
    assert link is not None
    lines = (await browser.get(link[1])).body.decode().splitlines()
    assert (len(lines), "shop" in lines[1]) == (2, True)
    page = unescape((await browser.get("/ui/spend?period=today&group=customer")).body.decode())
    assert 'href="/ui/requests?user_id=ann&period=today">ann' in page


async def test_a_form_that_is_too_large_is_refused(browser: Browser) -> None:
    response = await browser.post("/ui/teams", {"name": "x" * 300_000})
    assert response.status == 413
    assert "send less" in text_of(response)


async def test_files_are_small_cached_for_good_and_compressed(client: Client) -> None:
    files, browser = StaticFiles(), Browser(client.app)
    assert files.transferred_bytes() < MOST_TRANSFERRED
    for name in files.names():
        plain = await browser.get(f"/ui/static/{name}?{files.version(name)}")
        packed = await browser.get(f"/ui/static/{name}", {"accept-encoding": "gzip"})
        assert gzip.decompress(packed.body) == plain.body
        assert "immutable" in plain.headers["cache-control"]
    assert (await browser.get("/ui/static/../page.py")).status == 404
    assert (await browser.get("/ui/static/no.css")).status == 404


def test_each_file_of_others_is_in_the_list_and_unchanged() -> None:
    folder = resources.files("llm_gateway.dashboard").joinpath("static")
    listed = tomllib.loads(folder.joinpath("vendored.toml").read_text("utf-8"))
    own = {"dashboard.css", "dashboard.js", "keys.js", "playground.js", "shortcuts.js"}
    assert {*listed} == {*StaticFiles().names()} - own
    for name, entry in listed.items():
        assert hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() == entry["sha256"], name
