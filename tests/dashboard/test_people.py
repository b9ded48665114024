"""People who sign in with a password: sign-in, limits, and what ends or changes their sessions."""

from __future__ import annotations

import re
from html import unescape

from llm_gateway.dashboard.attempts import FAILURES_S, MOST_FAILURES, MOST_KNOWN, Attempts
from tests.application.driver import Client, assert_problem
from tests.dashboard.browser import PASSWORD, Browser, person, text_of

PEOPLE, SESSIONS = "/api/v1/people", "/api/v1/sessions"


async def signed_in(client: Client, name: str, password: str = PASSWORD) -> Browser:
    browser = Browser(client.app)
    assert (await browser.sign_in_as(name, password)).status == 303
    return browser


async def test_a_persons_sessions_follow_its_password_role_and_state(client: Client) -> None:
    ann = await person(client, "ann", role="viewer")
    wrong = await Browser(client.app).sign_in_as("ann", "not the password")
    nobody = await Browser(client.app).sign_in_as("nobody", PASSWORD)
    assert (wrong.status, nobody.status) == (401, 401)
    assert text_of(wrong).replace("ann", "") == text_of(nobody).replace("nobody", "")
    assert 'value="ann"' in wrong.body.decode()
    browser = await signed_in(client, "ann")
    assert "ann" in text_of(await browser.get("/ui"))
    assert (await browser.get("/ui/people")).status == 403
    path = f"{PEOPLE}/{ann}"
    await client.call("PATCH", path, {"role": "admin"})
    assert (await browser.get("/ui/people")).status == 200
    assert (await browser.post("/ui/teams", {"name": "core"})).status == 303
    entry = (await client.call("GET", "/api/v1/audit?limit=1")).json["entries"][0]
    assert (entry["action"], entry["actor"]["name"]) == ("team.create", "person:ann")
    new = "a password that is new"
    for change, password in (({"password": new}, new), ({"disabled": True}, None), ({"disabled": False}, new)):
        changed = await client.call("PATCH", path, change)
        assert (changed.status, "password" in changed.json) == (200, False)
        assert (await browser.get("/ui")).status == 303, change
        tried = await browser.sign_in_as("ann", PASSWORD if password is None else password)
        assert tried.status == (401 if password is None else 303), change
    assert (await client.call("DELETE", path)).status == 204
    assert (await browser.get("/ui")).status == 303
    assert (await browser.sign_in_as("ann", new)).status == 401
    trail = (await client.call("GET", "/api/v1/audit?resource=person")).body
    assert b"argon2" not in trail
    assert new.encode() not in trail


async def test_people_are_managed_on_their_screen(client: Client) -> None:
    admin = Browser(client.app)
    await admin.sign_in()
    form = {"name": "ann", "role": "own", "customer": "acme", "password": "short"}
    refused = await admin.post("/ui/people", form)
    assert (refused.status, 'value="acme"' in refused.body.decode()) == (422, True)
    assert "short" not in refused.body.decode()
    assert (await admin.post("/ui/people", {**form, "password": PASSWORD})).status == 303
    assert (await admin.post("/ui/people", {**form, "password": PASSWORD})).status == 409
    [ann] = (await client.call("GET", f"{PEOPLE}?name=ann")).json["people"]
    page = f"/ui/people/{ann['id']}"
    browser = await signed_in(client, "ann")
    for action, fields, status in (
        ("", {"name": "ann", "role": "viewer", "customer": "acme"}, 422),
        ("", {"name": "anna", "role": "viewer", "customer": "", "team_id": ""}, 303),
        ("/password", {"password": "short"}, 422),
        ("/password", {"password": "another long password"}, 303),
        ("/disable", {"disabled": "true"}, 303),
    ):
        response = await admin.post(f"{page}{action}", fields)
        assert response.status == status, (action, fields, text_of(response))
    assert (await browser.get("/ui")).status == 303
    assert "anna" in text_of(await admin.get(page))
    [anna] = (await client.call("GET", PEOPLE)).json["people"]
    assert (anna["role"], anna["customer"], anna["disabled"]) == ("viewer", None, True)
    assert (await admin.post(f"{page}/remove")).status == 303
    assert (await admin.get(page)).status == 404


