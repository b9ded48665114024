"""Events of stored usage that have a message: parts of budgets' limits, keys about to expire, models without a price.

The shipper's thread notes accounts and models of the records that it has stored. A job looks at them later, so that
shipping never waits for it. What a killed process had noted is found again by `catch_up`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import Invalid, StoreUnavailable
from llm_gateway.store.budget_thresholds import BudgetThresholds
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.usage_reports import Grouping, UsageReports
from llm_gateway.store.webhook_messages import WebhookMessages, id_part

MOST_NOTED = 10_000
"""Accounts, and models, noted between two looks. One that finds no place is noted with its next request."""
BY_MODEL = Grouping((DIMENSION_BY_NAME["provider"], DIMENSION_BY_NAME["model"]))
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
EXPIRY_DAYS = (1, 7)
"""Days before a key expires at which there is a message."""
KEYS_EVERY_MS = HOUR_MS
"""Milliseconds between two looks at keys that expire."""


class WebhookEvents:
    """Finds events and stores their messages."""

    def __init__(self, database: Database, messages: WebhookMessages, keys: KeyStore, log: Callable[..., None]) -> None:
        self._messages = messages
        self._keys = keys
        self._log = log
        self._thresholds = BudgetThresholds(database, messages)
        self._reports = UsageReports(database)
        self._lock = threading.Lock()
        self._accounts: set[AccountRef] = set()
        self._unpriced: dict[tuple[str, int], str] = {}
        self._keys_seen_ms = 0
        self._pruned_ms = 0
        self._is_caught_up = False

    def note(self, records: Iterable[UsageRecord]) -> None:
        """Note the accounts of stored records, and their models without a price."""
        accounts: set[AccountRef] = set()
        unpriced: dict[tuple[str, int], str] = {}
        for record in records:
            for attempt in record.attempts:
                if attempt.accounts:
                    accounts.update(attempt.accounts)
                if attempt.cost_status == "unpriced":
                    unpriced[attempt.model, record.at_ms // DAY_MS] = attempt.provider
        if accounts or unpriced:
            with self._lock:
                if len(self._accounts) < MOST_NOTED:
                    self._accounts |= accounts
                if len(self._unpriced) < MOST_NOTED:
                    self._unpriced |= unpriced

    def look(self, now_ms: int) -> None:
        """Check what was noted if anybody hears of it, else forget it. Raises what `check` raises."""
        if not self._messages.are_heard():
            self._is_caught_up = False
            with self._lock:
                self._accounts.clear()
                self._unpriced.clear()
            if now_ms - self._pruned_ms >= KEYS_EVERY_MS:  # what waits for a webhook of before
                self._pruned_ms = now_ms
                self._messages.prune(now_ms)
            return
        if not self._is_caught_up:
            self.catch_up(now_ms)
            self._is_caught_up = True
        self.check(now_ms)

    def catch_up(self, now_ms: int) -> None:
        """Store messages for what nobody has noted: stored usage of a process that was killed.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        self._tell_dropped(self._thresholds.check_all(now_ms))
        day = now_ms // DAY_MS
        with suppress(Invalid, StoreUnavailable):  # too many models, or older records are not summed yet
            totals = self._reports.totals(BY_MODEL, (day * DAY_MS, (day + 1) * DAY_MS))
            with self._lock:
                for (provider, model), sums in totals.items():
                    if sums.unpriced_requests:
                        self._unpriced.setdefault((model or "", day), provider or "")

    def check(self, now_ms: int) -> None:
        """Store messages for what was noted since the last call, and for keys that expire soon.

        Raises:
            StoreUnavailable: the database does not answer; what was noted is noted again with the next requests.
        """
        with self._lock:
            accounts, self._accounts = self._accounts, set()
            unpriced, self._unpriced = self._unpriced, {}
        dropped = self._thresholds.check(accounts, now_ms)
        for (model, day), provider in unpriced.items():
            data = {"model": model, "provider": provider, "day": _day(day * DAY_MS)}
            name = f"model.unpriced:{day}:{id_part(model)}"
            dropped += not self._messages.add(name, now_ms, "model.unpriced", data)
        if now_ms - self._keys_seen_ms >= KEYS_EVERY_MS:
            self._keys_seen_ms = now_ms
            dropped += self._check_keys(now_ms)
            self._messages.prune(now_ms)
        self._tell_dropped(dropped)

    def _tell_dropped(self, count: int) -> None:
        if count:
            self._log("webhook messages are dropped: too many wait", level="error", count=count)

    def _check_keys(self, now_ms: int) -> int:
        dropped = 0
        for key in self._keys.expiring(now_ms, now_ms + max(EXPIRY_DAYS) * DAY_MS):
            expires_at_ms = key.expires_at_ms or 0
            days = next(days for days in EXPIRY_DAYS if expires_at_ms <= now_ms + days * DAY_MS)
            at = datetime.fromtimestamp(expires_at_ms / 1000, UTC).isoformat(timespec="seconds")
            data = {"key_id": key.id, "key": key.name, "owner": key.owner, "expires_at": at.replace("+00:00", "Z")}
            name = f"key.expiring:{key.id}:{expires_at_ms}:{days}"
            dropped += not self._messages.add(name, now_ms, "key.expiring", data | {"within_days": days})
        return dropped


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")
