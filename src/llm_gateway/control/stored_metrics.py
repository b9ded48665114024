"""Metrics that control computes from the database, from time to time: how full budgets are, when the next key expires.

No scrape waits for the database: it gets what was read last, and the time left is counted down since then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice

from llm_gateway import wall_clock
from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.keys import KeyStore
from llm_gateway.telemetry.metrics import MOST_VALUES, OTHER

READ_EVERY_S = 15.0
"""Seconds between two readings, if one takes little time."""
SHARE_OF_TIME = 0.05
"""Greatest part of the time that is spent reading: a budget can have a million accounts."""
FAR_MS = 2**62


class StoredMetrics:
    """Used shares of budgets, and the time until the next service key expires. `clock_ms` returns milliseconds UTC."""

    def __init__(
        self,
        budgets: BudgetStore,
        spend: BudgetSpend,
        keys: KeyStore,
        clock_ms: Callable[[], int] = wall_clock.now_ms,
    ) -> None:
        self._budgets = budgets
        self._spend = spend
        self._keys = keys
        self._clock_ms = clock_ms
        self._used: dict[str, float] = {}
        self._expires_ms: int | None = None

    def read(self) -> None:
        """Read the database.

        Raises:
            StoreUnavailable: the database does not answer; what was read before stays.
        """
        now_ms = self._clock_ms()
        used: dict[str, float] = {}
        for number, stored in enumerate(self._budgets.list()):
            label = stored.budget.name if number < MOST_VALUES else OTHER
            for fullest in self._spend.page(stored, now_ms, 1):
                spent = fullest.balance.of(stored.budget.unit)
                share = spent / fullest.limit if fullest.limit else float(spent > 0)
                used[label] = max(share, used.get(label, 0.0))
            used.setdefault(label, 0.0)
        self._used = used
        following = islice(self._keys.expiring(now_ms, FAR_MS, limit=1), 1)
        self._expires_ms = next((key.expires_at_ms for key in following), None)

    def families(self) -> list[MetricFamily]:
        """Return what was read last. The time until a key expires is missing if none does."""
        text = "Used share of the limit in the current period, of the budget's account that has spent most of it"
        samples = [Sample("", {"budget": name}, share) for name, share in self._used.items()]
        found = [MetricFamily(name="llm_gateway_budget_used_ratio", type="gauge", help=text, samples=samples)]
        text = "Time until the next enabled service key expires"
        if self._expires_ms is not None:
            left_s = max(0.0, (self._expires_ms - self._clock_ms()) / 1000)
            return [*found, gauge("llm_gateway_next_key_expiry_seconds", text, left_s)]
        return [*found, MetricFamily(name="llm_gateway_next_key_expiry_seconds", type="gauge", help=text, samples=[])]


async def read_metrics_forever(
    metrics: StoredMetrics, log: Callable[..., None], *, every_s: float = READ_EVERY_S
) -> None:
    """Read the metrics each fifteen seconds, less often if that takes long. Runs until cancelled."""
    is_failing = False
    while True:
        started = time.monotonic()
        try:
            await asyncio.to_thread(metrics.read)
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                log("budgets and keys cannot be measured", level="error", exc_info=error)
            is_failing = True
        await asyncio.sleep(max(every_s, (time.monotonic() - started) / SHARE_OF_TIME))
