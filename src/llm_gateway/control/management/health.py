"""Endpoints for health, liveness, readiness and Prometheus metrics."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel

from llm_gateway.control.hosts import Hosts
from llm_gateway.control.management.router import Router
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.errors import JournalUnavailable, Overloaded

SERVICE = "llm-gateway"
CHECK_TTL_S = 1.0
"""Seconds for which the result of a database check is reused."""
STALE_S = 3.0
"""Seconds after which a database whose check has not ended counts as unavailable."""
UNWRITABLE = (
    "The usage journal cannot be written, so calls are refused: free space on the disk of LLM_GATEWAY_DATA_DIR, or "
    "repair it."
)


class Health(BaseModel):
    """Health of the gateway. `degraded`: the database or Redis does not answer, and requests are still served.

    It is `degraded`, too, while usage has waited for the database for a minute. `hosts` is the number of gateways on
    the database; it is missing if only one can use it. `redis` is there if `LLM_GATEWAY_REDIS_URL` is set; the admin
    port does not tell it.
    """

    status: Literal["ok", "degraded"]
    service: str
    database: Literal["ok", "unavailable"]
    hosts: int | None = None
    redis: Literal["ok", "unavailable"] | None = None


class ProviderHealth(BaseModel):
    """A configured provider and its number of models."""

    name: str
    display_name: str
    is_enabled: bool
    models_count: int


class ProvidersHealth(BaseModel):
    """All configured providers, by priority."""

    providers: list[ProviderHealth]


class Alive(BaseModel):
    """Liveness of the process."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Readiness to accept requests."""

    status: Literal["ready"] = "ready"


class SharedCheck:
    """A database check that runs once at a time, with its result cached for a second.

    It runs in asyncio's thread pool, not in the one of FastAPI's handlers: reports that wait for a slow database can
    occupy all threads of that one, and health requests must not queue behind them.
    """

    def __init__(self, check: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._turn = asyncio.Lock()
        self._checked_at = -math.inf
        self._result = False

    @property
    def is_ok(self) -> bool:
        """The last result; False if no check has ended for three seconds, though `repeat` runs."""
        return self._result and self._clock() - self._checked_at < STALE_S

    async def repeat(self, log: Callable[..., None]) -> None:
        """Check once a second. Runs until cancelled. `log` takes a line the first time that a check cannot run."""
        is_failing = False
        while True:
            try:
                await self()
                is_failing = False
            except Exception as error:  # edge: no thread or memory for it; the next one may pass
                self._result = False
                if not is_failing:
                    log("database check cannot run", level="error", exc_info=error)
                is_failing = True
            await asyncio.sleep(CHECK_TTL_S)

    async def __call__(self) -> bool:
        """Return the result of a check that is at most a second old."""
        async with self._turn:
            if self._clock() - self._checked_at > CHECK_TTL_S:
                self._result = await asyncio.to_thread(self._check)
                self._checked_at = self._clock()
            return self._result


def health_router(
    *,
    check: SharedCheck,
    ready: Callable[[], bool],
    journal_writable: Callable[[], bool],
    is_behind: Callable[[], bool],
    snapshot: Callable[[], Snapshot],
    metrics: Callable[[], Awaitable[tuple[bytes, str]]],
    hosts: Hosts,
) -> Router:
    """Build the health endpoints of the whole gateway. `degraded` is still a 200: it serves without its database.

    `ready` and `journal_writable` are of a worker; `is_behind`: usage has waited for the database for a minute.
    """
    router = Router()

    @router.get("/api/v1/health", tags=["health"], response_model_exclude_none=True)
    async def health() -> Health:
        database = await check()
        return Health(
            status="ok" if database and not is_behind() else "degraded",
            service=SERVICE,
            database="ok" if database else "unavailable",
            hosts=hosts.living if hosts.is_shared else None,
        )

    @router.get("/api/v1/health/providers", tags=["health"])
    async def health_providers() -> ProvidersHealth:
        return _providers_health(snapshot())

    @router.get("/healthz", tags=["health"])
    async def liveness() -> Alive:
        return Alive()

    @router.get("/readyz", tags=["health"])
    async def readiness() -> Ready:
        """Return 503 while the gateway is starting or stopping, or cannot record usage."""
        if not ready():
            raise Overloaded("The gateway is starting or stopping: ask another one.")
        if not journal_writable():
            raise JournalUnavailable(UNWRITABLE)
        return Ready()

    @router.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    async def prometheus_metrics() -> Response:
        """Return all metrics in Prometheus' text format."""
        body, content_type = await metrics()
        return Response(body, media_type=content_type)

    return router


def _providers_health(snapshot: Snapshot) -> ProvidersHealth:
    configured = sorted(snapshot.providers.values(), key=lambda p: (-p.priority, p.name))
    return ProvidersHealth(
        providers=[
            ProviderHealth(
                name=p.name, display_name=p.display_name, is_enabled=p.is_enabled, models_count=len(p.models)
            )
            for p in configured
        ]
    )
