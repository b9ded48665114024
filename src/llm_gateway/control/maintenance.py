"""Periodic jobs: delete old usage, empty the database's log, and refresh prices that change with the time of day."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.database import LOG_LIMIT
from llm_gateway.store.retention import Retention
from llm_gateway.telemetry.failed_authentications import FailedCount
from llm_gateway.telemetry.report_totals import ReportTotals

FIRST_DELETE_S, DELETE_EVERY_S, DELETE_PAUSE_S = 5.0, 3600.0, 0.1
"""Seconds from the start to the first clean-up, which the first requests do not wait for, between two clean-ups, and
between two steps of one, which let other writers have the database."""
SHORTEN_EVERY_S = 1.0
"""Seconds between two looks at the length of SQLite's write-ahead log."""
LONGEST_SHORTEN_PAUSE_S = 32.0
"""Maximum seconds between two attempts while a read keeps the log from being emptied."""
LONG_LOG = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which its length is logged."""
SAVE_EVERY_S = 10.0
"""Seconds between two saves of the metrics' totals."""
LOOK_AGAIN_S = 60.0
"""Seconds after which a host looks again whether it has to do what only one of the hosts does."""
FAILED_EVERY_S, FAILED_PAUSE_S = 5.0, 60.0
"""Seconds between two looks for failed authentications, and between two lines about them."""
MOST_ADDRESSES = 5
"""Addresses in such a line: those with most failures."""
REFRESH_EVERY_S = 300.0
"""Seconds between two rebuilds of the snapshot."""


def always() -> bool:
    """Return True: the gateway is alone on its database."""
    return True


async def delete_old_usage_forever(
    retention: Retention,
    log: Callable[..., None],
    is_leader: Callable[[], bool] = always,
    *,
    first_s: float = FIRST_DELETE_S,
) -> None:
    """Delete expired usage records and roll up past days, each hour, in small steps. Runs until cancelled.

    `is_leader` tells whether this host does it; the others wait. The first clean-up begins after `first_s`.
    """
    await asyncio.sleep(first_s)
    while True:
        if not is_leader():
            await asyncio.sleep(LOOK_AGAIN_S)
            continue
        try:
            is_left = await asyncio.to_thread(retention.step)
        except StoreUnavailable:
            log("old usage records are not deleted: the database does not answer", level="warning")
            is_left = False
        except Exception as error:  # edge: the job logs any failure and runs again in an hour
            log("old usage records cannot be deleted", level="error", exc_info=error)
            is_left = False
        await asyncio.sleep(DELETE_PAUSE_S if is_left else DELETE_EVERY_S)


async def shorten_log_forever(
    shorten: Callable[[], int], log: Callable[..., None], *, every_s: float = SHORTEN_EVERY_S
) -> None:
    """Keep the database's write-ahead log short by `Database.shorten_log`; runs until cancelled.

    If the log becomes long all the same, that is logged once, and once that it is short again. After each failure the
    pause doubles, since writers wait during an attempt, and a backup can last for minutes.
    """
    is_told, pause_s = False, every_s
    while True:
        await asyncio.sleep(pause_s)
        with suppress(StoreUnavailable):  # logged by the health check
            length = await asyncio.to_thread(shorten)
            pause_s = every_s if length <= LOG_LIMIT else min(2 * pause_s, LONGEST_SHORTEN_PAUSE_S)
            if length > LONG_LOG and not is_told:
                log(
                    "the database's write-ahead log grows: a read keeps it from being emptied",
                    level="warning",
                    megabytes=length // 1_000_000,
                )
            elif is_told and length <= LONG_LOG:
                log("the database's write-ahead log is short again")
            is_told = length > LONG_LOG


def ignore(*_: object, **__: object) -> None:
    """Drop a log event that was logged before."""


def save_totals(totals: ReportTotals, log: Callable[..., None]) -> bool:
    """Save the metrics' totals, so that counters go on where they were after a restart. Returns whether it worked."""
    try:
        totals.save()
    except OSError as error:
        log("metrics cannot be saved: counters start anew after a restart", level="warning", reason=error.strerror)
        return False
    return True


async def save_totals_forever(totals: ReportTotals, log: Callable[..., None]) -> None:
    """Save the metrics' totals each ten seconds. Runs until cancelled."""
    is_failing = False
    while True:
        await asyncio.sleep(SAVE_EVERY_S)
        is_failing = not save_totals(totals, ignore if is_failing else log)


async def refresh_prices_forever(
    configuration: LiveConfiguration, log: Callable[..., None], *, every_s: float = REFRESH_EVERY_S
) -> None:
    """Rebuild the snapshot each five minutes, for prices that change with the time of day. Runs until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(configuration.reload)
        except StoreUnavailable:
            log("prices are not refreshed: the database does not answer", level="warning")
        except Exception as error:  # edge: the job logs any failure and runs again in five minutes
            log("prices cannot be refreshed", level="error", exc_info=error)


async def log_failed_authentications_forever(
    counts: Callable[[], Iterable[tuple[str, FailedCount]]],
    log: Callable[..., None],
    *,
    every_s: float = FAILED_EVERY_S,
    pause_s: float = FAILED_PAUSE_S,
) -> None:
    """Log at most once a minute how many requests had no valid key, and from where. Runs until cancelled.

    `counts` returns the sums since the start by address.
    """
    told: Counter[str] = Counter()
    while True:
        found = Counter({address: each.number for address, each in counts()})
        new = found - told
        if new:
            addresses = dict(new.most_common(MOST_ADDRESSES))
            log("failed authentications", level="warning", count=new.total(), addresses=addresses)
            told = found
        await asyncio.sleep(pause_s if new else every_s)
