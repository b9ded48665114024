"""Alerts to people: which target gets which event, once, whatever fails or is killed on the way."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llm_gateway.control.alert_delivery import AlertDelivery
from llm_gateway.control.alert_sender import AlertSender
from llm_gateway.control.alert_texts import TEST, mail_of, slack_body, text_of
from llm_gateway.control.trouble import HOUR_MS, MOST_TOLD, Trouble, TroubleWatch
from llm_gateway.control.webhook_delivery import BACKOFF_S, WebhookDelivery
from llm_gateway.control.webhook_events import DAY_MS, WebhookEvents
from llm_gateway.domain.alert_target import EVENTS, AlertMessage, AlertSecret, AlertTarget, Mailbox, Sent
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.provider_calls.webhook import Webhook
from llm_gateway.store.alert_deliveries import CLAIMED_MS, MOST_WAITING, AlertDeliveries, add_deliveries
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.budget_thresholds import forget_customer
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.webhook_messages import WebhookMessages
from llm_gateway.upstream.egress import Egress
from tests.application.driver import until
from tests.channel.harness import Event, collector
from tests.control.test_webhook import receiver
from tests.provider_calls.mail_server import MailServer
from tests.store.histories import NOW_MS, attempt, close, record

OLD_KEY, NEW_KEY = b"1" * 32, b"2" * 32
TAKEN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CANARY = "<!channel>\r\nBcc: everybody@example.com &<script>alert(1)</script>"


class World:
    """The alerts of a gateway, whose clock stands still until it is set."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now_ms = NOW_MS
        self.events: list[Event] = []
        self.targets = AlertTargetStore(database, SecretBox([OLD_KEY]), clock_ms=lambda: self.now_ms)
        self.deliveries = AlertDeliveries(database)
        self.messages = WebhookMessages(database, has_webhook=False)

    def target(self, name: str, url: str | None, *events: str, **fields: Any) -> AlertTarget:
        secret = AlertSecret(url=url, secret=fields.pop("secret", None))
        made = AlertTarget(
            id="", name=name, events=events or ("*",), host="receiver", mailbox=fields.pop("mailbox", None),
            kind=fields.pop("kind", "webhook"), is_enabled=fields.pop("is_enabled", True),
            has_secret=secret.secret is not None, created_at_ms=0, updated_at_ms=0,
        )  # fmt: skip
        return self.targets.create(made, secret)

    def delivery(self, timeout_s: float = 5.0) -> AlertDelivery:
        """Return the delivery of a process that has just started."""
        sender = AlertSender(Egress(strict=False), lambda text: text, timeout_s)
        return AlertDelivery(self.targets, self.deliveries, sender, collector(self.events), lambda: self.now_ms)

    async def deliver(self, delivery: AlertDelivery | None = None) -> None:
        delivery = delivery or self.delivery()
        await delivery.step()
        await delivery.finish()

    def told(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def world(migrated: Path, tmp_path: Path) -> Iterator[World]:
    database = Database.open(f"sqlite:///{shutil.copy(migrated, tmp_path / 'alerts.db')}", fsync=False)
    yield World(database)
    database.close()


def body_of(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


async def test_each_target_gets_the_events_of_its_globs_once_in_its_own_form(world: World) -> None:
    async with receiver(TAKEN) as (url, seen), MailServer().running() as server:
        world.target("hook", url, "model.*", secret="the-secret-of-it")
        world.target("slack", url, "budget.*", "key.*", kind="slack")
        world.target("off", url, is_enabled=False)
        box = Mailbox(
            host="127.0.0.1", port=server.port, security="none", sender="g@example.com", recipients=("ann@example.com",)
        )
        world.target("mail", None, "*", kind="email", mailbox=box)
        data = {"model": CANARY, "provider": "p", "day": "2024-10-04"}
        for _ in range(2):  # found again after a restart
            assert world.messages.add("model.unpriced:1", NOW_MS, "model.unpriced", data)
            assert world.messages.add("journal.delayed:1", NOW_MS, "journal.delayed", {"seconds": 61})
            await world.deliver()
            await world.deliver()
        [hook] = seen
        assert body_of(hook) == {"id": "model.unpriced:1", "type": "model.unpriced", "at_ms": NOW_MS, "data": data}
        assert b"webhook-signature: v1," in hook
        delayed, unpriced = sorted(server.mails, key=lambda mail: str(mail["subject"]), reverse=True)
        assert delayed["subject"] == "[LLM Gateway] Usage has waited for the database for 61 seconds."
        assert unpriced["bcc"] is None
        assert "without a known price" in " ".join(str(unpriced["subject"]).split())
        expiring = {"key": CANARY, "owner": None, "expires_at": "2030-01-01T00:00:00Z", "within_days": 7}
        world.messages.add("key.expiring:1", NOW_MS, "key.expiring", expiring)
        await world.deliver()
        text = body_of(seen[1])["text"]
        assert ("&lt;!channel&gt;" in text, "<" in text, "\n" in text) == (True, False, False)
    assert [target.failed_ms for target in world.targets.list()] == [None] * 4
    assert world.deliveries.waiting() == {}


async def test_a_killed_process_loses_no_message_and_repeats_one_at_most_once(world: World) -> None:
    async with receiver(TAKEN) as (url, seen):
        made = world.target("hook", url)
        for number in range(3):
            world.messages.add(f"model.unpriced:{number}", NOW_MS, "model.unpriced", {})
        killed = world.deliveries.claim(made.id, NOW_MS)  # it was sent, and then the process was killed
        assert killed is not None
        await world.deliver()
        assert [body_of(each)["id"] for each in seen] == ["model.unpriced:1", "model.unpriced:2"]
        world.now_ms += CLAIMED_MS - 1
        await world.deliver()
        assert len(seen) == 2
        world.now_ms += 1
        await world.deliver()
        await world.deliver()
        assert [body_of(each)["id"] for each in seen[2:]] == ["model.unpriced:0"]


async def test_a_failing_target_is_warned_of_once_tried_for_a_day_and_delays_no_other(world: World) -> None:
    async with receiver(b"") as (stalled_url, _), receiver(TAKEN) as (url, seen):
        world.target("stalled", stalled_url)
        world.target("well", url)
        world.messages.add("model.unpriced:1", NOW_MS, "model.unpriced", {})
        delivery = world.delivery(timeout_s=0.2)
        await delivery.step()
        await until(lambda: bool(seen))
        assert world.events == []
        await delivery.step()  # does not send to the stalled one twice
        await delivery.finish()
        for pause_s in BACKOFF_S:
            world.now_ms += pause_s * 1000
            await world.deliver(world.delivery(timeout_s=0.01))
        assert world.told() == ["an alert target does not take messages", "an alert is given up"]
        assert [fields["target"] for _, fields in world.events] == ["stalled", "stalled"]
        assert world.events[0][1]["reason"] == "receiver did not answer within 10 s."
        stalled, well = world.targets.list()
        assert (stalled.failed_ms, well.failed_ms) == (world.now_ms, None)
        assert world.deliveries.waiting() == {}
        world.messages.add("model.unpriced:2", NOW_MS, "model.unpriced", {})
        world.targets.update(stalled.id, lambda target, _: (target, AlertSecret(url=url)))
        await world.deliver()
        assert world.told()[2:] == ["an alert target takes messages again"]


async def test_what_was_stored_for_a_target_while_it_was_deleted_does_not_wait_for_good(world: World) -> None:
    gone, kept = (world.target(name, "http://127.0.0.1:9/") for name in ("gone", "kept"))
    world.targets.delete(gone.id)
    message = AlertMessage("journal.delayed:1", NOW_MS, "{}")
    assert world.messages.add(message.id, NOW_MS, "journal.delayed", {"seconds": 61})
    with world.database.write() as connection:
        add_deliveries(connection, [gone], message)
    await world.deliver()
    assert world.deliveries.waiting() == {kept.id: 1}
    assert world.told() == ["an alert target does not take messages"]


async def test_answers_become_sentences_without_the_token(world: World) -> None:
    rows = [
        (b"404 Not Found", b"no_team for /services/T0/B0/token-of-the-url", "knows no such address (404)"),
        (b"403 Forbidden", b"invalid_token\x1b[2J", "check the token in the URL"),
        (b"302 Found", b"", "redirects (302), which is not followed"),
        (b"500 Oops", b"<script>alert(1)</script>", "failed (500)"),
        (b"429 Slow", b"", "limits messages (429)"),
        (b"400 Bad", b"", "refused the message (400)"),
    ]
    sender = AlertSender(Egress(strict=False), lambda text: text)
    message = AlertMessage("id", NOW_MS, json.dumps({"type": TEST, "data": {"target": "x"}}))
    for status, said, words in rows:
        answer = b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(said), said)
        async with receiver(answer) as (url, _):
            root = url.partition("/hook")[0]
            secret = AlertSecret(url=f"{root}/services/T0/B0/token-of-the-url")
            target = world.target(words, secret.url, kind="slack")
            success, sentence = await sender.send(target, secret, message)
            assert (success, words in sentence) == (False, True), sentence
            assert "token-of-the-url" not in sentence
            assert sentence.isprintable()
    strict = AlertSender(Egress(strict=True), lambda text: text)
    refused = await strict.send(world.targets.list()[0], AlertSecret(url="https://127.0.0.1/x"), message)
    assert "not a public address" in refused.sentence


async def test_secrets_of_a_lost_encryption_key_are_told_and_rekey_keeps_them(world: World) -> None:
    async with receiver(TAKEN) as (url, seen):
        made = world.target("hook", url)
        assert "sk" not in repr(world.targets.unseal(made.id))
        world.messages.add("model.unpriced:1", NOW_MS, "model.unpriced", {})
        own, world.targets = world.targets, AlertTargetStore(world.database, SecretBox([NEW_KEY]))
        with pytest.raises(ConfigurationError):
            world.targets.rekey()
        await world.deliver()
        assert "secrets cannot be read" in (own.get(made.id).error or "")
        world.targets = AlertTargetStore(world.database, SecretBox([NEW_KEY, OLD_KEY]))
        assert (world.targets.rekey(), world.targets.rekey()) == (1, 0)
        world.targets = AlertTargetStore(world.database, SecretBox([NEW_KEY]))
        world.now_ms += 5000
        await world.deliver()
        assert len(seen) == 1


def test_what_a_killed_process_had_noted_is_found_again_and_messages_are_bounded(world: World) -> None:
    keys = KeyStore(world.database, [Pepper(1, b"p")], clock_ms=lambda: NOW_MS)
    log: list[Event] = []
    stored = BudgetStore(world.database, clock_ms=lambda: NOW_MS).create(
        Budget(id="", name="core", per="user_id", limit=100, notify_at=(0.5,))
    )
    accounts = [AccountRef(stored.budget.id, "ann", stored.period(NOW_MS).start_ms)]
    one = record(attempts=[attempt(cost_nanos=60, accounts=accounts)])
    free = record(attempts=[attempt(model="free", cost_status="unpriced")], cost_status="unpriced", model="free")
    for each in (one, free):
        close(each)
    UsageStore(world.database).write([one, msgspec.structs.replace(free, cost_status="unpriced")])
    events = WebhookEvents(world.database, world.messages, keys, collector(log))
    events.note([one])
    events.look(NOW_MS)  # nobody hears it
    made = world.target("hook", "http://127.0.0.1:9/")
    events.look(NOW_MS)
    events.look(NOW_MS)
    WebhookEvents(world.database, world.messages, keys, collector(log)).look(NOW_MS)
    found = []
    while (delivery := world.deliveries.claim(made.id, NOW_MS)) is not None:
        found.append(json.loads(delivery.message.body)["type"])
    assert sorted(found) == ["budget.threshold", "model.unpriced"]
    with world.database.write() as connection:
        for number in range(MOST_WAITING):
            add_deliveries(connection, [made], AlertMessage(f"m{number}", NOW_MS, "{}"))
    assert not world.messages.add("one more", NOW_MS, "key.expiring", {})
    assert world.deliveries.waiting() == {made.id: MOST_WAITING}
    world.messages.prune(NOW_MS + 50 * DAY_MS)
    assert world.deliveries.waiting() == {}


def test_an_erased_customer_is_in_no_message_that_waits(world: World) -> None:
    world.target("hook", "http://127.0.0.1:9/")
    world.messages.add("budget.threshold:1", NOW_MS, "budget.threshold", {"per": "user_id", "value": "ann", "x": 1})
    assert len(world.deliveries.waiting()) == 1
    with world.database.write() as connection:
        forget_customer(connection, "ann")
    assert world.deliveries.waiting() == {}


class Away(WebhookMessages):
    """Messages in a database that does not answer."""

    def add(self, message_id: str, at_ms: int, kind: str, data: dict[str, Any]) -> bool:
        raise StoreUnavailable("away")


async def test_a_trouble_is_told_when_it_begins_and_without_the_database_too(world: World) -> None:
    open_breaker = Trouble("provider.breaker_open", "p m", {"provider": "p", "model": "m"})
    troubles = [open_breaker]
    async with receiver(TAKEN) as (url, seen):
        world.target("hook", url, "provider.*", "journal.*")
        delivery = world.delivery()
        watch = TroubleWatch(lambda: troubles, world.messages, [delivery.tell_now], lambda: world.now_ms)
        for found in ([open_breaker], [open_breaker], [], [open_breaker], []):
            troubles[:] = found
            await watch.look()
        await world.deliver(delivery)
        assert [body_of(each)["type"] for each in seen] == ["provider.breaker_open"]
        world.now_ms += HOUR_MS
        troubles[:] = [open_breaker]
        await watch.look()
        await world.deliver(delivery)
        assert len(seen) == 2
        away = Away(world.database)
        webhook = WebhookDelivery(away, Webhook(url, "secret", Egress(strict=False)).post, collector(world.events))
        tell_now = [delivery.tell_now, webhook.tell_now]
        without = TroubleWatch(lambda: troubles, away, tell_now, lambda: world.now_ms)
        delayed = Trouble("journal.delayed", "", {"seconds": 90})
        for found in ([delayed], [delayed], [], [delayed]):  # it comes and goes: told once an hour
            troubles[:] = found
            await without.look()
        assert [body_of(each)["data"] for each in seen[2:]] == [{"seconds": 90}] * 2
    troubles[:] = [Trouble("journal.unwritable", "1", {"worker": "1"})]
    await without.look()
    lost = ["an alert is lost: neither database nor target take it"]
    assert sorted(world.told()) == [*lost, "an alert is lost: neither database nor webhook take it"]
    troubles[:] = [Trouble("provider.paused", str(number), {"provider": "p"}) for number in range(MOST_TOLD + 5)]
    await watch.look()
    [waiting] = world.deliveries.waiting().values()
    assert waiting == MOST_TOLD


async def test_a_defect_in_a_delivery_is_logged_and_stopping_cancels_the_rest(world: World) -> None:
    class Broken(AlertSender):
        async def send(self, target: AlertTarget, secret: AlertSecret, message: AlertMessage) -> Sent:
            if target.name == "broken":
                raise ValueError(target.name)
            await asyncio.Event().wait()
            return Sent(True, "")

    for name in ("broken", "stalled"):
        world.target(name, "http://127.0.0.1:9/")
    world.messages.add("model.unpriced:1", NOW_MS, "model.unpriced", {})
    sender = Broken(Egress(strict=False), str)
    delivery = AlertDelivery(world.targets, world.deliveries, sender, collector(world.events), lambda: world.now_ms)
    await delivery.step()
    await until(lambda: bool(world.events))
    await delivery.stop(grace_s=0.01)
    assert world.told() == ["alerts cannot be delivered"]
    assert len(world.deliveries.waiting()) == 2


DATA: dict[str, dict[str, Any]] = {
    "budget.threshold": {
        "budget": CANARY, "mode": "hard", "per": "user_id", "value": CANARY, "threshold": 0.8, "unit": "usd",
        "spent": 1234.5, "limit": 1500.0, "resets_at": "2024-11-01T00:00:00Z",
    },
    "journal.delayed": {"seconds": 61},
    "journal.unwritable": Trouble("journal.unwritable", "1", {"worker": "worker 1"}).at("id", "host-1").data,
    "key.expiring": {"key": CANARY, "owner": "ann", "expires_at": "2030-01-01T00:00:00Z", "within_days": 1},
    "model.unpriced": {"model": CANARY, "provider": "p"},
    "provider.breaker_open": {"model": "m" * 1000, "provider": "p"},
    "provider.paused": {"provider": CANARY},
}  # fmt: skip


def test_every_event_has_a_text_of_one_line() -> None:
    assert DATA.keys() == set(EVENTS)
    box = Mailbox(host="h", port=25, security="none", sender="g@example.com", recipients=("a@example.com",))
    for kind, data in {**DATA, "of.later": {"x": CANARY}}.items():
        message = AlertMessage(f"{kind}:1", NOW_MS, json.dumps({"id": f"{kind}:1", "type": kind, "data": data}))
        headline, advice = text_of(message)
        assert headline.isprintable()
        assert len(headline) <= 301
        assert advice or kind == "of.later"
        assert b"<" not in slack_body(message)
        mail = mail_of(message, box)
        assert mail["message-id"] == mail_of(message, box)["message-id"]
        assert "\r" not in mail["subject"] + mail["to"]
        assert mail["bcc"] is None
    threshold = AlertMessage("x", 0, json.dumps({"type": "budget.threshold", "data": {**DATA["budget.threshold"]}}))
    assert "has spent 80% of its limit: 1,234.50 of 1,500.00 USD." in text_of(threshold).headline
