"""Two planes behind one gate: the data plane by path, everything else managed by FastAPI."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.api.shapes import SURFACES, send_error
from llm_gateway.errors import NotFound


class Planes:
    """Sends a request to the surface of its path, or to the management plane.

    A table instead of Starlette's router, which tries a regular expression per route. Paths with something open at
    their end are found by what stands before it (`below`).
    """

    def __init__(self, surfaces: Mapping[str, ASGIApp], below: Mapping[str, ASGIApp], management: ASGIApp) -> None:
        self._surfaces = surfaces
        self._below = below
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        path: str = scope["path"]
        surface = self._surfaces.get(path)
        if surface is None:
            surface = self._other(path)
        await surface(scope, receive, send)

    def _other(self, path: str) -> ASGIApp:
        for start, surface in self._below.items():
            if path.startswith(start):
                return surface
        return _nothing if path.startswith(SURFACES) else self._management


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    error = NotFound(f"There is nothing at {scope['path'][:200]}: docs/API.md lists what there is.")
    await send_error(send, scope, error)
