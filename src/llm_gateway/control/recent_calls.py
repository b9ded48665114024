"""Calls of the last minute, read from the usage records: they count against the rate limits of a worker that starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llm_gateway import wall_clock
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.domain.usage import KeyCall, SentAttempt
from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory import KEYS_FILLED, HostMemory
from llm_gateway.journal.shipper import Shipper
from llm_gateway.limiter.shared import SharedLimiter
from llm_gateway.limiter.shared_window import KEYS_WINDOWS
from llm_gateway.store.usage import LONGEST_REQUEST_MS, UsageStore

WINDOW_MS = 61_000
"""Milliseconds from which calls count: the limiter's window of a minute plus its widest bucket."""
FLUSH_S = 5.0
"""Seconds that the records of a worker that has just ended may take to reach the database."""


CONTROL = 0
"""Number of the control process in the memory; workers count from 1."""


def fill_shared_limits(memory: int, recent: Callable[[], list[SentAttempt]]) -> None:
    """Count the calls of an earlier run in the limits that the workers share, unless they are in the memory already.

    `memory` is the descriptor of the memory of this host.

    Raises:
        StoreUnavailable: the database does not answer.
        UnusableMemory: the memory was created by another version of the gateway.
    """
    host = HostMemory(memory)
    if host.is_filled:
        return
    limiter, now_ms = SharedLimiter(host, CONTROL), wall_clock.now_ms()
    for attempt in recent():
        limiter.refill(attempt.provider_id, max(0, now_ms - attempt.started_ms) / 1000, attempt.limit_tokens)
    host.mark_filled()


def fill_key_limits(
    host: HostMemory, keys: Iterable[ServiceKey], recent: Callable[[int], list[KeyCall]], now_ms: int
) -> None:
    """Count the requests of the last minute in the limits of their keys and of these keys' parents.

    Nothing is done if the memory has them already. `recent` returns the requests since a time. Call it before workers
    serve requests.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    if host.words[KEYS_FILLED]:
        return
    calls = calls_by_limit(keys, recent, now_ms)
    if calls:
        limiter = SharedLimiter(host, CONTROL, table=KEYS_WINDOWS)
        for call in calls:
            limiter.refill(call.key_id, max(0, now_ms - call.at_ms) / 1000, call.tokens)
    host.words[KEYS_FILLED] = 1


def calls_by_limit(keys: Iterable[ServiceKey], recent: Callable[[int], list[KeyCall]], now_ms: int) -> list[KeyCall]:
    """Return the requests of the last minute, each once for every key whose limit it counts in: its own, its parents'.

    `recent` returns the requests since a time; it is not called if no key has a limit of requests or tokens.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    counted = {
        key.id: [limit.key_id for limit in key.rights.limits if limit.rpm is not None or limit.tpm is not None]
        for key in keys
        if key.rights is not None and key.rights.limits
    }
    if not any(counted.values()):
        return []
    return [
        KeyCall(key_id, call.at_ms, call.tokens)
        for call in recent(now_ms - WINDOW_MS)
        for key_id in counted.get(call.key_id, ())
    ]


def recent_attempts(
    usage: UsageStore,
    shipper: Shipper,
    has_database: Callable[[], bool],
    log: Callable[..., None],
    request_timeout_s: float,
) -> list[SentAttempt]:
    """Return the calls sent in the last minute, those of workers that have ended included.

    If the newest records are not in the database in time, a line says so, and the others are returned.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    if not has_database():
        raise StoreUnavailable("The database does not answer.")
    if not shipper.flush(FLUSH_S):
        log("rate limits start without the newest calls: their records are not in the database yet", level="warning")
    longest_ms = max(LONGEST_REQUEST_MS, int(request_timeout_s * 1000))
    return usage.recent_attempts(wall_clock.now_ms() - WINDOW_MS, longest_ms)
