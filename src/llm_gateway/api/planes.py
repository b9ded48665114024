"""Two planes behind one gate: the data plane by exact path, everything else managed by FastAPI."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Planes:
    """Sends a request to the surface of its path, or to the management plane.

    A table instead of Starlette's router, which tries a regular expression per route: its paths have no parameters.
    """

    def __init__(self, surfaces: Mapping[str, ASGIApp], management: ASGIApp) -> None:
        self._surfaces = surfaces
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        await self._surfaces.get(scope["path"], self._management)(scope, receive, send)
