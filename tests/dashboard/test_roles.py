"""Rights of each role: every page and every action against every role, of keys and of people."""

from __future__ import annotations

import re

from llm_gateway.dashboard.screens import SCREENS
from tests.application.driver import Client
from tests.control.management.test_providers import created
from tests.dashboard.browser import PASSWORD, Browser, key_with, person, text_of
from tests.upstream import MockUpstream

PAGES = {path for path, handlers in SCREENS.items() if "GET" in handlers}
ACTIONS = {path for path, handlers in SCREENS.items() if "POST" in handlers}
FOR_ADMINS = {"/audit", "/people", "/people/{id}"}
OF_ITS_OWN = {
    "", "/", "/me", "/requests", "/requests/{id}", "/spend", "/spend/breakdown.csv", "/spend/export.csv", "/playground",
    "/playground/{id}", "/sessions",
}  # fmt: skip
"""Pages of who sees its own usage only."""
FOR_ALL = {"/sessions/{id}/end", "/sessions/others/end", "/sessions/password"}
"""Actions on one's own sessions and password, which nobody can be refused."""
ID = "01a20753-74c1-7db8-b500-c26af31668e9"
ROLES = {"viewer": PAGES - FOR_ADMINS, "own": OF_ITS_OWN, "admin": PAGES}
ASK = {"service": "shop", "prompt": "Hello"}


async def browsers(client: Client) -> list[tuple[str, Browser]]:
    """Return a browser for each role of a key and of a person."""
    made = []
    for role, scope in (("viewer", "read"), ("own", "own"), ("admin", "admin")):
        of_key, of_person = Browser(client.app), Browser(client.app)
        assert (await of_key.sign_in(await key_with(client, scope))).status == 303
        await person(client, role, role=role, **({"customer": "ann"} if role == "own" else {}))
        assert (await of_person.sign_in_as(role, PASSWORD)).status == 303
        made += [(role, of_key), (role, of_person)]
    return made


async def test_every_page_and_action_against_each_role(client: Client) -> None:
    """Whoever lacks the right gets a 403 that names the scope, not an empty page, and sees no control to write."""
    assert {*ROLES} == {"viewer", "own", "admin"}
    for role, browser in await browsers(client):
        for path in sorted(PAGES):
            response = await browser.get(f"/ui{path.replace('{id}', ID)}")
            text, where = text_of(response), (role, path)
            if path not in ROLES[role]:
                assert (response.status, " lacks the scope" in text) == (403, True), (*where, text)
                continue
            expected = 204 if path == "/playground/{id}" else 404 if "{id}" in path else 200
            assert response.status == expected, (*where, text)
            forms = set(re.findall(r'method="post" action="/ui([^"]*)"', response.body.decode()))
            if role != "admin":
                assert {each for each in forms if not each.startswith("/sessions/")} <= {"/sign-out"}, where
            for shown in re.findall(r'<a href="/ui([^"?#]*)["#?]', response.body.decode()):
                assert re.sub(r"[0-9a-f-]{36}", "{id}", shown) in ROLES[role], (*where, shown)
        for path in sorted(ACTIONS - {"/sessions/others/end"}):
            response = await browser.post(f"/ui{path.replace('{id}', ID)}")
            text, where = text_of(response), (role, path)
            if role == "admin" or path in FOR_ALL:
                assert response.status not in (401, 403), (*where, text)
            else:
                assert response.status == 403, (*where, text)
                assert "lacks the scope 'admin'" in text or "lacks the scope 'read'" in text, (*where, text)
        assert (await browser.post("/ui/sessions/others/end")).status == 303
        assert (await browser.get("/ui")).status == 200, role


async def test_a_person_with_own_sees_the_numbers_of_its_team_and_customer_only(
    client: Client, mock: MockUpstream
) -> None:
    await created(client, base_url=mock.base_url, models=["m"])
    team = (await client.call("POST", "/api/v1/teams", {"name": "core"})).json["id"]
    made = await client.call("POST", "/api/v1/keys", {"name": "core", "team_id": team})
    core, ids = Client(client.app, made.json["secret"]), {}
    for caller, customer, prompt in (
        (client, "ann", "1"),
        (client, "bob", "2"),
        (core, "ann", "3"),
        (core, "bob", "4"),
    ):
        response = await caller.call("POST", "/api/v1/generate", {**ASK, "user_id": customer, "prompt": prompt})
        assert response.status == 200, response.body
        ids[prompt] = response.headers["x-request-id"]
    for name, bounds, seen in (
        ("of-customer", {"customer": "ann"}, {"1", "3"}),
        ("of-team", {"team_id": team}, {"3", "4"}),
        ("of-both", {"customer": "ann", "team_id": team}, {"3"}),
    ):
        await person(client, name, role="own", **bounds)
        browser = Browser(client.app)
        assert (await browser.sign_in_as(name, PASSWORD)).status == 303
        for prompt, request_id in ids.items():
            response = await browser.get(f"/ui/requests/{request_id}")
            assert response.status == (200 if prompt in seen else 404), (name, prompt)
        export = await browser.get("/ui/spend/export.csv?period=today")
        assert len(export.body.decode().strip().splitlines()) == 1 + len(seen), name
        response = await browser.get("/ui/spend/breakdown.csv?period=today&group=customer")
        assert "bob" not in response.body.decode() or "customer" not in bounds, name
        if "customer" in bounds:
            refused = await browser.get("/ui/requests?user_id=bob")
            assert (refused.status, "user_id=ann" in text_of(refused)) == (403, True), name
    assert (await client.call("DELETE", f"/api/v1/teams/{team}")).status == 409
