"""Sign-in over an identity provider: the way of a person, and providers that are down, slow or wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.application.driver import Client, Response
from tests.application.fixtures import Start, isolate, logging_restored, running
from tests.dashboard.browser import OWN, Browser, text_of
from tests.dashboard.test_people import hidden
from tests.identity_provider import CLIENT, SECRET, IdentityProvider, as_json, identity_provider
from tests.in_one_loop import GatewayInOneLoop

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {
    "oidc_client_id": CLIENT,
    "oidc_client_secret": SECRET,
    "oidc_roles": "llm-admins=admin,llm-readers=viewer,llm-team=own",
    "oidc_team_claim": "team",
}
METADATA = "/.well-known/openid-configuration"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[IdentityProvider]:
    async with identity_provider() as provider:
        yield provider


@pytest.fixture
def provider(served: IdentityProvider) -> IdentityProvider:
    served.behave()
    return served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    migrated: Path, served: IdentityProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayInOneLoop]:
    directory = tmp_path_factory.mktemp("oidc")
    shutil.copy(migrated, directory / "gateway.db")
    with pytest.MonkeyPatch.context() as patch, logging_restored():
        isolate(patch, directory)
        async with running(directory, log_level="error", oidc_issuer=served.issuer, **SETTINGS) as app:
            yield app


def onward(response: Response) -> str:
    """Return where a page sends the browser."""
    found = re.search(r'http-equiv="refresh" content="0;url=([^"]*)"', response.body.decode())
    assert found is not None, text_of(response)
    return unescape(found[1])


async def sign_in(browser: Browser, provider: IdentityProvider, form: dict[str, str] | None = None) -> Response:
    """Go to the provider and back. Returns the page on which that ends."""
    response = await browser.post("/ui/sign-in/oidc?next=/spend", {"timezone": "Europe/Berlin", **(form or {})})
    if response.status != 200:
        return response
    back = await provider.sign_in(onward(response))
    return await browser.get(back.removeprefix(OWN))


async def test_a_person_signs_in_with_the_role_of_its_groups(
    gateway: GatewayInOneLoop, provider: IdentityProvider
) -> None:
    client = Client(gateway)
    assert (await client.call("POST", "/api/v1/teams", {"name": "core"})).status == 201
    browser = Browser(gateway)
    for groups, more, may in (
        (["others", "llm-readers"], {}, {"/ui/keys": 200, "/ui/audit": 403}),
        (["llm-readers", "llm-admins"], {}, {"/ui/keys": 200, "/ui/audit": 200}),
        ("llm-team", {"team": "core"}, {"/ui/keys": 403, "/ui/spend": 200}),
    ):
        provider.person = {"sub": "1", "preferred_username": "ann", "groups": groups, **more}
        browser = Browser(gateway)
        assert "organisation" in text_of(await browser.get("/ui/sign-in"))
        response = await sign_in(browser, provider)
        assert (response.status, onward(response)) == (200, "/ui/spend"), text_of(response)
        cookies = response.headers["set-cookie"]
        assert "SameSite=strict" in cookies
        for path, status in may.items():
            page = await browser.get(path)
            assert page.status == status, (groups, path, text_of(page))
            assert "ann" in text_of(page)
    listed = (await client.call("GET", "/api/v1/sessions")).json["sessions"]
    assert {(each["kind"], each["name"]) for each in listed} == {("oidc", "ann")}
    assert (await browser.post("/ui/sign-out")).status == 303
    assert (await browser.get("/ui")).status == 303
    assert provider.counts[METADATA] == provider.counts["/jwks"] == 1


async def test_whoever_has_no_role_gets_a_page_that_says_so(
    gateway: GatewayInOneLoop, provider: IdentityProvider
) -> None:
    for person, words in (
        ({"groups": ["others"]}, "none of your groups has a role here"),
        ({"groups": None}, "none of your groups has a role here"),
        ({"groups": [{"odd": 1}]}, "none of your groups has a role here"),
        ({"groups": ["llm-team"]}, "names no team of this gateway"),
        ({"groups": ["llm-team"], "team": "no such"}, "names no team of this gateway"),
    ):
        provider.changes = person
        browser = Browser(gateway)
        response = await sign_in(browser, provider)
        assert (response.status, words in text_of(response)) == (403, True), (person, text_of(response))
        assert (await browser.get("/ui")).status == 303


async def test_a_token_that_is_not_valid_signs_nobody_in(gateway: GatewayInOneLoop, provider: IdentityProvider) -> None:
    other = IdentityProvider()
    other.key_id = provider.key_id
    rows: list[tuple[dict[str, Any], Any, str]] = [
        ({}, other.signed, "signature is not that of"),
        ({}, provider.unsigned, "algorithm 'none'"),
        ({}, provider.signed_with_public_key, "algorithm 'HS256'"),
        ({}, lambda _claims: "no.token.at-all", "no JSON Web Token"),
        ({}, lambda _claims: "e30", "no JSON Web Token"),
        ({"aud": "another client"}, None, "aud"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, None, "azp"),
        ({"iss": "https://evil.example"}, None, "iss"),
        ({"nonce": "another"}, None, "nonce"),
        ({"nonce": None}, None, "nonce"),
        ({"exp": 1_000_000}, None, "expired"),
        ({"exp": None}, None, "exp"),
        ({"exp": "soon"}, None, "exp"),
        ({"sub": None}, None, "sub"),
        ({"sub": ""}, None, "sub"),
        ({"sub": 5}, None, "sub"),
        ({"sub": "a\x00"}, None, "sub"),
        ({"sub": "a" * 256}, None, "sub"),
    ]
    for changes, sign, words in rows:
        provider.changes, provider.sign = changes, sign or provider.signed
        browser = Browser(gateway)
        response = await sign_in(browser, provider)
        text = text_of(response)
        assert (response.status, words in text) == (401, True), (changes, words, text)
        assert (await browser.get("/ui")).status == 303


async def test_a_provider_that_is_down_or_wrong_is_one_sentence_on_the_page(
    gateway: GatewayInOneLoop, provider: IdentityProvider
) -> None:
    faults: list[tuple[str, Any, str]] = [
        ("/token", as_json(400, {"error": "invalid_grant"}), "no ID token for the code (invalid_grant)"),
        ("/token", as_json(200, {"id_token": 5}), "no ID token"),
        ("/token", (200, {}, b"<html>"), "no ID token"),
        ("/token", (200, {"content-length": "9" * 9}, b""), "does not answer"),
    ]
    for path, answer, words in faults:
        provider.faults = {path: answer}
        browser = Browser(gateway)
        response = await sign_in(browser, provider)
        assert (response.status, words in text_of(response)) == (502, True), (path, text_of(response))
        assert "Traceback" not in response.body.decode()


async def test_an_answer_belongs_to_the_sign_in_of_its_browser(
    gateway: GatewayInOneLoop, provider: IdentityProvider
) -> None:
    browser, other = Browser(gateway), Browser(gateway)
    address = onward(await browser.post("/ui/sign-in/oidc"))
    assert (await other.post("/ui/sign-in/oidc")).status == 200
    back = (await provider.sign_in(address)).removeprefix(OWN)
    for who, path, words in (
        (other, back, "another browser"),
        (Browser(gateway), back, "another browser"),
        (browser, back + "x", "another identity provider"),
    ):
        response = await who.get(path)
        assert (response.status, words in text_of(response)) == (401, True), (path, text_of(response))
    assert (await browser.get(back)).status == 401  # its cookie is gone
    assert (await browser.post("/ui/sign-in/oidc", {}, {"origin": "https://evil.example"})).status == 403
    onward(await browser.post("/ui/sign-in/oidc"))
    state = unescape(address).partition("state=")[2].partition("&")[0]
    for query, words in (
        (f"state={state}", "another browser"),
        ("error=access_denied", "another browser"),
    ):
        assert words in text_of(await browser.get(f"/ui/sign-in/oidc/callback?{query}"))


async def test_a_form_is_kept_on_the_way_over_the_provider(
    gateway: GatewayInOneLoop, provider: IdentityProvider
) -> None:
    browser = Browser(gateway)
    asked = await browser.post("/ui/teams", {"name": "typed"})
    assert asked.status == 401
    resumed = await sign_in(browser, provider, hidden(asked.body.decode()))
    assert (resumed.status, hidden(resumed.body.decode())) == (200, {"name": "typed"})
    assert (await browser.post("/ui/teams", hidden(resumed.body.decode()))).status == 303
    entries = (await Client(gateway).call("GET", "/api/v1/audit?limit=1&actor=oidc:1")).json["entries"]
    assert [each["actor"]["name"] for each in entries] == ["oidc:1 (ann)"], "the name can change, the subject cannot"


@pytest.mark.asyncio(loop_scope="function")
async def test_a_provider_that_is_gone_is_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    async with start(oidc_issuer="http://127.0.0.1:9", **SETTINGS) as app:
        browser = Browser(app)
        response = await browser.post("/ui/sign-in/oidc")
        assert (response.status, "does not answer" in text_of(response)) == (502, True)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    [line] = [line for line in lines if line["event"] == "sign-in over identity provider failed"]
    assert (line["level"], "does not answer" in line["reason"], line["client"]) == ("warning", True, browser.address)
