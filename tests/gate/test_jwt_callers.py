"""Tokens in the place of service keys: verified once in ten minutes, kept until they end, in bounded memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send

from llm_gateway.domain.jwt_verdict import TokenCaller, Verdict
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.errors import ManagementUnavailable
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.jwt_callers import LONGEST_KEPT_S, MOST_ASKED, MOST_BYTES, REFUSED_S, TokenCallers, is_token
from llm_gateway.gate.request_context import REQUEST_CONTEXT
from tests.application.driver import Client, assert_problem, ignore

GENERATE = "/api/v1/generate"
KEYS = [("ops", "key-of-ops", frozenset({"call", "read", "admin"}))]


class Asked:
    """Control's side: verdicts by token, and the tokens that were asked about."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.tokens: list[str] = []
        self.verdicts: dict[str, Verdict] = {}
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.callers = TokenCallers(self, lambda: self.now)

    async def __call__(self, token: bytes) -> Verdict:
        self.tokens.append(token.decode())
        await self.may_answer.wait()
        if self.is_away:
            raise ManagementUnavailable("Control is away.")
        caller = TokenCaller(f"jwt:{token.decode()}", frozenset({"call"}), 2_000_000, "team", "acme")
        return self.verdicts.get(token.decode(), Verdict(caller))


async def inside(scope: Scope, _receive: Receive, send: Send) -> None:
    caller = scope[REQUEST_CONTEXT].caller
    key = caller.key
    shown = [caller.name, caller.key_id, key and key.team_id, key and key.rights and key.rights.fixed_customer]
    await send_body(send, 200, json.dumps(shown).encode(), JSON, [])


def client(asked: Asked, key: str) -> Client:
    return Client(Gate(inside, Keyring(KEYS, tokens=asked.callers), local_only=True, log=ignore), key)


async def call(asked: Asked, key: str, path: str = GENERATE) -> Any:
    return await client(asked, key).call("POST", path, {})


async def test_a_token_is_verified_once_until_it_ends() -> None:
    asked = Asked()
    for key, name in (("eyJ.a.b", "jwt:eyJ.a.b"), ("eyJ.a.b", "jwt:eyJ.a.b"), ("key-of-ops", "ops")):
        assert (await call(asked, key)).json[0] == name
    assert (await call(asked, "eyJ.a.b")).json == ["jwt:eyJ.a.b", None, "team", "acme"]
    assert asked.tokens == ["eyJ.a.b"]
    assert_problem(await call(asked, "eyJ.a.b", "/api/v1/keys"), 403, "forbidden")
    asked.is_away = True
    assert (await call(asked, "eyJ.a.b")).status == 200
    unknown = await call(asked, "eyJ.c.d")
    assert_problem(unknown, 503, "management_unavailable")
    assert "retry-after" in unknown.headers
    asked.is_away, asked.now = False, 2_000.0
    asked.verdicts["eyJ.a.b"] = Verdict(problem="The token is not valid: it has expired.")
    assert "expired" in assert_problem(await call(asked, "eyJ.a.b"), 401, "unauthorized")["detail"]
    assert "just expired" in assert_problem(await call(asked, "eyJ.c.d"), 401, "unauthorized")["detail"]


async def test_the_error_of_a_verification_that_fails_has_both_ids_of_the_request() -> None:
    asked, logged = Asked(), list[dict[str, Any]]()
    asked.is_away = True
    gate = Gate(inside, Keyring(KEYS, tokens=asked.callers), local_only=True, log=lambda _, **line: logged.append(line))
    for token in ("eyJ.a.b", f"eyJ.{'a' * MOST_BYTES}.b"):
        response = await Client(gate, token).call("POST", GENERATE, {}, headers={"x-request-id": "mine"})
        line = logged.pop()
        assert (response.json["request_id"], response.headers["x-request-id"]) == ("mine", "mine")
        assert (line["client_request_id"], line["request_id"]) == ("mine", response.headers["x-gateway-request-id"])


