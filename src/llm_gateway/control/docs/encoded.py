"""The OpenAPI document as JSON, built once in a process for the same routes: it takes half a second of CPU time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import FunctionType

import msgspec
from starlette.routing import BaseRoute, Route

from llm_gateway.control.docs.openapi import openapi_document

_built: dict[Hashable, bytes] = {}


def encoded_document(routes: Sequence[BaseRoute], version: str, root_path: str = "") -> bytes:
    """Return `openapi_document` as JSON. Applications whose routes come from the same lines below one path share it.

    So what a router is given when it is made must not change what its routes' decorators and annotations say.
    """
    sources = [_source(route) for route in routes]
    if None in sources:
        return msgspec.json.encode(openapi_document(routes, version, root_path))
    key = (version, root_path, *sources)
    document = _built.get(key)
    if document is None:
        document = _built[key] = msgspec.json.encode(openapi_document(routes, version, root_path))
    return document


def _source(route: BaseRoute) -> Hashable:
    """Return what tells a route from others: its address, and the source of its function. None if it has none.

    An application's functions are its own, but come from the same lines as those of another application.
    """
    if not (isinstance(route, Route) and isinstance(function := route.endpoint, FunctionType)):
        return None
    return route.path, frozenset(route.methods or ()), function.__module__, function.__qualname__, function.__code__
