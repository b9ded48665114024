"""Credentials for providers: static keys, and tokens that are refreshed in the background."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_gateway.domain.catalog import CallToSign, NotAuthorized
from llm_gateway.providers.upstream_credentials import FETCH_S, RETRY_S, RefreshedToken, StaticKey, Token
from tests.worker.pipeline.fakes import NOW, Clock

CALL = CallToSign("POST", "https://acme.test/v1/chat", b"{}")


class Issuer:
    """An issuer of the tokens t1, t2, …, each valid for 100 s, that waits for `allow` and records its calls."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fetches = 0
        self.allow = asyncio.Event()
        self.allow.set()
        self.fault: Exception | None = None
        self.valid_s = 100.0
        self.value = "t{}"
        self.learned: list[str] = []
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.token = RefreshedToken(self._fetch, learn=self.learned.extend, log=self._log, clock=self.clock)

    async def _fetch(self) -> Token:
        self.fetches += 1
        await self.allow.wait()
        if self.fault is not None:
            raise self.fault
        return Token(self.value.format(self.fetches), self.valid_s)

    def _log(self, event: str, **fields: Any) -> None:
        self.logged.append((event, fields))

    async def at(self, age_s: float) -> bytes:
        """Authorise a call at this age in seconds, wait for the fetch it started, and return its header lines."""
        self.clock.now = NOW + age_s
        lines = await self.token(CALL)
        await settled()
        return lines


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def bearer(token: str) -> bytes:
    return f"authorization: Bearer {token}\r\n".encode()


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (StaticKey("authorization", "Bearer "), {"authorization": "Bearer k"}),
        (StaticKey("x-api-key"), {"x-api-key": "k"}),
    ],
)
def test_a_static_key_is_sent_in_its_header(key: StaticKey, header: dict[str, str]) -> None:
    assert key.headers("k") == header


async def test_a_token_is_fetched_once_and_used_while_it_is_fresh() -> None:
    issuer = Issuer()

    assert [await issuer.at(age) for age in (0, 1, 74)] == [bearer("t1")] * 3
    assert issuer.fetches == 1


async def test_an_old_token_is_still_used_while_the_next_is_fetched_in_the_background() -> None:
    issuer = Issuer()
    await issuer.at(0)
    issuer.allow.clear()

    assert [await issuer.at(75), await issuer.at(80)] == [bearer("t1")] * 2
    assert issuer.fetches == 2, "one fetch for both calls"
    issuer.allow.set()
    await settled()
    assert await issuer.at(81) == bearer("t2")


async def test_concurrent_calls_without_a_valid_token_wait_for_one_fetch() -> None:
    issuer = Issuer()
    issuer.allow.clear()
    waiting = [asyncio.create_task(issuer.token(CALL)) for _ in range(50)]
    await settled()
    assert not any(task.done() for task in waiting)
    issuer.allow.set()

    assert set(await asyncio.gather(*waiting)) == {bearer("t1")}
    assert issuer.fetches == 1


async def test_a_short_token_is_never_used_after_a_failed_fetch_either() -> None:
    issuer = Issuer()
    issuer.valid_s = 60.0
    await issuer.at(0)
    issuer.fault = NotAuthorized("the client secret has expired")

    assert await issuer.at(56) == bearer("t1")
    with pytest.raises(NotAuthorized):
        await issuer.at(58)


async def test_an_expired_token_is_never_used() -> None:
    issuer = Issuer()
    await issuer.at(0)

    assert await issuer.at(95) == bearer("t2")


async def test_a_cancelled_call_does_not_cancel_the_fetch_for_the_others() -> None:
    issuer = Issuer()
    issuer.allow.clear()
    first, second = (asyncio.create_task(issuer.token(CALL)) for _ in range(2))
    await settled()
    first.cancel()
    await settled()
    issuer.allow.set()

    assert await second == bearer("t1")
    assert first.cancelled()
    assert issuer.fetches == 1


async def test_a_failed_fetch_while_the_token_is_valid_is_logged_and_tried_again_later() -> None:
    issuer = Issuer()
    await issuer.at(0)
    issuer.fault = NotAuthorized("the client secret has expired")

    assert [await issuer.at(75), await issuer.at(75 + RETRY_S - 1)] == [bearer("t1")] * 2
    assert issuer.fetches == 2
    assert issuer.logged == [
        (
            "access token not fetched",
            {"level": "error", "reason": "No access token could be fetched: the client secret has expired"},
        )
    ]
    issuer.fault = None
    assert await issuer.at(75 + RETRY_S) == bearer("t1")
    assert await issuer.at(76 + RETRY_S) == bearer("t3")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (NotAuthorized("the client secret has expired"), "the client secret has expired"),
        (OSError("secret=canary"), "OSError"),
        (TimeoutError(), f"no answer within {FETCH_S:g} s"),
    ],
)
async def test_a_failed_fetch_without_a_valid_token_fails_the_call_with_a_reason(fault: Exception, reason: str) -> None:
    issuer = Issuer()
    issuer.fault = fault

    with pytest.raises(NotAuthorized, match=f"^No access token could be fetched: {reason}$"):
        await issuer.at(0)
    issuer.fault = None
    assert await issuer.at(0) == bearer("t2"), "the next call tries again"


@pytest.mark.parametrize(
    ("value", "valid_s", "reason"),
    [
        ("a\r\nx-evil: 1", 100.0, "the token has characters that are not allowed"),
        ("", 100.0, "the token has characters that are not allowed"),
        ("t", 0.0, "the token has already expired"),
    ],
)
async def test_the_error_for_an_unusable_token_does_not_quote_it(value: str, valid_s: float, reason: str) -> None:
    issuer = Issuer()
    issuer.value, issuer.valid_s = value, valid_s

    with pytest.raises(NotAuthorized, match=f"^No access token could be fetched: {reason}") as raised:
        await issuer.at(0)
    assert "evil" not in str(raised.value)


async def test_every_token_is_learned_for_redaction_before_use_and_hidden_in_its_repr() -> None:
    issuer = Issuer()
    await issuer.at(0)
    await issuer.at(96)

    assert issuer.learned == ["t1", "t2"]
    assert repr(Token("canary", 5.0)) == "Token(valid_s=5.0)"
