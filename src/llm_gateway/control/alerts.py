"""Alerts as a part of control: events, their messages, and their ways to the webhook and the targets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from llm_gateway import wall_clock
from llm_gateway.control.alert_delivery import AlertDelivery
from llm_gateway.control.alert_sender import AlertSender
from llm_gateway.control.maintenance import always
from llm_gateway.control.trouble import TellNow, Trouble, TroubleWatch
from llm_gateway.control.webhook_delivery import WebhookDelivery, repeat_forever
from llm_gateway.control.webhook_events import WebhookEvents
from llm_gateway.provider_calls.webhook import Webhook
from llm_gateway.store.alert_deliveries import AlertDeliveries
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.webhook_messages import WebhookMessages


class Alerts:
    """Finds events and delivers their messages. `note` of `events` gets stored records.

    `webhook` is that of the settings, if there is one.
    """

    def __init__(
        self,
        database: Database,
        keys: KeyStore,
        targets: AlertTargetStore,
        sender: AlertSender,
        webhook: Webhook | None,
        log: Callable[..., None],
    ) -> None:
        self._webhook = webhook
        self._messages = WebhookMessages(database, has_webhook=webhook is not None)
        self._log = log
        self.targets = targets
        self.deliveries = AlertDeliveries(database)
        self.sender = sender
        self.events = WebhookEvents(database, self._messages, keys, log)

    async def run(self, troubles: Callable[[], Iterable[Trouble]], is_leader: Callable[[], bool] = always) -> None:
        """Find events and deliver messages, each second. `troubles` returns those of this moment.

        Each host finds its own events. Only that for which `is_leader` is true delivers the messages of all.
        """
        delivery = AlertDelivery(self.targets, self.deliveries, self.sender, self._log)
        tell_now: list[TellNow] = [delivery.tell_now]
        webhook = None
        if self._webhook is not None:
            webhook = WebhookDelivery(self._messages, self._webhook.post, self._log, is_leader=is_leader)
            tell_now.append(webhook.tell_now)
        watch = TroubleWatch(troubles, self._messages, tell_now)
        steps: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: asyncio.to_thread(self.events.look, wall_clock.now_ms()),
            watch.look,
            lambda: delivery.step(is_leader),
        ]
        if webhook is not None:
            steps.append(webhook.deliver)
        try:
            await repeat_forever(steps, self._log)
        finally:
            await delivery.stop()
