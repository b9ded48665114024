"""deploy/prometheus/rules.yml: each alert fires from what /metrics says, its metrics exist, its paragraph, too."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_gateway import errors
from llm_gateway.control.journal_metrics import journal_gauges
from llm_gateway.control.stored_metrics import StoredMetrics, read_metrics_forever
from llm_gateway.control.workers import Workers
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import GatewayError
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.writer_tail import ShippingLag
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.usage import UsageStore
from llm_gateway.telemetry import Metrics
from llm_gateway.telemetry.exposition import render
from llm_gateway.telemetry.failed_authentications import FailedTotals
from llm_gateway.telemetry.metrics import MOST_VALUES
from llm_gateway.telemetry.report_totals import ReportTotals
from llm_gateway.worker.loop_lag import LoopLag
from llm_gateway.worker.pipeline.usage_recorder import outcome_of
from tests.application.driver import Client
from tests.channel.harness import collector, configuration, control, raw_worker, worker
from tests.control.management.test_providers import created
from tests.control.prometheus_rules import (
    OF_PROMETHEUS,
    PROMTOOL,
    ROOT,
    RULES,
    Scene,
    anchors,
    firing,
    labels_of,
    names_used,
    rules,
)
from tests.store import histories
from tests.store.histories import NOW_MS, attempt, close
from tests.telemetry.harness import record
from tests.upstream import MockUpstream
from tests.waiting import until

DAY_MS = 86_400_000
GIB = 1 << 30


def scene(name: str, before: Iterable[MetricFamily], after: Iterable[MetricFamily], *alerts: str) -> Scene:
    return Scene(name, render(before), render(after), alerts or (name,))


def calls(*records: Any, dropped: int = 0) -> list[MetricFamily]:
    """Return what a worker reports that has served these requests after some that were answered at once."""
    metrics = Metrics(list, lambda: dropped)
    for each in [record(first_token_ms=100)] * 10 + list(records):
        metrics(each)
    return metrics.report()


def failed(kind: type[GatewayError]) -> UsageRecord:
    """Return the record of a request that ended with this error before any attempt."""
    error = kind.__new__(kind)
    return record(outcome=outcome_of(error), error_code=kind.code, status=kind.status, attempts=[])


def of_calls() -> list[Scene]:
    slow = [record(first_token_ms=40_000)] * 5
    guessed = [record(attempts=[attempt(cost_status="estimated")])] * 5
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]
    mistakes = [failed(kind) for kind in kinds if kind.status < 500]
    return [
        Scene("mistakes of clients, limits and budgets", render(calls()), render(calls(*mistakes * 5)), []),
        *(
            scene(kind.code, calls(), calls(*[failed(kind)] * 5), "LLMGatewayErrors")
            for kind in kinds
            if kind.status >= 500
        ),
        scene("LLMGatewayProvidersRefuse", calls(), calls(*[failed(errors.ProviderRefused)] * 40)),
        scene("LLMGatewayFirstTokenSlow", calls(), calls(*slow)),
        scene("LLMGatewayEstimatedCosts", calls(), calls(*guessed)),
        scene("LLMGatewayLogLinesDropped", calls(), calls(dropped=50)),
    ]


class Behind(Shipper):
    """A shipper that is some seconds behind."""

    seconds = 0.0

    def behind(self) -> ShippingLag:
        return ShippingLag(1, self.seconds)


def of_journal(root: Path) -> list[Scene]:
    shipper = Behind(root, lambda _records: None, log=lambda *_, **__: None)

    def measured(available: int) -> list[MetricFamily]:
        found = os.statvfs_result((1, 1, 100 * GIB, available, available, 0, 0, 0, 0, 255))
        return journal_gauges(root, shipper, lambda: 0, lambda _: found)

    def away(_: Path) -> os.statvfs_result:
        raise OSError

    names = {family.name for family in journal_gauges(root, shipper, lambda: 0, away)}
    assert "llm_gateway_journal_filesystem_available_bytes" not in names
    quiet = measured(50 * GIB)
    scenes = [scene("LLMGatewayJournalDisk", quiet, measured(9 * GIB))]
    shipper.seconds = 90.0
    return [*scenes, scene("LLMGatewayShippingDelayed", quiet, measured(50 * GIB))]


def of_database(path: Path) -> list[Scene]:
    database = Database.open(f"sqlite:///{path}", fsync=False)
    keys, budgets = KeyStore(database, [Pepper(1, b"p")]), BudgetStore(database, clock_ms=lambda: NOW_MS)
    keys.create(KeyDraft(name="later", expires_at_ms=NOW_MS + 60 * DAY_MS))
    keys.create(KeyDraft(name="off", expires_at_ms=NOW_MS + DAY_MS, disabled=True))
    core = budgets.create(Budget(id="", name="core", per="user_id", limit=1000))
    budgets.create(Budget(id="", name="free", limit=0))
    start_ms = core.period(NOW_MS).start_ms
    stored = StoredMetrics(budgets, BudgetSpend(database), keys, clock_ms=lambda: NOW_MS)

    def spend(value: str, nanos: int) -> list[MetricFamily]:
        accounts = [AccountRef(core.budget.id, value, start_ms)]
        one = histories.record(attempts=[attempt(cost_nanos=nanos, accounts=accounts)])
        close(one)
        UsageStore(database).write([one])
        stored.read()
        return stored.families()

    assert stored.families()[1].samples == []
    quiet, spent = spend("ann", 700), spend("bob", 810)
    assert {each.labels["budget"]: each.value for each in spent[0].samples} == {"core": 0.81, "free": 0.0}
    scenes = [scene("LLMGatewayBudgetNearlySpent", quiet, spent)]
    keys.create(KeyDraft(name="soon", expires_at_ms=NOW_MS + 2 * DAY_MS))
    stored.read()
    soon = [quiet[0], stored.families()[1]]
    assert [each.value for each in soon[1].samples] == [2 * 86_400]
    for number in range(MOST_VALUES + 3):
        budgets.create(Budget(id="", name=f"b{number}", limit=1))
    stored.read()
    assert len(stored.families()[0].samples) == MOST_VALUES + 1
    database.close()
    return [*scenes, scene("LLMGatewayKeyExpires", quiet, soon)]


async def of_workers(directory: Path) -> Scene:
    failed = FailedTotals()
    async with control(directory) as running, worker(directory, 1):
        workers = Workers(running.server, ReportTotals(), list, list, collector([]), failed)
        await asyncio.to_thread(workers.distribute, configuration("a"))
        before, _ = await workers.metrics()
        async with raw_worker(directory):
            await until(lambda: len(running.server.workers) == 2)
            after, _ = await workers.metrics()
    return Scene("diverged", before, after, ["LLMGatewayConfigurationDiverges"])


async def of_event_loop() -> Scene:
    lag = LoopLag(every_s=0.001)
    task = asyncio.create_task(lag.run())
    await until(lambda: bool(lag.family().samples))
    before = render([lag.family()])
    for _ in range(3):
        time.sleep(0.12)  # noqa: ASYNC251 - the loop is to be late
        await asyncio.sleep(0.005)
    task.cancel()
    return Scene("late", before, render([lag.family()]), ["LLMGatewayEventLoopLate"])


def without_lag(text: bytes) -> bytes:
    """Return a scrape without the lateness of the test's own event loop, which a busy machine keeps waiting."""
    return b"".join(line for line in text.splitlines(keepends=True) if b"llm_gateway_loop_lag_seconds" not in line)


