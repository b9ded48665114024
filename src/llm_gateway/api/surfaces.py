"""The data plane: which surface is at which path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp

from llm_gateway.api.asking import Asking
from llm_gateway.api.auth import DATA_PLANE
from llm_gateway.api.count_tokens import CountTokens
from llm_gateway.api.generate import Generate
from llm_gateway.api.models import PATH, Models
from llm_gateway.api.streaming import Drains
from llm_gateway.api.surface import InFlight
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.gateway import Gateway
from llm_gateway.protocols.registry import PROTOCOLS


def build_surfaces(
    gateway: Gateway,
    in_flight: InFlight,
    drains: Drains,
    snapshot: Callable[[], Snapshot],
    *,
    timeout_s: float,
    log: Callable[..., None],
) -> tuple[Mapping[str, ASGIApp], Mapping[str, ASGIApp]]:
    """The surfaces by their paths, and those by the beginnings of theirs."""
    shared: dict[str, Any] = {"timeout_s": timeout_s, "log": log}
    models = Models(snapshot)
    surfaces: dict[str, ASGIApp] = {
        DATA_PLANE: Generate(gateway, in_flight, drains, **shared),
        PATH: models,
        "/v1/messages/count_tokens": CountTokens(in_flight, snapshot, log),
    }
    for protocol in PROTOCOLS.values():
        surfaces[protocol.path] = Asking(protocol, gateway, in_flight, drains, **shared)
    return surfaces, {f"{PATH}/": models}
