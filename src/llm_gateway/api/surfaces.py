"""The data plane: which surface is at which path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp

from llm_gateway.api.asking import Asking, ClientProtocol
from llm_gateway.api.auth import DATA_PLANE
from llm_gateway.api.count_tokens import CountTokens
from llm_gateway.api.generate import Generate
from llm_gateway.api.models import PATH, Models
from llm_gateway.api.streaming import Drains
from llm_gateway.api.surface import InFlight
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.gateway import Gateway
from llm_gateway.protocols import anthropic_messages, openai_chat, openai_embeddings, openai_responses

CHAT = ClientProtocol(
    "openai_chat",
    "chat_completions",
    openai_chat.read_request,
    openai_chat.read_reply,
    openai_chat.write_reply,
    openai_chat.StreamWriter,
)
RESPONSES = ClientProtocol(
    "openai_responses",
    "responses",
    openai_responses.read_request,
    openai_responses.read_reply,
    openai_responses.write_reply,
    openai_responses.StreamWriter,
    openai_responses.refuse_state,
)
MESSAGES = ClientProtocol(
    "anthropic_messages",
    "messages",
    anthropic_messages.read_request,
    anthropic_messages.read_reply,
    anthropic_messages.write_reply,
    anthropic_messages.StreamWriter,
)
EMBEDDINGS = ClientProtocol(
    "openai_embeddings",
    "embeddings",
    openai_embeddings.read_request,
    openai_embeddings.read_reply,
    openai_embeddings.write_reply,
)
PROTOCOLS = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/embeddings": EMBEDDINGS,
}


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
    for path, protocol in PROTOCOLS.items():
        surfaces[path] = Asking(protocol, gateway, in_flight, drains, **shared)
    return surfaces, {f"{PATH}/": models}
