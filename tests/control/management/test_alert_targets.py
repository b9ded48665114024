"""Alert targets over the API: made, changed, tested and deleted, never shown with their secrets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from llm_gateway.channel.messages import Report, WorkerBeat, encode
from llm_gateway.control.workers import Workers
from llm_gateway.domain.metric_families import gauge
from llm_gateway.telemetry.failed_authentications import FailedTotals
from llm_gateway.telemetry.report_totals import ReportTotals
from tests.application.driver import Client, assert_problem
from tests.application.fixtures import Start
from tests.channel.harness import collector, control, raw_worker
from tests.control.test_alerts import TAKEN
from tests.control.test_webhook import receiver
from tests.in_one_loop import GatewayInOneLoop
from tests.provider_calls.mail_server import MailServer
from tests.waiting import until

TARGETS = "/api/v1/alert-targets"
SLACK: dict[str, Any] = {"name": "ops", "kind": "slack", "url": "https://93.184.216.34/services/T0/token?k=v"}
MAIL: dict[str, Any] = {
    "name": "mail", "kind": "email", "host": "127.0.0.1", "sender": "g@example.com", "recipients": ["a@example.com"],
}  # fmt: skip
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"kind": "slack", "url": None}, "url is required for targets of kind slack."),
    ({"kind": "pager"}, "kind"),
    ({"url": "ftp://x/y"}, "url must be an absolute http or https URL"),
    ({"url": "https://user:secret-in-it@x.org/"}, "url must be an absolute http or https URL"),
    ({"url": "https://x.org/#part"}, "url must be an absolute http or https URL"),
    ({"url": "https://x.org/\r\nhost: evil"}, "url must be an absolute http or https URL"),
    ({"host": "x.org"}, "host is only for targets of kind email"),
    ({"secret": "12345678"}, "secret is only for targets of kind webhook"),
    ({"events": []}, "events"),
    ({"events": ["budgets.*"]}, "'budgets.*' matches no event; there are budget.threshold, "),
    ({"events": ["*"] * 21}, "events"),
    ({"name": "a\nb"}, "name"),
    ({"name": ""}, "name"),
    ({"nme": "x"}, "nme"),
    (MAIL | {"sender": "not an address"}, "sender"),
    (MAIL | {"recipients": ["a@example.com\r\nBcc: b@example.com"]}, "recipients"),
    (MAIL | {"recipients": []}, "recipients"),
    (MAIL | {"recipients": None}, "recipients is required for targets of kind email."),
    (MAIL | {"user": "u"}, "user and password go together: password is missing."),
    (MAIL | {"password": "p"}, "user and password go together: user is missing."),
    (MAIL | {"port": 0}, "port"),
    (MAIL | {"security": "ssl"}, "security"),
    (MAIL | {"url": "https://x.org/"}, "url is only for targets of kind webhook and slack"),
]


async def test_targets_are_made_changed_tested_and_deleted_without_showing_secrets(client: Client) -> None:
    async with receiver(TAKEN) as (url, seen), MailServer().running() as server:
        secret = {"url": f"{url}&token=of-the-url", "secret": "signs-the-messages"}
        made = await client.call("POST", TARGETS, {"name": "hook", "kind": "webhook", **secret})
        assert made.status == 201
        server.user, server.password = "gateway", "password-of-it"
        mail = {**MAIL, "port": server.port, "security": "none", "user": "gateway", "password": "password-of-it"}
        assert (await client.call("POST", TARGETS, mail)).status == 201
        hook, box = (await client.call("GET", TARGETS)).json
        assert (hook["host"], hook["has_secret"], hook["events"], box["host"]) == (
            "127.0.0.1",
            True,
            ["*"],
            "127.0.0.1",
        )
        assert (box["host"], box["user"], box["port"]) == ("127.0.0.1", "gateway", server.port)
        assert box["recipients"] == ["a@example.com"]
        for target in (hook, box):
            tested = await client.call("POST", f"{TARGETS}/{target['id']}/test")
            assert (tested.json["success"], "took the" in tested.json["answer"]) == (True, True), tested.json
            shown = (await client.call("GET", f"{TARGETS}/{target['id']}")).json
            assert (shown["last_delivered_at"] is not None, shown["last_error"], shown["waiting"]) == (True, None, 0)
        assert json.loads(seen[0].partition(b"\r\n\r\n")[2])["type"] == "alert.test"
        assert "This is a test of the alert target 'mail'." in str(server.mails[0]["subject"])
        path = f"{TARGETS}/{box['id']}"
        assert "password is required" in (await client.call("PATCH", path, {"port": 1})).json["detail"]
        assert "secret is only" in (await client.call("PATCH", path, {"secret": "12345678"})).json["detail"]
        assert "sender is required" in (await client.call("PATCH", path, {"sender": None})).json["detail"]
        assert "user is missing" in (await client.call("PATCH", path, {"user": None})).json["detail"]
        changed = await client.call("PATCH", path, {"password": "wrong", "events": ["budget.*"], "name": "mails"})
        assert (changed.json["events"], changed.json["name"]) == (["budget.*"], "mails")
        tested = await client.call("POST", f"{path}/test")
        assert (tested.json["success"], "refused user and password" in tested.json["answer"]) == (False, True)
        assert (await client.call("GET", path)).json["last_error"] == tested.json["answer"]
        assert (await client.call("PATCH", path, {})).json["name"] == "mails"
        assert_problem(await client.call("PATCH", path, {"name": "hook"}), 409, "conflict")
        texts = b"".join([(await client.call("GET", each)).body for each in (TARGETS, "/api/v1/audit")])
        for hidden in (b"of-the-url", b"signs-the-messages", b"password-of-it", b"wrong"):
            assert hidden not in texts
        assert b"*** (new)" in texts
        for target in (hook, box):
            assert (await client.call("DELETE", f"{TARGETS}/{target['id']}")).status == 204
            assert_problem(await client.call("POST", f"{TARGETS}/{target['id']}/test"), 404, "not_found")


async def test_what_does_not_fit_is_refused_in_a_sentence_that_shows_no_secret(client: Client) -> None:
    assert (await client.call("POST", TARGETS, SLACK)).status == 201
    for fields, words in INVALID:
        body = fields if "sender" in fields else SLACK | fields
        problem = assert_problem(await client.call("POST", TARGETS, body), 422, "validation_error")
        assert words in problem["detail"], (fields, problem["detail"])
        assert "secret-in-it" not in problem["detail"]
    assert_problem(await client.call("POST", TARGETS, SLACK), 409, "conflict")
    assert len((await client.call("GET", TARGETS)).json) == 1


async def test_production_takes_only_public_addresses_and_mail_over_tls(start: Start) -> None:
    production = {
        "env": "production", "service_keys": "ops:" + "key-of-operations-abcdefgh", "host": "127.0.0.1",
        "encryption_keys": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    }  # fmt: skip
    async with start(**production) as app:
        client = Client(app, "key-of-operations-abcdefgh")
        for body, words in (
            (SLACK | {"url": "http://93.184.216.34/x"}, "must be called over https in production"),
            (SLACK | {"url": "https://127.0.0.1/x"}, "which is not a public address"),
            (MAIL, "which is not a public address"),
            (MAIL | {"host": "93.184.216.34", "security": "none"}, "mail goes over TLS in production"),
        ):
            problem = assert_problem(await client.call("POST", TARGETS, body), 422, "validation_error")
            assert words in problem["detail"], problem["detail"]
        assert (await client.call("POST", TARGETS, MAIL | {"host": "93.184.216.34"})).json["port"] == 587


async def test_workers_say_what_is_not_called_what_limits_are_used_and_which_journal_fails(
    tmp_path: Any,
) -> None:
    totals = ReportTotals()
    async with control(tmp_path, on_report=totals.update) as running, raw_worker(tmp_path) as (_, writer):
        workers = Workers(running.server, totals, list, list, collector([]), FailedTotals())
        await until(workers.are_connected)
        assert workers.troubles() == []
        writer.write(encode(WorkerBeat(is_ready=True, can_record=False)))
        families = [
            gauge("llm_gateway_breaker_open", "Open", 1, provider="p", model="m"),
            gauge("llm_gateway_provider_paused", "Paused", 1, provider="q"),
            gauge("llm_gateway_provider_paused", "Paused", 0, provider="r"),
            gauge("llm_gateway_rate_limit_used_ratio", "Used", 0.25, provider="p", limit="requests"),
        ]
        writer.write(encode(Report(id=0, families=families)))
        await until(lambda: len(workers.troubles()) == 3)
        assert workers.limits_used() == {"p": {"requests": 0.25}}
        found = {trouble.kind: (trouble.subject, trouble.data) for trouble in workers.troubles()}
    assert found == {
        "journal.unwritable": ("worker 9", {"worker": "worker 9"}),
        "provider.breaker_open": ("p m", {"provider": "p", "model": "m"}),
        "provider.paused": ("q", {"provider": "q"}),
    }


async def test_a_paused_account_is_told_to_a_target_of_a_running_gateway(client: Client, app: GatewayInOneLoop) -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    async with receiver(TAKEN) as (url, seen), receiver(refusal) as (vendor, _):
        await client.call("POST", TARGETS, {"name": "hook", "kind": "webhook", "url": url, "events": ["provider.*"]})
        provider = {
            "name": "acme", "display_name": "Acme", "api_key": "k", "models": ["m"],
            "base_url": vendor.partition("/hook")[0],
        }  # fmt: skip
        assert (await client.call("POST", "/api/v1/providers", provider)).status == 201
        for number in range(2):
            body = {"user_id": "u", "service": "s", "prompt": f"p{number}"}
            assert (await client.call("POST", "/api/v1/generate", body)).status >= 400
        text = (await client.call("GET", "/metrics")).body.decode()
        assert 'llm_gateway_provider_paused{provider="acme"} 1.0' in text
        async with asyncio.timeout(10):
            await until(lambda: bool(seen))
        event = json.loads(seen[0].partition(b"\r\n\r\n")[2])
        assert (event["type"], event["data"]) == ("provider.paused", {"provider": "acme"})
