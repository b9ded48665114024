"""Commands `alerts …` against a running gateway."""

from __future__ import annotations

import asyncio
import io
import sys

import pytest

from tests.cli.command import SetUp, call
from tests.e2e.process import free_port
from tests.provider_calls.mail_server import MailServer

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_targets(set_up: SetUp) -> None:
    for each in set_up.gateway.call("GET", "/api/v1/alert-targets").json:
        assert set_up.gateway.call("DELETE", f"/api/v1/alert-targets/{each['id']}").status == 204


def test_a_target_from_its_making_to_its_end(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_URL", f"http://127.0.0.1:{free_port()}/services/token-of-it")
    added = call(capsys, "alerts", "add", "ops", "slack", "--url-env", "SLACK_URL", "--event", "budget.*")
    assert added.out == "Added ops. Try it: llm-gateway alerts test ops\n"
    tested = call(capsys, "alerts", "test", "ops")
    assert (tested.code, "Connection refused" in tested.sentence, "token-of-it" in tested.sentence) == (1, True, False)
    header, row = call(capsys, "alerts", "list").rows
    shown = dict(zip(header, row, strict=True))
    assert (shown["name"], shown["host"], shown["events"]) == ("ops", "127.0.0.1", "budget.*")
    assert shown["last_error"] == tested.sentence.strip()
    [listed] = call(capsys, "alerts", "list", "--json").json
    assert call(capsys, "alerts", "remove", listed["id"], "--json").json["name"] == "ops"
    assert "There is no alert target named ops" in call(capsys, "alerts", "remove", "ops").sentence


async def test_a_mailbox_is_added_with_its_password_and_tested(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "password-of-it")
    server = MailServer()
    server.user, server.password = "gateway", "password-of-it"
    async with server.running():
        box = ("--host", "127.0.0.1", "--port", str(server.port), "--security", "none", "--user", "gateway")
        addresses = ("--from", "g@example.com", "--to", "ann@example.com", "--to", "bob@example.com")
        options = (*box, *addresses, "--password-env", "SMTP_PASSWORD")
        assert call(capsys, "alerts", "add", "team", "email", *options).code == 0
        tested = await asyncio.to_thread(call, capsys, "alerts", "test", "team")
        assert tested.out == f"127.0.0.1:{server.port} took the mail.\n"
        assert server.mails[0]["to"] == "ann@example.com, bob@example.com"
        assert await asyncio.to_thread(lambda: call(capsys, "alerts", "test", "team", "--json").json["success"])


def test_wrong_options_end_with_a_sentence(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for options, words in (
        (("slack", "--url-env", "https://hooks.example.com/x"), "takes the name of a variable"),
        (("slack",), "No URL was given"),
        (("slack", "--key-file", "-"), ""),
        (("email", "--host", "smtp.example.com"), "sender is required"),
        (("pager",), "pager"),
    ):
        ended = call(capsys, "alerts", "add", "x", *options)
        assert (ended.code != 0, words in ended.sentence) == (True, True), (options, ended)
    monkeypatch.setattr(sys, "stdin", io.StringIO("http://127.0.0.1:9/piped\n"))
    assert call(capsys, "alerts", "add", "piped", "webhook", "--json").json["host"] == "127.0.0.1"
