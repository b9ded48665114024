"""Delivery of messages to the targets of alerts: each target for itself, so that none waits for a slow one.

taken                                  no place left among those that wait
waiting ───────────▶ delivered     event ──────────────────────────────────▶ dropped
│  ▲
│  └── fails: again after 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 12 h
└── fails for the eighth time ──▶ given up
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from llm_gateway import wall_clock
from llm_gateway.control.alert_sender import AlertSender
from llm_gateway.control.maintenance import always
from llm_gateway.control.webhook_delivery import BACKOFF_S
from llm_gateway.domain.alert_target import AlertMessage, AlertSecret, AlertTarget, Sent
from llm_gateway.errors import ConfigurationError, NotFound, StoreUnavailable
from llm_gateway.store.alert_deliveries import AlertDeliveries, Delivery
from llm_gateway.store.alert_targets import AlertTargetStore

AT_ONCE = 20
"""Messages that are sent to a target one after the other, before the others are looked at again."""
GRACE_S = 1.0
"""Seconds that messages under way have at the end of the process."""
REMEMBERED_MS = 30_000
"""Milliseconds after which the targets that `tell_now` uses are read again."""


class _Receiver(NamedTuple):
    target: AlertTarget
    secret: AlertSecret


class AlertDelivery:
    """Sends messages that wait. `clock_ms` returns milliseconds UTC."""

    def __init__(
        self,
        targets: AlertTargetStore,
        deliveries: AlertDeliveries,
        sender: AlertSender,
        log: Callable[..., None],
        clock_ms: Callable[[], int] = wall_clock.now_ms,
    ) -> None:
        self._targets = targets
        self._deliveries = deliveries
        self._sender = sender
        self._log = log
        self._clock_ms = clock_ms
        self._running: dict[str, asyncio.Task[None]] = {}
        self._known: list[_Receiver] = []
        self._known_at_ms = 0

    async def step(self, is_leader: Callable[[], bool] = always) -> None:
        """Begin to send to each target for which a message is due, unless that is under way.

        If another host does it, which `is_leader` tells, only the targets are read, for `tell_now`.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        now_ms = self._clock_ms()
        if abs(now_ms - self._known_at_ms) >= REMEMBERED_MS:
            self._known = await asyncio.to_thread(self._receivers)
            self._known_at_ms = now_ms
        if not is_leader():
            return
        for target_id in await asyncio.to_thread(self._deliveries.due, now_ms):
            if target_id not in self._running:
                self._running[target_id] = asyncio.create_task(self._send_to(target_id))

    async def finish(self) -> None:
        """Wait until what `step` began has ended."""
        await asyncio.gather(*self._running.values())

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Wait for what `step` began, and cancel the rest: the next process sends such messages again."""
        running = [*self._running.values()]
        if running:
            await asyncio.wait(running, timeout=grace_s)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def tell_now(self, kind: str, message: AlertMessage) -> None:
        """Send a message once to the targets that hear it, while the database cannot keep it for them."""
        hearing = [each for each in self._known if each.target.hears(kind)]
        sent = await asyncio.gather(*(self._sender.send(target, secret, message) for target, secret in hearing))
        for (target, _), result in zip(hearing, sent, strict=True):
            if not result.success:
                self._log(
                    "an alert is lost: neither database nor target take it",
                    level="error",
                    target=target.name,
                    reason=result.sentence,
                )

    async def _send_to(self, target_id: str) -> None:
        """Send to a target until nothing is due, or one message fails."""
        try:
            for _ in range(AT_ONCE):
                delivery = await asyncio.to_thread(self._deliveries.claim, target_id, self._clock_ms())
                if delivery is None or not await self._deliver(delivery):
                    return
        except StoreUnavailable:  # logged by the health check
            pass
        except NotFound:  # the target was deleted meanwhile
            with suppress(StoreUnavailable):
                await asyncio.to_thread(self._deliveries.forget, target_id)
        except Exception as error:  # edge: one target must not keep the others from their messages
            self._log("alerts cannot be delivered", level="error", exc_info=error)
        finally:
            self._running.pop(target_id, None)

    async def _deliver(self, delivery: Delivery) -> bool:
        target = await asyncio.to_thread(self._targets.get, delivery.target_id)
        if not target.is_enabled:
            await asyncio.to_thread(self._deliveries.settle, delivery, None)
            return True
        try:
            secret = await asyncio.to_thread(self._targets.unseal, target.id)
            result = await self._sender.send(target, secret, delivery.message)
        except ConfigurationError as error:
            result = Sent(False, f"Its secrets cannot be read. {error}")
        await asyncio.to_thread(self._note, target, delivery, result)
        return result.success

    def _note(self, target: AlertTarget, delivery: Delivery, result: Sent) -> None:
        is_last = delivery.attempts >= len(BACKOFF_S)
        next_ms = None if result.success or is_last else self._clock_ms() + BACKOFF_S[delivery.attempts] * 1000
        self._deliveries.settle(delivery, next_ms)
        self._targets.note(target.id, None if result.success else result.sentence)
        if result.success:
            if target.failed_ms is not None:
                self._log("an alert target takes messages again", target=target.name)
            return
        if target.failed_ms is None:
            self._log(
                "an alert target does not take messages", level="warning", target=target.name, reason=result.sentence
            )
        if is_last:
            self._log(
                "an alert is given up",
                level="error",
                target=target.name,
                message=delivery.message.id,
                reason=result.sentence,
            )

    def _receivers(self) -> list[_Receiver]:
        found = []
        for target in self._targets.list():
            try:
                if target.is_enabled:
                    found.append(_Receiver(target, self._targets.unseal(target.id)))
            except (ConfigurationError, NotFound):  # told with its next message
                continue
        return found
