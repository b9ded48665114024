"""The protocols that clients may speak: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from llm_gateway.protocols import anthropic_messages, openai_chat, openai_embeddings, openai_responses
from llm_gateway.protocols.descriptor import Descriptor

PROTOCOLS: Mapping[str, Descriptor] = {
    descriptor.name: descriptor
    for descriptor in (
        openai_chat.DESCRIPTOR,
        openai_responses.DESCRIPTOR,
        anthropic_messages.DESCRIPTOR,
        openai_embeddings.DESCRIPTOR,
    )
}
"""By name. The first tells errors on paths that are no protocol's own, such as the list of models."""


def field_name(protocol: str, field: str) -> str:
    """Translate a field of `Conversation`, or a mark of its parts, into the protocol's word for it."""
    known = PROTOCOLS.get(protocol)
    return field if known is None else known.field_names.get(field, field)


def protocol_at(path: str) -> Descriptor | None:
    """Find the protocol whose endpoint, or one below it, is at this path."""
    for descriptor in PROTOCOLS.values():
        if path == descriptor.path or path.startswith(f"{descriptor.path}/"):
            return descriptor
    return None