async def test_a_body_that_does_not_fit_changes_nothing(client: Client) -> None:
    ann = await person(client, "ann")
    team = "01a20753-74c1-7db8-b500-c26af31668e9"
    for body, words in (
        ({"role": "own"}, "name one"),
        ({"customer": "acme"}, "Only the role own"),
        ({"role": "own", "team_id": team}, "no team with this id"),
        ({"role": "root"}, "role"),
        ({"password": "x" * 11}, "12"),
        ({"password": "x" * 201}, "200"),
        ({"name": "a:b"}, "name"),
        ({"hash": "x"}, "not a field"),
    ):
        for method, path, whole in (
            ("PATCH", f"{PEOPLE}/{ann}", body),
            ("POST", PEOPLE, {"name": "bob", "password": PASSWORD, **body}),
        ):
            problem = assert_problem(await client.call(method, path, whole), 422, "validation_error")
            assert words in problem["detail"], (method, body)
    assert [each["role"] for each in (await client.call("GET", PEOPLE)).json["people"]] == ["viewer"]


async def test_everybody_lists_and_ends_own_sessions_and_admins_all(client: Client) -> None:
    for name in ("ann", "bob"):
        await person(client, name, role="own", customer=name)
    first, second, bob = [await signed_in(client, name) for name in ("ann", "ann", "bob")]
    page = text_of(await first.get("/ui/sessions"))
    assert (page.count("this one"), page.count("127.0.0.1"), "bob" in page) == (1, 2, False)
    listed = (await client.call("GET", SESSIONS)).json["sessions"]
    assert {(each["kind"], each["name"]) for each in listed} == {("person", "ann"), ("person", "bob")}
    of_bob = next(each["id"] for each in listed if each["name"] == "bob")
    assert (await first.post(f"/ui/sessions/{of_bob}/end")).status == 404
    assert (await bob.get("/ui")).status == 200
    assert (await first.post("/ui/sessions/others/end")).status == 303
    assert [(await each.get("/ui")).status for each in (first, second, bob)] == [200, 303, 200]
    assert (await client.call("DELETE", f"{SESSIONS}/{of_bob}")).status == 204
    assert (await client.call("DELETE", f"{SESSIONS}/{of_bob}")).status == 404
    assert (await bob.get("/ui")).status == 303
    assert (await client.call("GET", f"{SESSIONS}?own=true")).json["sessions"] == []


async def test_a_form_whose_session_ended_is_kept_and_sent_after_the_sign_in(client: Client) -> None:
    await person(client, "ann", role="admin")
    browser = await signed_in(client, "ann")
    for path, form, shown in (
        ("/ui/teams", {"name": "core & <b>", "description": "typed for an hour"}, "typed for an hour"),
        ("/ui/people", {"name": "bob", "role": "viewer", "password": PASSWORD}, "•••"),
    ):
        browser.cookie = "llm-gateway-session=ended"
        asked = await browser.post(path, form)
        assert (asked.status, "Your session has ended" in text_of(asked)) == (401, True)
        kept = hidden(asked.body.decode())
        assert (await browser.post("/ui/sign-in", {**kept, "name": "ann", "password": "wrong"})).status == 401
        resumed = await browser.post("/ui/sign-in", {**kept, "name": "ann", "password": PASSWORD})
        assert (resumed.status, shown in text_of(resumed)) == (200, True)
        assert PASSWORD not in text_of(resumed)
        assert f'action="{path}"' in resumed.body.decode()
        assert hidden(resumed.body.decode()) == form
        assert (await browser.post(path, hidden(resumed.body.decode()))).status == 303
    assert [each["name"] for each in (await client.call("GET", "/api/v1/teams")).json["teams"]] == ["core & <b>"]
    for path in ("/ui/nothing", "//evil.example", "/sign-out", "/people/../../x"):
        form = {"kept_path": path, "kept_form": "YQ", "name": "ann", "password": PASSWORD}
        assert (await browser.post("/ui/sign-in", form)).status == 303, path
    large = await Browser(client.app).post("/ui/teams", {"name": "x" * 300_000})
    assert large.status == 413


def hidden(page: str) -> dict[str, str]:
    """Return the hidden fields of a page's first form that has some with values."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    return {unescape(name): unescape(value) for name, value in found if name != "timezone"}


def test_failures_are_limited_by_address_and_by_name_in_bounded_memory() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for number in range(MOST_FAILURES):
        assert attempts.begin(f"192.0.2.{number}", "ann")
    assert not attempts.begin("198.51.100.1", "ann")
    assert attempts.begin("198.51.100.1", "bob")
    now = FAILURES_S + 1
    for _ in range(MOST_FAILURES * 3):
        assert attempts.begin("2001:db8::1", None)
        attempts.succeeded("2001:db8::1", None)
    for number in range(MOST_FAILURES):
        assert attempts.begin(f"2001:db8::{number:x}", None)
    assert not attempts.begin("2001:db8::ffff", None)
    assert attempts.begin("2001:db8:1::1", None)
    for number in range(3 * MOST_KNOWN):
        attempts.begin(f"10.0.{number >> 8}.{number & 255}", "x" * 1000 + str(number))
    assert len(attempts._times) <= MOST_KNOWN