async def test_a_token_beside_a_service_key_is_not_asked_about() -> None:
    """A mesh adds its users' tokens: the key in the gateway's own header decides, whatever the token is."""
    asked = Asked()
    gate = Gate(inside, Keyring(KEYS, tokens=asked.callers), local_only=True, log=ignore)
    headers = {"authorization": "Bearer eyJ.a.b", "x-service-key": "key-of-ops"}
    assert (await Client(gate, None).call("POST", GENERATE, {}, headers=headers)).json[0] == "ops"
    assert asked.tokens == []


async def test_a_refused_token_is_asked_about_again_after_seconds_only() -> None:
    asked = Asked()
    asked.verdicts["eyJ.a.b"] = Verdict(problem="The token names no team.", status=403)
    for _ in range(3):
        assert "no team" in assert_problem(await call(asked, "eyJ.a.b"), 403, "forbidden")["detail"]
    assert asked.tokens == ["eyJ.a.b"]
    asked.now += REFUSED_S
    del asked.verdicts["eyJ.a.b"]
    assert (await call(asked, "eyJ.a.b")).status == 200
    for key in ("eyJ.a", "eyJ.a.b.c", "abc.d.e", "gw_x.y.z"):
        assert_problem(await call(asked, key), 401, "unauthorized")
    assert_problem(await call(asked, f"eyJ.{'a' * MOST_BYTES}.b"), 401, "unauthorized")
    assert len(asked.tokens) == 2


async def test_requests_with_the_same_new_token_wait_together_and_others_are_limited() -> None:
    asked = Asked()
    asked.may_answer.clear()
    same = [asyncio.create_task(call(asked, "eyJ.a.b")) for _ in range(20)]
    more = [asyncio.create_task(call(asked, f"eyJ.{number}.b")) for number in range(MOST_ASKED)]
    await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
    same[0].cancel()
    asked.may_answer.set()
    statuses = [(await each).status for each in (*same[1:], *more)]
    assert sorted(statuses) == [200] * (19 + MOST_ASKED - 1) + [503]
    assert len(asked.tokens) == MOST_ASKED


async def test_tokens_are_kept_in_bounded_memory() -> None:
    asked = Asked()
    callers = TokenCallers(asked, lambda: asked.now, most_kept=20, most_refused=10)
    for number in range(50):
        await callers.verify(b"eyJ.%d.b" % number)
    for number in range(50):
        asked.verdicts[f"eyJ.{number}.c"] = Verdict(problem="no")
        await callers.verify(b"eyJ.%d.c" % number)
    assert (len(callers._kept), len(callers._refused), len(callers._asked)) == (20, 10, 0)


async def test_a_token_that_lasts_is_verified_again_after_ten_minutes() -> None:
    asked = Asked()
    for now, times in ((1_000.0, 1), (999.0 + LONGEST_KEPT_S, 1), (1_001.0 + LONGEST_KEPT_S, 2)):
        asked.now = now
        assert (await call(asked, "eyJ.a.b")).status == 200
        assert len(asked.tokens) == times, now


def test_only_base64url_and_dots_are_taken_for_a_token() -> None:
    """Control gets the token in a header, so no other byte may be in it: a key in a query can have any."""
    assert all(map(is_token, (b"eyJ.a.b", b"eyJhbGciOiJFUzI1NiJ9.e30.AZ-_09")))
    others = [bytes([number]) for number in range(256) if not chr(number).isalnum() or number > 127]
    refused = [b"eyJ" + other + b".a.b" for other in others if other not in b"-_"]
    refused += [b"eyJ.a" + other + b".b" for other in others if other not in b"-_"]
    refused += [b"eyJ.a.b" + other for other in others if other not in b"-_"]
    assert not [key for key in [*refused, b"eyJ.a.b\r\nhost: a", b"eyJ..b", b"eyJ.a"] if is_token(key)]
