"""Reject unknown and repeated query parameters: `?day=7` must not return the report of the default 30 days."""

from __future__ import annotations

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request

from llm_gateway.error_format.query_parameters import check_parameters
from llm_gateway.gate.authentication import OPEN_PATHS

STRICT_PREFIX = "/api/v1/"


def refuses_parameters(path: str) -> bool:
    """Return True if unknown query parameters of the path are rejected.

    Health, metrics and documentation accept them: monitoring systems and browsers add some.
    """
    return path.startswith(STRICT_PREFIX) and path not in OPEN_PATHS


async def known_parameters(request: Request) -> None:
    """Check the names of the request's query parameters (FastAPI dependency of all routes).

    Raises:
        Invalid: a parameter is not one of the route's, or is repeated.
    """
    if not request.scope["query_string"] or not refuses_parameters(request.scope["path"]):
        return
    route = request.scope.get("route")
    known = _parameters(route) if isinstance(route, APIRoute) else set()
    check_parameters(request.query_params.multi_items(), known)


def _parameters(route: APIRoute) -> set[str]:
    """Return the names of a route's query parameters, one by one or as the fields of a model."""
    found = set()
    for parameter in route.dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {field.alias or name for name, field in kind.model_fields.items()}
        else:
            found.add(parameter.alias)
    return found
