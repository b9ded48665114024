"""Send one message to a target of alerts, and say in a sentence what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from llm_gateway.control.alert_texts import mail_of, plain, slack_body
from llm_gateway.domain.alert_target import AlertMessage, AlertSecret, AlertTarget, Sent
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.webhook import post_message, signed_headers, signing_key, unsigned_headers
from llm_gateway.upstream.egress import Egress

TIMEOUT_S = 10.0
"""Seconds that a target has to take a message."""
SAID_CHARACTERS = 200
SENTENCE_CHARACTERS = 500
MASK = "***"


class AlertSender:
    """Sends messages. `egress` decides which addresses may be called; `redact` removes keys from texts."""

    def __init__(self, egress: Egress, redact: Callable[[str], str], timeout_s: float = TIMEOUT_S) -> None:
        self._egress = egress
        self._redact = redact
        self._timeout_s = timeout_s

    async def send(self, target: AlertTarget, secret: AlertSecret, message: AlertMessage) -> Sent:
        """Send a message. Never raises for what the network or the receiver does."""
        if target.mailbox is not None:
            from llm_gateway.provider_calls.mail import send_mail  # noqa: PLC0415 - few gateways send mail: 6 ms of a start

            mail = mail_of(message, target.mailbox)
            sent = await send_mail(target.mailbox, secret.password, mail, self._egress, self._timeout_s)
        else:
            sent = await self._post(target, secret, message)
        return Sent(sent.success, self._without_secrets(sent.sentence, secret))

    async def _post(self, target: AlertTarget, secret: AlertSecret, message: AlertMessage) -> Sent:
        url, now_s = secret.url or "", int(time.time())
        if target.kind == "slack":
            body, headers = slack_body(message), {"content-type": "application/json"}
        else:
            body, headers = message.body.encode(), unsigned_headers(message.id, now_s)
            if secret.secret is not None:
                headers = signed_headers(signing_key(secret.secret), message.id, now_s, body)
        return _answer(target.host, await post_message(url, headers, body, self._egress, self._timeout_s))

    def _without_secrets(self, text: str, secret: AlertSecret) -> str:
        hidden = secret.texts()
        if secret.url is not None:
            parts = urlsplit(secret.url)
            hidden += [each for each in (parts.path, parts.path.rpartition("/")[2], parts.query) if len(each) >= 8]
        for each in sorted(hidden, key=len, reverse=True):
            text = text.replace(each, MASK)
        return self._redact(text)[:SENTENCE_CHARACTERS]


def _answer(host: str, result: UpstreamResult) -> Sent:
    status = result.status
    if result.fault == "timeout":
        return Sent(False, f"{host} did not answer within {TIMEOUT_S:.0f} s.")
    if result.fault:
        return Sent(False, f"{result.message.rstrip('.')}. Check the URL and the network in between.")
    if 200 <= status < 300:
        return Sent(True, f"{host} took the message ({status}).")
    if 300 <= status < 400:
        advice = f"{host} redirects ({status}), which is not followed: set url to where it leads."
    elif status in (401, 403):
        advice = f"{host} refused the message ({status}): check the token in the URL, or the secret."
    elif status in (404, 410):
        advice = f"{host} knows no such address ({status}): make the webhook anew there, and set its URL."
    elif status == 429:
        advice = f"{host} limits messages (429): they are sent again later."
    elif status >= 500:
        advice = f"{host} failed ({status}): the message is sent again later."
    else:
        advice = f"{host} refused the message ({status}): check what it expects."
    said = plain(bytes(result.body[: 4 * SAID_CHARACTERS]).decode("utf-8", "replace")).strip()[:SAID_CHARACTERS]
    return Sent(False, f"{advice} It said: {said}" if said else advice)
