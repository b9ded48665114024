"""Health, liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.errors import JournalUnavailable, Overloaded

SERVICE = "llm-gateway"
CHECK_TTL_S = 1.0
UNWRITABLE = (
    "The usage journal cannot be written, so calls are refused: free space on the disk of LLM_GATEWAY_DATA_DIR, or "
    "repair it."
)


class Health(BaseModel):
    """Degraded: without its database the gateway goes on serving."""

    status: Literal["ok", "degraded"]
    service: str
    database: Literal["ok", "unavailable"]


class ProviderHealth(BaseModel):
    """One configured provider."""

    name: str
    display_name: str
    is_enabled: bool
    models_count: int


class ProvidersHealth(BaseModel):
    """All configured providers, by priority."""

    providers: list[ProviderHealth]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """It takes requests."""

    status: Literal["ready"] = "ready"


class SharedCheck:
    """One check at a time, not in the threads that answer requests; its result is good for a second.

    Reports that wait for a slow database take the common threads; whoever asks for health must not queue behind them.
    """

    def __init__(self, check: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._turn = asyncio.Lock()
        self._checked_at = -math.inf
        self._result = False

    async def __call__(self) -> bool:
        """The result of a check that is at most a second old."""
        async with self._turn:
            if self._clock() - self._checked_at > CHECK_TTL_S:
                self._result = await asyncio.to_thread(self._check)
                self._checked_at = self._clock()
            return self._result


def health_router(
    *,
    database_ok: Callable[[], bool],
    ready: Callable[[], bool],
    journal_writable: Callable[[], bool],
    snapshot: Callable[[], Snapshot],
    metrics: Callable[[], tuple[bytes, str]],
) -> APIRouter:
    """The health endpoints. Degraded is still 200: without its database the gateway goes on serving."""
    router = APIRouter()

    check = SharedCheck(database_ok)

    @router.get("/api/v1/health", tags=["health"])
    async def health() -> Health:
        database = await check()
        return Health(
            status="ok" if database else "degraded", service=SERVICE, database="ok" if database else "unavailable"
        )

    @router.get("/api/v1/health/providers", tags=["health"])
    async def health_providers() -> ProvidersHealth:
        return _providers_health(snapshot())

    @router.get("/healthz", tags=["health"])
    async def liveness() -> Alive:
        return Alive()

    @router.get("/readyz", tags=["health"])
    async def readiness() -> Ready:
        """503 while the gateway is starting or stopping, or cannot record usage."""
        if not ready():
            raise Overloaded("The gateway is starting or stopping: ask another one.")
        if not journal_writable():
            raise JournalUnavailable(UNWRITABLE)
        return Ready()

    @router.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def prometheus_metrics() -> Response:
        """In Prometheus' text format."""
        body, content_type = metrics()
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
