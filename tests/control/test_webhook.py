"""Messages to the webhook: which events have one, how they are signed and sent, and that none comes twice."""

from __future__ import annotations

import asyncio
import hmac
import json
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.control.budget_upkeep import count_older_usage_forever
from llm_gateway.control.webhook_delivery import BACKOFF_S, WebhookDelivery, repeat_forever
from llm_gateway.control.webhook_events import DAY_MS, HOUR_MS, WebhookEvents
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.webhook import Webhook, signing_key
from llm_gateway.store.budget_backfill import Backfilled, BudgetBackfill
from llm_gateway.store.budget_charges import Charges
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.tables import webhook_messages
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.webhook_messages import WebhookMessages
from llm_gateway.upstream.egress import Egress
from tests.application.driver import until
from tests.store.histories import NOW_MS, attempt, close, record

SECRET = "a secret of the receiver"
OUTSIDE_S = 1_700_000_000
"""The time by the clock that receivers compare with theirs."""


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, **_: object) -> None:
        self.events.append(event)


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{shutil.copy(migrated, tmp_path / 'webhook.db')}", fsync=False)
    yield database
    database.close()


def events_of(database: Database, log: Log | None = None, most: int = 1000) -> WebhookEvents:
    keys = KeyStore(database, [Pepper(1, b"p")], clock_ms=lambda: NOW_MS)
    return WebhookEvents(database, WebhookMessages(database, most), keys, log or Log())


def waiting(database: Database, now_ms: int = NOW_MS + 30 * DAY_MS) -> list[dict[str, Any]]:
    return [json.loads(message.body) for message in WebhookMessages(database).due(now_ms, 1000)]


def spend(database: Database, events: WebhookEvents, account: AccountRef, nanos: int) -> None:
    one = record(attempts=[attempt(cost_nanos=nanos, accounts=[account])])
    close(one)
    UsageStore(database).write([one])
    events.note([one])
    events.check(NOW_MS)


def test_each_part_of_a_limit_has_one_message_whatever_is_restarted(database: Database) -> None:
    budget = Budget(id="", name="core", per="user_id", limit=100 * 10**9, notify_at=(0.5, 0.8, 1.0))
    stored = BudgetStore(database, clock_ms=lambda: NOW_MS).create(budget)
    account = AccountRef(stored.budget.id, "ann", stored.period(NOW_MS).start_ms)
    spend(database, events_of(database), account, 49 * 10**9)
    assert waiting(database) == []
    spend(database, events_of(database), account, 2 * 10**9)
    [first] = waiting(database)
    assert (first["type"], first["at_ms"]) == ("budget.threshold", NOW_MS)
    assert first["data"] == {
        "budget_id": stored.id, "budget": "core", "mode": "hard", "per": "user_id", "value": "ann", "threshold": 0.5,
        "unit": "usd", "spent": 51.0, "limit": 100.0, "period": "month",
        "period_start": "2024-10-01T00:00:00Z", "resets_at": "2024-11-01T00:00:00Z",
    }  # fmt: skip
    spend(database, events_of(database), account, 1)
    assert len(waiting(database)) == 1
    spend(database, events_of(database), account, 60 * 10**9)
    spend(database, events_of(database), account, 60 * 10**9)
    assert sorted(each["data"]["threshold"] for each in waiting(database)) == [0.5, 0.8, 1.0]
    other = account._replace(value="bob")
    spend(database, events_of(database), other, 50 * 10**9)
    assert len(waiting(database)) == 4
    past = account._replace(period_start_ms=0)
    spend(database, events_of(database), past, 500 * 10**9)
    assert len(waiting(database)) == 4


async def test_a_customer_of_any_characters_has_a_message_and_none_after_its_erasure(database: Database) -> None:
    customers = ["日本\r\nx-evil: 1", "Zoë", "a_b", "😀" * 256, "A_b"]
    for per in ("user_id", "service"):
        budget = Budget(id="", name=per, per=per, limit=1, notify_at=(1.0,))
        stored = BudgetStore(database, clock_ms=lambda: NOW_MS).create(budget)
        for customer in customers:
            account = AccountRef(stored.budget.id, customer, stored.period(NOW_MS).start_ms)
            one = record(attempts=[attempt(cost_nanos=1, accounts=[account])], user_id=customer)
            close(one)
            UsageStore(database).write([one])
            events = events_of(database)
            events.note([one])
            events.check(NOW_MS)
    async with receiver(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, seen):
        post = Webhook(url, SECRET, Egress(strict=False)).post
        await WebhookDelivery(WebhookMessages(database), post, Log(), lambda: NOW_MS).deliver()
        assert len(seen) == 2 * len(customers)
        assert not [each for each in seen if b"\r\nx-evil" in each]
        assert max(map(len, seen)) < 1024 + 2 * 4 * 256
    for customer in customers[:-1]:
        assert Erasure(database, sleep=lambda _: None).run(customer, NOW_MS + DAY_MS) is not None
    with database.read() as connection:
        kept = [json.loads(body)["data"] for body in connection.execute(sa.select(webhook_messages.c.body)).scalars()]
    assert [each["value"] for each in kept if each["per"] == "user_id"] == ["A_b"]
    assert len(kept) == 1 + len(customers)


