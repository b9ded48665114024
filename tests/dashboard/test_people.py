"""People who sign in with a password: sign-in, limits, and what ends or changes their sessions."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urlencode

import pytest

from tests.application.driver import Client, assert_problem
from tests.dashboard.browser import PASSWORD, Browser, person, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
PEOPLE, SESSIONS = "/api/v1/people", "/api/v1/sessions"


async def signed_in(client: Client, name: str, password: str = PASSWORD) -> Browser:
    browser = Browser(client.app)
    assert (await browser.sign_in_as(name, password)).status == 303
    return browser


async def test_a_persons_sessions_follow_its_password_role_and_state(shared: Client) -> None:
    ann = await person(shared, "ann", role="viewer")
    wrong = await Browser(shared.app).sign_in_as("ann", "not the password")
    nobody = await Browser(shared.app).sign_in_as("nobody", PASSWORD)
    assert (wrong.status, nobody.status) == (401, 401)
    assert text_of(wrong).replace("ann", "") == text_of(nobody).replace("nobody", "")
    assert 'value="ann"' in wrong.body.decode()
    browser = await signed_in(shared, "ann")
    assert "ann" in text_of(await browser.get("/ui"))
    assert (await browser.get("/ui/people")).status == 403
    path = f"{PEOPLE}/{ann}"
    await shared.call("PATCH", path, {"role": "admin"})
    assert (await browser.get("/ui/people")).status == 200
    assert (await browser.post("/ui/teams", {"name": "core"})).status == 303
    entry = (await shared.call("GET", "/api/v1/audit?limit=1")).json["entries"][0]
    assert (entry["action"], entry["actor"]["name"]) == ("team.create", "person:ann")
    new = "a password that is new"
    for change, password in (({"password": new}, new), ({"disabled": True}, None), ({"disabled": False}, new)):
        changed = await shared.call("PATCH", path, change)
        assert (changed.status, "password" in changed.json) == (200, False)
        assert (await browser.get("/ui")).status == 303, change
        tried = await browser.sign_in_as("ann", PASSWORD if password is None else password)
        assert tried.status == (401 if password is None else 303), change
    assert (await shared.call("DELETE", path)).status == 204
    assert (await browser.get("/ui")).status == 303
    assert (await browser.sign_in_as("ann", new)).status == 401
    trail = (await shared.call("GET", "/api/v1/audit?resource=person")).body
    assert b"argon2" not in trail
    assert new.encode() not in trail


async def test_people_are_managed_on_their_screen(shared: Client) -> None:
    admin = Browser(shared.app)
    await admin.sign_in()
    form = {"name": "ann", "role": "own", "customer": "acme", "password": "sixpence"}
    refused = await admin.post("/ui/people", form)
    assert (refused.status, 'value="acme"' in refused.body.decode()) == (422, True)
    assert "sixpence" not in refused.body.decode()
    assert (await admin.post("/ui/people", {**form, "password": PASSWORD})).status == 303
    assert (await admin.post("/ui/people", {**form, "password": PASSWORD})).status == 409
    [ann] = (await shared.call("GET", f"{PEOPLE}?name=ann")).json["people"]
    page = f"/ui/people/{ann['id']}"
    browser = await signed_in(shared, "ann")
    for action, fields, status in (
        ("", {"name": "ann", "role": "viewer", "customer": "acme"}, 422),
        ("", {"name": "anna", "role": "viewer", "customer": "", "team": ""}, 303),
        ("/password", {"password": "short"}, 422),
        ("/password", {"password": "another long password"}, 303),
        ("/disable", {"disabled": "true"}, 303),
    ):
        response = await admin.post(f"{page}{action}", fields)
        assert response.status == status, (action, fields, text_of(response))
    assert (await browser.get("/ui")).status == 303
    assert "anna" in text_of(await admin.get(page))
    [anna] = (await shared.call("GET", f"{PEOPLE}?name=anna")).json["people"]
    assert (anna["role"], anna["customer"], anna["disabled"]) == ("viewer", None, True)
    assert (await admin.post(f"{page}/remove")).status == 303
    assert (await admin.get(page)).status == 404


async def test_forms_name_teams_of_any_number_and_suggest_them(shared: Client) -> None:
    admin = Browser(shared.app)
    await admin.sign_in()
    ids = {}
    for name in ("Zeta 1", "zeta 2", "100%", "<b>search"):
        ids[name] = (await shared.call("POST", "/api/v1/teams", {"name": name})).json["id"]
    for typed, names in (("ZETA", ["Zeta 1", "zeta 2"]), ("%", ["100%"]), ("&", []), ("<b>", ["<b>search"])):
        page = (await admin.get(f"/ui/teams?{urlencode({'team': typed})}")).body.decode()
        assert [unescape(name) for name in re.findall('value="([^"]*)"', page)] == names, typed
    form = {"name": "hal", "role": "own", "team": "zeta 3", "password": PASSWORD}
    refused = await admin.post("/ui/people", form)
    assert (refused.status, "no team named 'zeta 3'" in text_of(refused)) == (422, True)
    assert 'value="zeta 3"' in refused.body.decode()
    assert (await admin.post("/ui/people", form | {"team": " zeta 2 "})).status == 303
    [hal] = (await shared.call("GET", f"{PEOPLE}?name=hal")).json["people"]
    assert hal["team_id"] == ids["zeta 2"]
    path = f"/ui/people/{hal['id']}"
    assert "team zeta 2" in text_of(await admin.get("/ui/people"))
    assert 'value="zeta 2"' in (await admin.get(path)).body.decode()
    assert (await admin.post(path, form | {"team": "<b>search"})).status == 303
    assert (await admin.post(path, form)).status == 422
    made = await admin.post("/ui/keys", {"name": "of-team", "scopes": "call", "team": "Zeta 1"})
    assert made.status == 201
    [key] = (await shared.call("GET", "/api/v1/keys?name=of-team")).json["keys"]
    assert key["team_id"] == ids["Zeta 1"]
    assert 'value="Zeta 1"' in (await admin.get(f"/ui/keys/{key['id']}")).body.decode()
    assert (await admin.post(f"/ui/keys/{key['id']}", {"name": "of-team", "scopes": "call", "team": ""})).status == 303
    assert (await shared.call("GET", f"/api/v1/keys/{key['id']}")).json["team_id"] is None


async def test_people_change_their_own_password_and_nothing_else(shared: Client) -> None:
    await person(shared, "gus", role="viewer")
    browser, other, new = await signed_in(shared, "gus"), await signed_in(shared, "gus"), "quite another password"
    form = {"current_password": PASSWORD, "password": new, "password_again": new, "role": "admin"}
    for change, words in (
        ({"current_password": "wrong"}, "This is not your password."),
        ({"password_again": "mistyped"}, "not the same twice"),
        ({"password": "short", "password_again": "short"}, "12"),
    ):
        refused = await browser.post("/ui/sessions/password", form | change)
        assert (refused.status, words in text_of(refused)) == (422, True), change
        assert new not in refused.body.decode()
    assert (await browser.post("/ui/sessions/password", form)).status == 303
    assert [(await each.get("/ui")).status for each in (browser, other)] == [303, 303]
    browser = await signed_in(shared, "gus", new)
    assert (await browser.get("/ui/people")).status == 403
    assert (await Browser(shared.app).sign_in_as("gus", PASSWORD)).status == 401
    entry = (await shared.call("GET", "/api/v1/audit?limit=1")).json["entries"][0]
    assert (entry["action"], entry["actor"]["name"], entry["resource"]["name"]) == (
        "person.update",
        "person:gus",
        "gus",
    )
    for _ in range(10):
        await browser.post(
            "/ui/sessions/password", {"current_password": "wrong", "password": new, "password_again": new}
        )
    assert "wait a minute" in text_of(await browser.post("/ui/sessions/password", form | {"current_password": new}))
    admin = Browser(shared.app)
    await admin.sign_in()
    assert "Your password" not in text_of(await admin.get("/ui/sessions"))
    assert (await admin.post("/ui/sessions/password", form)).status == 404


async def test_a_change_of_a_person_as_it_was_read_is_refused_once_it_is_another(shared: Client) -> None:
    path = f"{PEOPLE}/{await person(shared, 'ira')}"
    read = (await shared.call("GET", path)).json["updated_at"]
    assert (await shared.call("PATCH", path, {"role": "viewer", "unchanged_since": read})).status == 200
    late = await shared.call("PATCH", path, {"password": PASSWORD, "unchanged_since": read})
    assert "Somebody has changed this person" in assert_problem(late, 409, "conflict")["detail"]


async def test_a_body_that_does_not_fit_changes_nothing(shared: Client) -> None:
    cid = await person(shared, "cid")
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
            ("PATCH", f"{PEOPLE}/{cid}", body),
            ("POST", PEOPLE, {"name": "bob", "password": PASSWORD, **body}),
        ):
            problem = assert_problem(await shared.call(method, path, whole), 422, "validation_error")
            assert words in problem["detail"], (method, body)
    assert [each["role"] for each in (await shared.call("GET", f"{PEOPLE}?name=cid")).json["people"]] == ["viewer"]


async def test_everybody_lists_and_ends_own_sessions_and_admins_all(shared: Client) -> None:
    for name in ("dan", "eve"):
        await person(shared, name, role="own", customer=name)
    first, second, bob = [await signed_in(shared, name) for name in ("dan", "dan", "eve")]
    page = text_of(await first.get("/ui/sessions"))
    assert (page.count("this one"), page.count("2001:db8:"), "eve" in page) == (1, 2, False)
    listed = (await shared.call("GET", SESSIONS)).json["sessions"]
    assert {("person", "dan"), ("person", "eve")} <= {(each["kind"], each["name"]) for each in listed}
    of_bob = next(each["id"] for each in listed if each["name"] == "eve")
    assert (await first.post(f"/ui/sessions/{of_bob}/end")).status == 404
    assert (await bob.get("/ui")).status == 200
    assert (await first.post("/ui/sessions/others/end")).status == 303
    assert [(await each.get("/ui")).status for each in (first, second, bob)] == [200, 303, 200]
    assert (await shared.call("DELETE", f"{SESSIONS}/{of_bob}")).status == 204
    assert (await shared.call("DELETE", f"{SESSIONS}/{of_bob}")).status == 404
    assert (await bob.get("/ui")).status == 303
    own = (await shared.call("GET", f"{SESSIONS}?own=true")).json["sessions"]
    assert {each["kind"] for each in own} <= {"key"}


async def test_a_form_whose_session_ended_is_kept_and_sent_after_the_sign_in(shared: Client) -> None:
    await person(shared, "fay", role="admin")
    browser = await signed_in(shared, "fay")
    for path, form, shown in (
        ("/ui/teams", {"name": "core & <b>", "description": "typed for an hour"}, "typed for an hour"),
        ("/ui/people", {"name": "bob", "role": "viewer", "password": PASSWORD}, "•••"),
    ):
        browser.cookie = "llm-gateway-session=ended"
        asked = await browser.post(path, form)
        assert (asked.status, "Your session has ended" in text_of(asked)) == (401, True)
        kept = hidden(asked.body.decode())
        assert (await browser.post("/ui/sign-in", {**kept, "name": "fay", "password": "wrong"})).status == 401
        resumed = await browser.post("/ui/sign-in", {**kept, "name": "fay", "password": PASSWORD})
        assert (resumed.status, shown in text_of(resumed)) == (200, True)
        assert PASSWORD not in text_of(resumed)
        assert f'action="{path}"' in resumed.body.decode()
        assert hidden(resumed.body.decode()) == form
        assert (await browser.post(path, hidden(resumed.body.decode()))).status == 303
    assert "core & <b>" in {each["name"] for each in (await shared.call("GET", "/api/v1/teams")).json["teams"]}
    for path in ("/ui/nothing", "//evil.example", "/sign-out", "/people/../../x"):
        form = {"kept_path": path, "kept_form": "YQ", "name": "fay", "password": PASSWORD}
        assert (await browser.post("/ui/sign-in", form)).status == 303, path
    large = await Browser(shared.app).post("/ui/teams", {"name": "x" * 300_000})
    assert large.status == 413


def hidden(page: str) -> dict[str, str]:
    """Return the hidden fields of a page's first form that has some with values."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    return {unescape(name): unescape(value) for name, value in found if name != "timezone"}
