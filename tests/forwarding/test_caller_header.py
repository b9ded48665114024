"""The header that names a request's caller to the control process."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from llm_gateway.domain.jwt_verdict import TokenCaller
from llm_gateway.domain.service_key import KeyRights, ServiceKey
from llm_gateway.forwarding.caller_header import IDENTITY, RestoreCaller, write_identity
from llm_gateway.gate.jwt_callers import caller_of
from llm_gateway.gate.request_context import REQUEST_CONTEXT, Caller, RequestContext

CALL = frozenset({"call"})
OF_API = ServiceKey(b"p", b"d", "the-id", "shop", 1, rights=KeyRights(fixed_customer="acme"))


@pytest.mark.parametrize(
    ("caller", "restored"),
    [
        (Caller("dev", CALL), Caller("dev", CALL)),
        (Caller("shop", CALL, "the-id", OF_API), Caller("shop", CALL, "the-id")),
        *(
            (caller_of(token), caller_of(token))
            for token in (TokenCaller("jwt:1", CALL, 5), TokenCaller("jwt:1", CALL, 5, "team", "acme"))
        ),
    ],
)
async def test_control_finds_the_caller_that_passed_the_gate(caller: Caller, restored: Caller) -> None:
    found: list[Caller] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        found.append(scope[REQUEST_CONTEXT].caller)

    async def unused(*_: Any) -> Any:
        raise AssertionError

    context = RequestContext(caller, "1", None, b"1", {}, print)
    header = write_identity({"type": "http", REQUEST_CONTEXT: context})
    await RestoreCaller(app, print)({"type": "http", "headers": [(IDENTITY, header)]}, unused, unused)

    assert found == [restored]
