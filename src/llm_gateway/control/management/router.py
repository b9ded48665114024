"""Router of the management API, whose routes FastAPI analyses when their first request comes.

The response to the creation of something has its address in the header `Location` (RFC 9110, section 15.3.2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from llm_gateway.control.management.query import known_parameters

CREATED = 201


class Made(msgspec.Struct):
    """The one field that the representations of all things have that are created."""

    id: str


class Router(APIRouter):
    """A group of routes with a common prefix of paths and a common tag; they refuse unknown query parameters."""

    def __init__(self, prefix: str = "", tag: str | None = None) -> None:
        super().__init__(
            prefix=prefix,
            tags=[tag] if tag else [],
            dependencies=[Depends(known_parameters)],
            route_class=DeferredRoute,
            generate_unique_id_function=lambda route: route.name,
        )


class DeferredRoute(APIRoute):
    """A route that knows its path, methods and name; anything else is found out when it is first needed.

    FastAPI takes 1.5 ms of CPU time for a route: it inspects signatures and builds validators. A control process starts
    without that, and few of its routes are ever called.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._lock = threading.RLock()  # the document's thread may need a route while a request does
        self._analyse: Callable[[], None] | None = partial(super().__init__, path, endpoint, **options)
        self.path, self.endpoint = path, endpoint
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self.methods = set(options["methods"])
        self.name = endpoint.__name__

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler of requests; for a creation, it adds `Location` to the response."""
        handle = super().get_route_handler()
        if self.status_code != CREATED:
            return handle

        async def create(request: Request) -> Response:
            response = await handle(request)
            made = msgspec.json.decode(response.body, type=Made)
            root = getattr(request.app.state, "root_path", "")
            response.headers["location"] = f"{root}{request.scope['path']}/{made.id}"
            return response

        return create

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that is not known yet."""
        with self._lock:
            analyse, self._analyse = self._analyse, None
            if analyse is not None:
                analyse()
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None