def test_a_key_that_ends_soon_and_a_model_without_a_price_have_messages(database: Database) -> None:
    store, events = KeyStore(database, [Pepper(1, b"p")]), events_of(database)
    store.create(KeyDraft(name="soon", expires_at_ms=NOW_MS + 6 * DAY_MS, owner="ann"))
    store.create(KeyDraft(name="later", expires_at_ms=NOW_MS + 60 * DAY_MS))
    store.create(KeyDraft(name="off", expires_at_ms=NOW_MS + 6 * DAY_MS, disabled=True))
    free = [record(attempts=[attempt(cost_status="unpriced", model=model)]) for model in ("m", "n", "m")]
    for _ in range(2):
        events.note(free)
        events.check(NOW_MS)
    found = [(each["type"], each["data"]) for each in waiting(database)]
    assert [(kind, data.get("model"), data.get("within_days")) for kind, data in found] == [
        ("key.expiring", None, 7), ("model.unpriced", "m", None), ("model.unpriced", "n", None),
    ]  # fmt: skip
    assert (found[0][1]["key"], found[0][1]["owner"]) == ("soon", "ann")
    assert found[1][1]["day"] == "2024-10-04"
    events.check(NOW_MS + HOUR_MS)
    assert len(waiting(database)) == 3
    events_of(database).check(NOW_MS + 5 * DAY_MS + HOUR_MS)
    assert [each["data"].get("within_days") for each in waiting(database)].count(1) == 1


def test_messages_are_dropped_once_too_many_wait(database: Database) -> None:
    log = Log()
    events = events_of(database, log, most=2)
    events.note([record(attempts=[attempt(cost_status="unpriced", model=f"m{number}")]) for number in range(5)])
    events.check(NOW_MS)
    assert len(waiting(database)) == 2
    assert log.events == ["webhook messages are dropped: too many wait"]


async def test_a_message_is_repeated_with_growing_pauses_and_given_up(database: Database) -> None:
    messages, log, now_ms, sent = WebhookMessages(database), Log(), NOW_MS, 0
    messages.add("one", NOW_MS, "test", {"x": 1})
    messages.add("two", NOW_MS, "test", {})
    results = [UpstreamResult(status=302), UpstreamResult(fault="timeout", message="No complete answer in time")]

    async def post(message_id: str, body: bytes, timestamp_s: int, timeout_s: float) -> UpstreamResult:
        nonlocal sent
        sent += 1
        assert (json.loads(body)["id"], timestamp_s, timeout_s) == (message_id, OUTSIDE_S, 10)
        return results[sent % 2] if message_id == "one" else UpstreamResult(status=204)

    delivery = WebhookDelivery(messages, post, log, lambda: now_ms, outside_s=lambda: OUTSIDE_S)
    for pause_s in BACKOFF_S:
        await delivery.deliver()
        await delivery.deliver()
        assert messages.due(now_ms + pause_s * 1000 - 1, 9) == []
        assert [each.id for each in messages.due(now_ms + pause_s * 1000, 9)] == ["one"]
        now_ms += pause_s * 1000
    await delivery.deliver()
    await delivery.deliver()
    assert messages.due(NOW_MS + 30 * DAY_MS, 9) == []
    assert sent == len(BACKOFF_S) + 2
    assert log.events.count("the webhook does not take messages") == 2
    assert log.events.count("the webhook takes messages again") == 1
    assert log.events[-1] == "a webhook message is given up"
    messages.prune(NOW_MS + 50 * DAY_MS)
    assert messages.add("one", NOW_MS, "test", {})
    assert len(messages.due(NOW_MS, 9)) == 1


def test_nothing_waits_for_a_webhook_that_was_removed(database: Database) -> None:
    had, has_none = WebhookMessages(database), WebhookMessages(database, has_webhook=False)
    for number in range(2):
        assert had.add(f"m{number}", NOW_MS + number * DAY_MS, "test", {})
    events = WebhookEvents(database, has_none, KeyStore(database, [Pepper(1, b"x" * 32)]), Log())
    events.look(NOW_MS + DAY_MS + 1)
    assert [each.id for each in had.due(NOW_MS + 2 * DAY_MS, 9)] == ["m1"], "it may be that of another gateway"
    for days in (3, 60):
        events.look(NOW_MS + days * DAY_MS)
        assert had.due(NOW_MS + 90 * DAY_MS, 9) == []
    with database.read() as connection:
        assert connection.execute(sa.select(webhook_messages.c.id)).all() == []


