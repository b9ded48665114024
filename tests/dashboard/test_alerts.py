"""The screen of alert targets: add one, the server's answer to a test, switch it off, delete it; labels never run."""

from __future__ import annotations

from tests.application.driver import Client
from tests.control.test_webhook import receiver
from tests.dashboard.browser import Browser, text_of
from tests.dashboard.test_pages import CANARY, assert_safe
from tests.provider_calls.mail_server import MailServer

REFUSED = b"HTTP/1.1 410 Gone\r\ncontent-length: %d\r\n\r\n%s" % (len(CANARY), CANARY.encode())


async def test_a_target_is_added_tested_switched_off_and_deleted(client: Client) -> None:
    browser = Browser(client.app)
    assert (await browser.sign_in()).status == 303
    assert "Nobody gets a message" in text_of(await browser.get("/ui/alerts"))
    async with receiver(REFUSED) as (url, seen), MailServer().running() as server:
        form = {"name": CANARY, "kind": "slack", "url": f"{url}&token=token-of-it", "events": "budget.*\nkey.*"}
        added = await browser.post("/ui/alerts", form)
        assert (added.status, len(seen)) == (201, 1)
        assert_safe(added)
        text = text_of(added)
        assert f"{CANARY}: 127.0.0.1 knows no such address (410)" in text
        assert f"It said: {CANARY}" in text
        assert "fails" in text
        assert "budget.*, key.*" in text
        assert "token-of-it" not in added.body.decode()
        mail = {
            "name": "team", "kind": "email", "host": "127.0.0.1", "port": str(server.port), "security": "none",
            "sender": "g@example.com", "recipients": "ann@example.com\nbob@example.com", "url": "", "events": "",
        }  # fmt: skip
        added = await browser.post("/ui/alerts", mail)
        assert f"team: 127.0.0.1:{server.port} took the mail." in text_of(added)
        first, second = (await client.call("GET", "/api/v1/alert-targets")).json
        assert (second["recipients"], second["events"]) == (["ann@example.com", "bob@example.com"], ["*"])
        path = f"/ui/alerts/{second['id']}"
        page = (await browser.get(path)).body.decode()
        assert ('value="g@example.com"' in page, "bob@example.com</textarea>" in page) == (True, True)
        changed = await browser.post(
            path, mail | {"name": "team 2", "recipients": "ann@example.com", "events": "key.*"}
        )
        assert f"team 2: 127.0.0.1:{server.port} took the mail." in text_of(changed)
        second = (await client.call("GET", f"/api/v1/alert-targets/{second['id']}")).json
        assert (second["recipients"], second["events"]) == (["ann@example.com"], ["key.*"])
        refused = await browser.post(path, mail | {"name": CANARY, "password": "password-of-it"})
        assert (refused.status, "user and password go together" in text_of(refused)) == (422, True)
        assert "password-of-it" not in refused.body.decode()
        assert_safe(await browser.get(f"/ui/alerts/{first['id']}"))
        renamed = await browser.post(
            f"/ui/alerts/{first['id']}", {"name": "chat", "kind": "slack", "events": "", "url": ""}
        )
        assert "chat: 127.0.0.1 knows no such address (410)" in text_of(renamed)
        assert len(seen) == 2  # at the stored URL
        server.replies["CONNECT"] = b"421 <b>later</b>\r\n"
        tested = await browser.post(f"/ui/alerts/{second['id']}/test")
        assert "did not take the mail (421): <b>later</b>" in text_of(tested)
        assert "<b>later" not in tested.body.decode()
    refused = await browser.post("/ui/alerts", mail | {"recipients": "nobody", "password": "password-of-it"})
    assert refused.status == 422
    assert 'value="g@example.com"' in refused.body.decode()
    assert "password-of-it" not in refused.body.decode()
    assert (await browser.post(f"/ui/alerts/{first['id']}/enable", {"enabled": "false"})).status == 303
    assert not (await client.call("GET", f"/api/v1/alert-targets/{first['id']}")).json["is_enabled"]
    for target in (first, second):
        assert (await browser.post(f"/ui/alerts/{target['id']}/remove")).status == 303
    assert (await client.call("GET", "/api/v1/alert-targets")).json == []
