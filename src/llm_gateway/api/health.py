"""Health, liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.errors import Overloaded

SERVICE = "llm-gateway"


class Health(BaseModel):
    """`status` is `ok` or `degraded`; `database` is `ok` or `unavailable`."""

    status: str
    service: str
    database: str


class ProviderHealth(BaseModel):
    """One configured provider."""

    name: str
    display_name: str
    is_enabled: bool
    models_count: int


class ProvidersHealth(BaseModel):
    """All configured providers, by priority."""

    providers: list[ProviderHealth]


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
    def providers() -> ProvidersHealth:
        configured = sorted(snapshot().providers.values(), key=lambda p: (-p.priority, p.name))
        return ProvidersHealth(
            providers=[
                ProviderHealth(
                    name=p.name, display_name=p.display_name, is_enabled=p.is_enabled, models_count=len(p.models)
                )
                for p in configured
            ]
        )

    @router.get("/healthz", include_in_schema=False)
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", include_in_schema=False)
    async def is_ready() -> dict[str, str]:
        if not ready():
            raise Overloaded("The gateway is starting or stopping: ask another one.")
        return {"status": "ready"}

    @router.get("/metrics", include_in_schema=False)
    def prometheus() -> Response:
        body, content_type = metrics()
        return Response(body, media_type=content_type)

    return router
