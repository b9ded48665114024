"""The surface of POST /api/v1/generate in front of a stand-in for the straight line."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from llm_gateway.domain.reply import Answer, Reply
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import Usage
from llm_gateway.gate.authentication import GENERATE_PATH, Gate, Keyring
from llm_gateway.gate.body import InFlight
from llm_gateway.worker.dispatch import Dispatch
from llm_gateway.worker.endpoints.generate import GenerateEndpoint
from llm_gateway.worker.endpoints.streaming import DrainLimit
from llm_gateway.worker.gateway import Gateway
from tests.application.driver import DEV_KEY, Client, Response, ignore

PATH = "/api/v1/generate"
LEAST = {"user_id": "customer", "service": "shop", "prompt": "Hello"}
ANSWER = Answer(
    reply=Reply(content="Hi", usage=Usage(input_tokens=3, output_tokens=4)), provider="p", model="m",
    cost_nanos=1_500, cost_status="exact",
)  # fmt: skip


class StraightLine:
    """Stands in for the gateway: keeps what it was asked, and answers or fails as told."""

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
    """The surface behind the gate."""

    def __init__(self, drop_s: float = 5.0) -> None:
        self.line = StraightLine()
        self.in_flight = InFlight(2, 10_000_000, drop_s)
        self.logged: list[dict[str, Any]] = []
        drain_limit = DrainLimit("drain")
        generate = GenerateEndpoint(cast(Gateway, self.line), self.in_flight, drain_limit, timeout_s=120, log=self._log)
        surfaces = Dispatch({GENERATE_PATH: generate}, {}, generate)
        keys = [("dev", DEV_KEY, frozenset({"call"}))]
        self.client = Client(Gate(surfaces, Keyring(keys), local_only=True, log=ignore))

    def _log(self, event: str, **fields: Any) -> None:
        self.logged.append({"event": event, **fields})

    async def post(self, body: object, **headers: str | bytes) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.call("POST", PATH, body, headers=named)

    async def request(self, **headers: str | bytes) -> Request:
        """What a request with these headers becomes."""
        response = await self.post(LEAST, **headers)
        assert response.status == 200, response.body
        return self.line.requests[-1]
