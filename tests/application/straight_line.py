"""The endpoint of POST /api/v1/generate behind authentication, in front of a fake `Gateway`."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from llm_gateway.domain.reply import Answer, Reply
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import Usage
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.protocols.registry import GENERATE_PATH
from llm_gateway.worker.dispatch import Dispatch
from llm_gateway.worker.endpoints.generate import GenerateEndpoint
from llm_gateway.worker.endpoints.streaming import DrainLimit
from llm_gateway.worker.gateway import Gateway
from tests.application.driver import DEV_KEY, Client, Response, ignore

PATH = "/api/v1/generate"
LEAST = {"user_id": "customer", "service": "shop", "prompt": "Hello"}
ANSWER = Answer(
    reply=Reply(content="Hi", usage=Usage(input_tokens=3, output_tokens=4)), provider="p", model="m",
    cost_nanos=1_500, cost_status="exact", route=b"priority",
)  # fmt: skip


class FakeGateway:
    """A fake `Gateway` that keeps its requests, and returns ANSWER or raises `error` once `go_on` is set."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.error: BaseException | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def generate(self, request: Request) -> Answer:
        self.requests.append(request)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return ANSWER


class World:
    """The endpoint behind authentication, its fake gateway, and a client."""

    def __init__(self, drop_s: float = 5.0) -> None:
        self.gateway = FakeGateway()
        self.in_flight = InFlight(2, 10_000_000, drop_s)
        self.logged: list[dict[str, Any]] = []
        drain_limit = DrainLimit("drain")
        gateway = cast(Gateway, self.gateway)
        generate = GenerateEndpoint(gateway, self.in_flight, drain_limit, timeout_s=120, log=self._log)
        endpoints = Dispatch({GENERATE_PATH: generate}, {}, generate)
        keys = [("dev", DEV_KEY, frozenset({"call"}))]
        self.client = Client(Gate(endpoints, Keyring(keys), local_only=True, log=ignore))

    def _log(self, event: str, **fields: Any) -> None:
        self.logged.append({"event": event, **fields})

    async def post(self, body: object, **headers: str | bytes) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.call("POST", PATH, body, headers=named)

    async def request(self, **headers: str | bytes) -> Request:
        """Post a request with these headers, and return it as it reached the gateway."""
        response = await self.post(LEAST, **headers)
        assert response.status == 200, response.body
        return self.gateway.requests[-1]
