"""Health, liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.errors import Overloaded

SERVICE = "llm-gateway"


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


def health_router(
    *,
    database_ok: Callable[[], bool],
    ready: Callable[[], bool],
    snapshot: Callable[[], Snapshot],
    metrics: Callable[[], tuple[bytes, str]],
) -> APIRouter:
    """The health endpoints. Degraded is still 200: without its database the gateway goes on serving."""
    router = APIRouter()

    @router.get("/api/v1/health", tags=["health"])
    def health() -> Health:
        database = database_ok()
        return Health(
            status="ok" if database else "degraded", service=SERVICE, database="ok" if database else "unavailable"
        )

    @router.get("/api/v1/health/providers", tags=["health"])
    def health_providers() -> ProvidersHealth:
        configured = sorted(snapshot().providers.values(), key=lambda p: (-p.priority, p.name))
        return ProvidersHealth(
            providers=[
                ProviderHealth(
                    name=p.name, display_name=p.display_name, is_enabled=p.is_enabled, models_count=len(p.models)
                )
                for p in configured
            ]
        )

    @router.get("/healthz", tags=["health"])
    async def liveness() -> Alive:
        return Alive()

    @router.get("/readyz", tags=["health"])
    async def readiness() -> Ready:
        """503 while the gateway is starting or stopping."""
        if not ready():
            raise Overloaded("The gateway is starting or stopping: ask another one.")
        return Ready()

    @router.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def prometheus_metrics() -> Response:
        """In Prometheus' text format."""
        body, content_type = metrics()
        return Response(body, media_type=content_type)

    return router
