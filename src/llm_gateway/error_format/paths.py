"""Find the path that a client probably meant, for the message of a 404."""

from __future__ import annotations

import re
from functools import cache

from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.protocols.descriptor import MODEL
from llm_gateway.protocols.registry import PROTOCOLS, paths_of
from llm_gateway.suggestions import closest

MANAGEMENT_PATHS = (
    "/api/v1/configuration",
    "/api/v1/alert-targets",
    "/api/v1/alert-targets/{alert_target_id}",
    "/api/v1/alert-targets/{alert_target_id}/test",
    "/api/v1/audit",
    "/api/v1/audit/failed-authentications",
    "/api/v1/budgets",
    "/api/v1/budgets/{budget_id}",
    "/api/v1/budgets/{budget_id}/accounts",
    "/api/v1/budgets/{budget_id}/override",
    "/api/v1/budgets/{budget_id}/periods",
    "/api/v1/people",
    "/api/v1/people/{person_id}",
    "/api/v1/sessions",
    "/api/v1/sessions/{session_id}",
    "/api/v1/health",
    "/api/v1/health/providers",
    "/api/v1/hosts",
    "/api/v1/hosts/{host_id}",
    "/api/v1/keys",
    "/api/v1/keys/{key_id}",
    "/api/v1/keys/{key_id}/rotate",
    "/api/v1/me",
    "/api/v1/overrides",
    "/api/v1/overrides/{override_id}",
    "/api/v1/prices",
    "/api/v1/providers",
    "/api/v1/providers/{provider_id}",
    "/api/v1/providers/{provider_id}/test",
    "/api/v1/state",
    "/api/v1/teams",
    "/api/v1/teams/{team_id}",
    "/api/v1/usage/breakdown",
    "/api/v1/usage/by-customer",
    "/api/v1/usage/by-provider",
    "/api/v1/usage/by-service",
    "/api/v1/usage/customers/{user_id}",
    "/api/v1/usage/export",
    "/api/v1/usage/latency",
    "/api/v1/usage/records",
    "/api/v1/usage/records/{record_id}",
    "/api/v1/usage/series",
    "/api/v1/usage/summary",
    "/docs",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "/readyz",
)
"""The documented paths of the control plane; the data plane cannot import its routes."""
_PARAMETER = re.compile(r"\{\w+\}")
LONGEST, MOST_SEGMENTS = 200, 8
_PREFIXES = frozenset({"api", "v1", "v1beta", "v2", "openai", "anthropic", "gemini", "google", "llm", "gateway"})
"""Segments before a resource: versions, and prefixes of hosts and vendors."""
_FAR = 1000
_MISSPELT, _OTHER_PREFIX = 10, 1
"""Distances between two paths for a misspelt segment, and for another prefix."""


def without_query(path: str) -> str:
    """Return a decoded path up to its first question mark; an encoded one (%3F) can hide a query with a key."""
    return path.partition("?")[0]


def nothing_at(path: str, where: str = "docs/API.md lists the paths") -> str:
    """Return the message for a decoded path that does not exist; `where` says where the paths are listed."""
    path = without_query(path)
    found = closest_path(path)
    hint = f". Did you mean {found}? " if found is not None else ": "
    return f"There is nothing at {path[:LONGEST]}{hint}{where}."


def closest_path(path: str) -> str | None:
    """Return the path that was probably meant: with its version, without a slash at its end, spelled right."""
    given = [segment for segment in path.split("/") if segment]
    if len(path) > LONGEST or len(given) > MOST_SEGMENTS:
        return None
    rated = [(_distance(given, template.split("/")[1:]), template) for template in _templates()]
    distance, template = min(rated, key=lambda each: each[0])
    found = _filled(template, given) if distance < _FAR else None
    return found if found != path else None


@cache
def _templates() -> tuple[str, ...]:
    ours = ("/api/v1/generate", *MANAGEMENT_PATHS, EXPLAIN_PATH)
    return tuple(dict.fromkeys([*ours, *(path for each in PROTOCOLS.values() for path in paths_of(each))]))


def _resource(segments: list[str]) -> list[str]:
    """Return a path's segments without those that come before its resource."""
    while len(segments) > 1 and segments[0].lower() in _PREFIXES:
        segments = segments[1:]
    return segments


def _distance(given: list[str], template: list[str]) -> int:
    """Return how far a path is from a template; `_FAR` if it cannot be meant."""
    own, known = _resource(given), _resource(template)
    if len(own) != len(known):
        return _FAR
    distance = 0 if len(given) == len(template) and given[: -len(own)] == template[: -len(known)] else _OTHER_PREFIX
    for segment, meant in zip(own, known, strict=True):
        distance += _distance_of(segment, meant)
    return distance


def _distance_of(segment: str, meant: str) -> int:
    if MODEL in meant:
        model, _, segment = segment.rpartition(":")
        meant = meant.rpartition(":")[2]
        if not model:
            return _FAR
    if segment == meant or _PARAMETER.fullmatch(meant):
        return 0
    return _MISSPELT if closest(segment, (meant,)) is not None else _FAR


def _filled(template: str, given: list[str]) -> str:
    """Return a path's template with the path's own values in place of its parameters."""
    own = _resource(given)
    segments = template.split("/")
    for place, meant in enumerate(segments[-len(own) :], start=len(segments) - len(own)):
        value = own[place - len(segments)]
        if MODEL in meant:
            segments[place] = meant.replace(MODEL, value.rpartition(":")[0])
        elif _PARAMETER.fullmatch(meant):
            segments[place] = value
    return "/".join(segments)