async def of_gateway(client: Client, mock: MockUpstream) -> Scene:
    """Let requests fail at a running gateway, and call a model without a price."""
    before = (await client.call("GET", "/metrics")).body
    await created(client, name="p", base_url=mock.base_url, models=["status-500"])
    await created(client, name="unpriced", base_url=mock.base_url, models=["ok"])
    for number in range(6):
        body = {"user_id": "u", "service": "s", "prompt": str(number), "model": "status-500" if number < 5 else "ok"}
        await client.call("POST", "/api/v1/generate", body, headers={"x-request-timeout-ms": "180"})
    after = (await client.call("GET", "/metrics")).body
    assert b'llm_gateway_inexact_costs_total{cost_status="unpriced"} 1.0' in after
    for name in (
        "llm_gateway_budget_used_ratio",
        "llm_gateway_next_key_expiry_seconds",
        "llm_gateway_journal_filesystem_available_bytes",
        "llm_gateway_journal_filesystem_size_bytes",
    ):
        assert f"# TYPE {name} gauge".encode() in after
    before, after = (without_lag(text) for text in (before, after))
    return Scene("gateway", before, after, ["LLMGatewayBreakerOpen", "LLMGatewayErrors", "LLMGatewayUnpricedModel"])


async def test_each_alert_fires_on_what_metrics_say_and_none_before(
    client: Client, mock: MockUpstream, tmp_path: Path, migrated: Path
) -> None:
    scenes = [
        *of_calls(),
        *of_journal(tmp_path / "journal"),
        *of_database(Path(shutil.copy(migrated, tmp_path / "stored.db"))),
        await of_workers(tmp_path),
        await of_event_loop(),
        await of_gateway(client, mock),
    ]
    assert {name for each in scenes for name in each.alerts} == {each["alert"] for each in rules()}
    labels = labels_of([each.after for each in scenes])
    for rule in rules():
        metrics, used = names_used(rule["expr"])
        assert metrics <= labels.keys(), rule["alert"]
        assert used <= OF_PROMETHEUS.union(*(labels[name] for name in metrics)), rule["alert"]
    if PROMTOOL is None:
        pytest.skip("promtool (package prometheus) is not installed: the rules were not evaluated")
    found = await asyncio.to_thread(firing, scenes, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    unexpected = await asyncio.to_thread(firing, [scenes[1]._replace(alerts=[])], tmp_path)
    assert unexpected.returncode == 1, "an alert that is not expected fails"


def test_each_rule_says_what_is_wrong_and_names_its_paragraph_of_the_runbook() -> None:
    headings = set(anchors(ROOT / "docs" / "RUNBOOK.md"))
    assert len(rules()) == 13
    for rule in rules():
        notes = rule["annotations"]
        assert all(notes[name] for name in ("summary", "description")), rule["alert"]
        file, _, fragment = notes["runbook_url"].partition("#")
        assert (file, fragment) == ("docs/RUNBOOK.md", rule["alert"].lower())
        assert fragment in headings
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (package prometheus) is not installed")
def test_promtool_takes_the_rules() -> None:
    found = subprocess.run([str(PROMTOOL), "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert (found.returncode, "13 rules found" in found.stdout) == (0, True), found.stdout + found.stderr


async def test_a_database_that_cannot_be_read_is_told_once() -> None:
    class Broken(StoredMetrics):
        def __init__(self, read: Callable[[], None]) -> None:
            self.read = read  # type: ignore[method-assign]

    events: list[tuple[str, dict[str, Any]]] = []
    seen: list[int] = []

    def read() -> None:
        seen.append(1)
        raise ValueError("broken")

    task = asyncio.create_task(read_metrics_forever(Broken(read), collector(events), every_s=0.001))
    await until(lambda: len(seen) > 2)
    task.cancel()
    told: Sequence[str] = [event for event, _ in events]
    assert told == ["budgets and keys cannot be measured"]
