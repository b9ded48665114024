"""Access to the dashboard: sign-in, sessions, rights, and which pages may send requests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from llm_gateway.dashboard.access import NEEDS_HTTPS, Access, Credentials
from llm_gateway.dashboard.screens import SCREENS
from llm_gateway.dashboard.sign_in_limits import MOST_FAILURES
from llm_gateway.domain.person import Identity
from llm_gateway.gate.authentication import Keyring
from llm_gateway.gate.environment_seal import EnvironmentSeal
from llm_gateway.store.database import Database
from llm_gateway.store.people import PeopleStore
from llm_gateway.store.sessions import Owner, SessionStore
from tests.application.driver import Client
from tests.dashboard.browser import Browser, key_with, text_of
from tests.identity.test_code_flow import ISSUER, flow_with

PAGES = [path for path, handlers in SCREENS.items() if "GET" in handlers and "{" not in path]


async def test_every_page_asks_those_who_are_not_signed_in_for_a_key(client: Client) -> None:
    browser = Browser(client.app)
    for path in PAGES:
        response = await browser.get(f"/ui{path}")
        assert response.status == 303, path
        assert response.headers["location"].startswith("/ui/sign-in"), path
    assert (await browser.get("/ui/requests?model=m")).headers["location"] == "/ui/sign-in?next=/requests%3Fmodel%3Dm"
    assert (await browser.get("/ui/requests", {"hx-request": "true"})).headers["hx-redirect"] == "/ui/sign-in"
    assert (await browser.get("/ui/nothing-here")).status == 404


async def test_a_wrong_key_is_refused_and_the_eleventh_try_has_to_wait(client: Client) -> None:
    browser = Browser(client.app)
    for _ in range(MOST_FAILURES):
        response = await browser.sign_in("wrong")
        assert response.status == 401
        assert "This key is not known." in text_of(response)
    assert "wait a minute" in text_of(await browser.sign_in())
    assert browser.cookie == ""


async def test_a_change_from_another_sites_page_is_refused(client: Client) -> None:
    browser = Browser(client.app)
    await browser.sign_in()
    form = {"name": "core"}
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        for path in ("/ui/teams", "/ui/people", "/ui/sessions/others/end", "/ui/sign-out", "/ui/sign-in"):
            assert (await browser.post(path, form, headers)).status == 403, (path, headers)
    assert (await client.call("GET", "/api/v1/teams")).json["teams"] == []
    assert (await browser.post("/ui/teams", form)).status == 303


async def test_a_session_ends_with_its_sign_out_its_key_and_by_an_admin(client: Client) -> None:
    browser, other = Browser(client.app), Browser(client.app)
    await browser.sign_in()
    response = await other.sign_in(await key_with(client, "read"))
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert (await other.get("/ui")).status == 200
    key = (await client.call("GET", "/api/v1/keys?name=read")).json["keys"][0]
    await client.call("PATCH", f"/api/v1/keys/{key['id']}", {"disabled": True})
    assert (await other.get("/ui")).status == 303
    await client.call("PATCH", f"/api/v1/keys/{key['id']}", {"disabled": False})
    assert (await other.get("/ui")).status == 200
    health = (await browser.get("/ui/sessions")).body.decode()
    ends = [part.partition('"')[0] for part in health.split('action="')[1:] if part.startswith("/ui/sessions")]
    assert len(ends) == 2
    assert (await other.post(ends[0])).status == 404  # the admin's own
    for path in reversed(ends):
        assert (await browser.post(path)).status == 303
    assert (await other.get("/ui")).status == 303
    assert (await browser.get("/ui")).status == 303
    await browser.sign_in()
    kept = browser.cookie
    assert (await browser.post("/ui/sign-out")).status == 303
    browser.cookie = kept
    assert (await browser.get("/ui")).status == 303


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
async def test_a_sign_in_leads_to_no_other_site(client: Client, target: str) -> None:
    response = await Browser(client.app).post(f"/ui/sign-in?next={target}", {"key": "dev-gateway-key"})
    assert response.headers["location"] == "/ui"


@pytest.mark.parametrize(
    ("scheme", "host", "is_allowed"),
    [
        ("https", "gateway.example", True),
        ("http", "gateway.example", False),
        ("http", "localhost.evil.example", False),
        ("http", "localhost", True),
        ("http", "127.0.0.1", True),
        ("http", "[::1]", True),
        ("http", "10.0.0.1", False),
    ],
)
def test_plain_http_is_for_this_machine_only(tmp_path: Path, scheme: str, host: str, is_allowed: bool) -> None:
    scope = {
        "type": "http", "method": "GET", "scheme": scheme, "path": "/ui", "query_string": b"", "server": (host, 80),
        "headers": [(b"host", host.encode())],
    }  # fmt: skip
    request = Request(scope)
    database = Database.open(f"sqlite:///{tmp_path}/unused.db")
    sessions, people = SessionStore(database), PeopleStore(database)
    access = Access(sessions, Keyring([]), people, allows_plain_http=False)
    assert access.refusal(request) == (None if is_allowed else NEEDS_HTTPS)
    assert Access(sessions, Keyring([]), people, allows_plain_http=True).refusal(request) is None


def test_a_session_of_an_identity_provider_ends_with_the_role_of_its_groups(migrated: Path, tmp_path: Path) -> None:
    shutil.copy(migrated, tmp_path / "gateway.db")
    database = Database.open(f"sqlite:///{tmp_path}/gateway.db")
    sessions, people = SessionStore(database), PeopleStore(database)
    identity = Identity(issuer=ISSUER, subject="1", role="admin", groups=("admins",))
    secret = sessions.open(Owner("ann", identity=identity), "UTC", "a browser", "127.0.0.1")
    request = Request({
        "type": "http", "method": "GET", "scheme": "http", "path": "/ui", "query_string": b"",
        "server": ("localhost", 80), "headers": [(b"cookie", f"llm-gateway-session={secret}".encode())],
    })  # fmt: skip
    found = []
    for roles in ({"admins": "admin"}, {"admins": "viewer"}, {"others": "admin"}):
        access = Access(sessions, Keyring([]), people, allows_plain_http=False, code_flow=flow_with(roles))
        signed_in = access.find(request)
        found.append(None if signed_in is None else set(signed_in.caller.scopes))
    assert found == [{"admin"}, {"read"}, None]


def test_a_sign_out_over_https_deletes_the_cookie_as_browsers_demand(tmp_path: Path) -> None:
    """A Set-Cookie of a name that begins with __Host- counts only if it is Secure (RFC 6265bis, 4.1.3.2)."""
    scope = {"type": "http", "method": "POST", "scheme": "https", "path": "/ui/sign-out", "query_string": b"",
             "server": ("gateway.example", 443), "headers": [(b"host", b"gateway.example")]}  # fmt: skip
    database, response = Database.open(f"sqlite:///{tmp_path}/unused.db"), Response()
    access = Access(SessionStore(database), Keyring([]), PeopleStore(database), allows_plain_http=False)
    access.sign_out(Request(scope), response, None)
    cookie = response.headers["set-cookie"]
    assert cookie.startswith('__Host-llm-gateway-session=""')
    assert ("Secure" in cookie, "Max-Age=0" in cookie, "Path=/" in cookie) == (True, True, True)


async def test_a_session_of_a_key_of_the_environment_ends_with_its_secret(migrated: Path, tmp_path: Path) -> None:
    shutil.copy(migrated, tmp_path / "gateway.db")
    database = Database.open(f"sqlite:///{tmp_path}/gateway.db")

    def access(*keys: tuple[str, str]) -> Access:
        callers = [(*key, frozenset({"admin"})) for key in keys]
        stores = SessionStore(database), Keyring(callers), PeopleStore(database)
        return Access(*stores, allows_plain_http=False)

    def request(cookie: str = "") -> Request:
        headers = [(b"cookie", cookie.encode())] if cookie else []
        return Request({
            "type": "http", "method": "GET", "scheme": "http", "path": "/ui", "query_string": b"",
            "server": ("localhost", 80), "headers": headers,
        })  # fmt: skip

    one, other, response = ("ops", "s" * 32), ("billing", "b" * 32), Response()
    owner = await access(one).sign_in(request(), Credentials("s" * 32, "", ""))
    assert isinstance(owner, Owner)
    await access(one).remember(request(), response, owner, "UTC")
    cookie = response.headers["set-cookie"].partition(";")[0]
    forged = (
        cookie.rpartition(".")[0] + "." + EnvironmentSeal([("ops", "x" * 32, ())]).seal("ops", "x").rpartition(".")[2]
    )
    found = [
        access(*keys).find(request(sent)) is not None
        for keys, sent in (
            ((one, other), cookie), ((("ops", "x" * 32),), cookie), ((("ops", "x" * 32),), forged),
            ((one, ("ops", "t" * 32)), cookie), ((other,), cookie), ((one,), cookie.rpartition(".")[0]),
        )
    ]  # fmt: skip
    assert found == [True, False, False, False, False, False]
