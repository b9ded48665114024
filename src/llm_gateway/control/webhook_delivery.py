"""Periodic jobs of alerts, and the delivery of messages to the webhook of the settings.

sent, 2xx                       no place left among those that wait
waiting ───────────▶ delivered     event ──────────────────────────────────▶ dropped
│  ▲
│  └── fails: again after 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 12 h
└── fails for the eighth time ──▶ given up
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from llm_gateway import wall_clock
from llm_gateway.control.maintenance import always
from llm_gateway.domain.alert_target import AlertMessage
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.webhook_messages import Message, WebhookMessages

LOOK_EVERY_S = 1.0
"""Seconds between two looks for events and for messages to send."""
TIMEOUT_S = 10.0
"""Seconds that a receiver has for an answer."""
BACKOFF_S = (5, 30, 120, 600, 3600, 6 * 3600, 12 * 3600)
"""Seconds before each further attempt."""
AT_ONCE = 20
"""Messages read at a time; they are sent one after the other."""

Post: TypeAlias = Callable[[str, bytes, int, float], Awaitable[UpstreamResult]]
"""Send a message: its id, its body, the time in seconds since 1970, and the timeout in seconds."""


class WebhookDelivery:
    """Sends messages that wait. `clock_ms` returns milliseconds UTC, `is_leader` whether this host sends them.

    `outside_s` returns seconds UTC by the clock that receivers compare with theirs, for signatures.
    """

    def __init__(
        self,
        messages: WebhookMessages,
        post: Post,
        log: Callable[..., None],
        clock_ms: Callable[[], int] = wall_clock.now_ms,
        *,
        is_leader: Callable[[], bool] = always,
        outside_s: Callable[[], float] = time.time,
    ) -> None:
        self._is_leader = is_leader
        self._messages = messages
        self._post = post
        self._log = log
        self._clock_ms = clock_ms
        self._outside_s = outside_s
        self._is_failing = False

    async def deliver(self) -> int:
        """Send the messages that are due, up to the first that fails. Returns how many were delivered.

        Raises:
            StoreUnavailable: the database does not answer; a message that was sent may be sent again.
        """
        delivered = 0
        if not self._is_leader():
            return 0
        for message in await asyncio.to_thread(self._messages.due, self._clock_ms(), AT_ONCE):
            if not self._is_leader():
                break
            result = await self._post(message.id, message.body.encode(), int(self._outside_s()), TIMEOUT_S)
            if not 200 <= result.status < 300:
                await asyncio.to_thread(self._failed, message, result)
                break
            await asyncio.to_thread(self._messages.note, message, None)
            delivered += 1
            if self._is_failing:
                self._is_failing = False
                self._log("the webhook takes messages again")
        return delivered

    async def tell_now(self, _kind: str, message: AlertMessage) -> None:
        """Send a message once, while the database cannot keep it."""
        result = await self._post(message.id, message.body.encode(), int(self._outside_s()), TIMEOUT_S)
        if not 200 <= result.status < 300:
            self._log("an alert is lost: neither database nor webhook take it", level="error", reason=_reason(result))

    def _failed(self, message: Message, result: UpstreamResult) -> None:
        reason = _reason(result)
        is_last = message.attempts >= len(BACKOFF_S)
        next_ms = None if is_last else self._clock_ms() + BACKOFF_S[message.attempts] * 1000
        self._messages.note(message, next_ms)
        if is_last:
            self._log("a webhook message is given up", level="error", message=message.id, reason=reason)
        elif not self._is_failing:
            self._log("the webhook does not take messages", level="warning", reason=reason)
        self._is_failing = True


def _reason(result: UpstreamResult) -> str:
    return f"status {result.status}" if result.status else result.message


async def repeat_forever(
    steps: Iterable[Callable[[], Awaitable[object]]], log: Callable[..., None], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Run each step again and again, with a second in between. Runs until cancelled."""
    await asyncio.gather(*(_repeat(step, log, every_s) for step in steps))


async def _repeat(step: Callable[[], Awaitable[object]], log: Callable[..., None], every_s: float) -> None:
    is_failing = False
    while True:
        try:
            await step()
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                log("the webhook's messages cannot be handled", level="error", exc_info=error)
            is_failing = True
        await asyncio.sleep(every_s)