@asynccontextmanager
async def receiver(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server that answers each request the same; an empty answer never comes."""
    seen: list[bytes] = []
    served: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        seen.append(head + await reader.readexactly(length))
        if answer:
            writer.write(answer)
            await writer.drain()
        else:
            await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?x=1", seen
        await asyncio.gather(*filter(None, served))


async def test_a_message_is_signed_and_redirects_and_private_addresses_are_not_followed(database: Database) -> None:
    body = b'{"type":"test"}'
    async with receiver(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, seen):
        webhook = Webhook(url, SECRET, Egress(strict=False))
        assert (await webhook.post("id-1", body, 1_700_000_000, 5)).status == 204
        head, _, sent = seen[0].partition(b"\r\n\r\n")
        expected = b64encode(hmac.digest(SECRET.encode(), b"id-1.1700000000." + body, "sha256")).decode()
        assert sent == body
        assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
        for line in ("webhook-id: id-1", "webhook-timestamp: 1700000000", f"webhook-signature: v1,{expected}"):
            assert f"\r\n{line}\r\n" in f"{head.decode()}\r\n"
        refused = await Webhook(url, SECRET, Egress(strict=True)).post("id-1", body, 0, 5)
        assert (refused.fault, "https" in refused.message, len(seen)) == ("not_sent", True, 1)
        WebhookMessages(database).add("unpriced", 5, "test", {})
        delivery = WebhookDelivery(WebhookMessages(database), webhook.post, Log())
        task = asyncio.create_task(repeat_forever([delivery.deliver], Log(), every_s=0.01))
        await until(lambda: len(seen) == 2)
        task.cancel()
    async with receiver(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n") as (
        url,
        seen,
    ):
        assert (await Webhook(url, SECRET, Egress(strict=False)).post("id-1", body, 0, 5)).status == 307
        assert len(seen) == 1
        messages = WebhookMessages(database)
        messages.add("of another host", 5, "test", {})
        follower = WebhookDelivery(messages, webhook.post, Log(), is_leader=lambda: False)
        assert await follower.deliver() == 0
        assert "of another host" in {message.id for message in messages.due(5, 10)}
    async with receiver(b"") as (url, _):
        assert (await Webhook(url, SECRET, Egress(strict=False)).post("id-1", body, 0, 0.05)).fault == "timeout"


async def test_a_job_that_fails_logs_it_once_and_goes_on() -> None:
    calls: list[int] = []

    async def broken() -> None:
        calls.append(1)
        raise ValueError("broken")

    log = Log()
    task = asyncio.create_task(repeat_forever([broken], log, every_s=0.001))
    await until(lambda: len(calls) > 2)
    task.cancel()
    assert log.events == ["the webhook's messages cannot be handled"]


async def test_budgets_without_older_usage_are_told(database: Database) -> None:
    class Broken(BudgetBackfill):
        calls = 0

        def step(self) -> Backfilled | None:
            self.calls += 1
            if self.calls < 3:
                return super().step()
            raise ValueError(self.calls)

    log, added = Log(), list[object]()
    stored = BudgetStore(database).create(Budget(id="", name="core", per="user_id", limit=1))
    BudgetStore(database).create(Budget(id="", name="other", per="user_id", limit=1))
    at_ms = stored.period(stored.defined_at_ms).start_ms
    one = record(at_ms, attempts=[attempt(cost_nanos=7)])
    close(one)
    UsageStore(database).write([one])

    def together(store: Callable[[], bool], charges: Charges) -> bool:
        added.extend([charges] if charges else [])
        return store()

    backfill = Broken(database, together=together)
    task = asyncio.create_task(count_older_usage_forever(backfill, log, every_s=0.001))
    await until(lambda: backfill.calls > 4)
    task.cancel()
    assert log.events == ["older usage is added to a budget"] * 2 + ["older usage cannot be added to budgets"]
    assert len(added) == 2
    BudgetStore(database).create(Budget(id="", name="full", per="user_id", limit=1))
    task = asyncio.create_task(count_older_usage_forever(BudgetBackfill(database, most_accounts=0), log, every_s=0.001))
    await until(lambda: len(log.events) > 3)
    task.cancel()
    assert log.events[-1] == "older usage is not added to a budget: it has too many accounts"


def test_a_secret_of_standard_webhooks_is_decoded() -> None:
    assert signing_key("whsec_" + b64encode(b"key").decode()) == b"key"
    assert signing_key("whsec_!") == b"whsec_!"
    assert signing_key("plain") == b"plain"
