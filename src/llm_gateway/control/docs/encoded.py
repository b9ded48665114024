"""The OpenAPI document as JSON, built once in a process for the same routes: it takes half a second of CPU time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import FunctionType

import msgspec
from starlette.routing import BaseRoute, Route

from llm_gateway.control.docs.openapi import openapi_document

_built: dict[Hashable, bytes] = {}


def encoded_document(routes: Sequence[BaseRoute], version: str, root_path: str = "") -> bytes:
    """Return `openapi_document` as JSON. Applications with the same routes below the same path share it."""
    key = (version, root_path, *map(_source, routes))
    document = _built.get(key)
    if document is None:
        document = _built[key] = msgspec.json.encode(openapi_document(routes, version, root_path))
    return document


def _source(route: BaseRoute) -> Hashable:
    """Return what tells a route from others: its address, and the source of its function, decorators included.

    An application's functions are its own, but come from the same lines as those of another application.
    """
    if not (isinstance(route, Route) and isinstance(function := route.endpoint, FunctionType)):
        return route
    return route.path, frozenset(route.methods or ()), function.__module__, function.__qualname__, function.__code__
