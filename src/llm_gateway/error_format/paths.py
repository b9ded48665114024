"""Find the path that a client probably meant, among all that the gateway has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache

from llm_gateway.protocols.descriptor import MODEL
from llm_gateway.protocols.registry import PROTOCOLS, paths_of

MANAGEMENT_PATHS = (
    "/api/v1/health",
    "/api/v1/health/providers",
    "/api/v1/overrides",
    "/api/v1/overrides/{override_id}",
    "/api/v1/providers",
    "/api/v1/providers/{provider_id}",
    "/api/v1/providers/{provider_id}/test",
    "/api/v1/usage/by-customer",
    "/api/v1/usage/by-provider",
    "/api/v1/usage/by-service",
    "/api/v1/usage/summary",
    "/docs",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "/readyz",
)
"""The documented paths of the control plane, which the data plane cannot ask for its routes."""
LONGEST, LONGEST_COMPARED = 200, 64
CLOSE = 0.8
_PARAMETER = re.compile(r"\{\w+\}")


def nothing_at(path: str, where: str = "docs/API.md lists what there is") -> str:
    """Return the message for a path that does not exist; `where` says where the paths are listed."""
    path = path.partition("?")[0]  # a client may have encoded the question mark before its key
    found = closest_path(path)
    hint = f"if {found} is meant, call that" if found is not None else where
    return f"There is nothing at {path[:LONGEST]}: {hint}."


def closest_path(path: str) -> str | None:
    """Return the path that was probably meant: with its version, without a slash at its end, spelled right."""
    if len(path) > LONGEST:
        return None
    plain = "/" + "/".join(part for part in path.split("/") if part)
    candidates = list(dict.fromkeys(_filled(template, plain) for template in _templates()))
    lower = plain.lower()
    for candidate in candidates:
        if lower == candidate.lower() != path:
            return candidate
    tail = _tail(lower)
    for candidate in candidates:
        if tail and tail == _tail(candidate.lower()):
            return candidate
    if len(path) > LONGEST_COMPARED:
        return None
    found = get_close_matches(lower, candidates, n=1, cutoff=CLOSE)
    return found[0] if found and found[0] != path else None


@cache
def _templates() -> tuple[str, ...]:
    ours = ("/api/v1/generate", *MANAGEMENT_PATHS)
    return tuple(dict.fromkeys([*ours, *(path for each in PROTOCOLS.values() for path in paths_of(each))]))


def _tail(path: str) -> str:
    """Return a path without what comes before its resource: hosts' and vendors' prefixes, and versions."""
    parts = path.strip("/").split("/")
    while len(parts) > 1 and parts[0] in _PREFIXES:
        parts = parts[1:]
    return "/".join(parts)


_PREFIXES = frozenset({"api", "v1", "v1beta", "v2", "openai", "anthropic", "gemini", "google", "llm", "gateway"})


def _filled(template: str, path: str) -> str:
    """Return a path's template with the path's own values in place of its parameters."""
    start, names_model, method = template.partition(MODEL)
    if names_model:
        name = path.rpartition(":")[0].rpartition("models/")[2]
        return f"{start}{name}{method}" if name else template
    if "{" not in template:
        return template
    parts, given = template.split("/"), path.split("/")
    if len(parts) != len(given):
        return template
    return "/".join(_pairs(parts, given))


def _pairs(parts: list[str], given: list[str]) -> Iterator[str]:
    for part, own in zip(parts, given, strict=True):
        yield own if _PARAMETER.fullmatch(part) else part
