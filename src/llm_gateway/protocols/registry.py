"""The protocols that clients may speak: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from llm_gateway.protocols import (
    anthropic_messages,
    gemini,
    gemini_embeddings,
    openai_chat,
    openai_embeddings,
    openai_responses,
)
from llm_gateway.protocols.descriptor import MODEL, Descriptor

PROTOCOLS: Mapping[str, Descriptor] = {
    descriptor.name: descriptor
    for descriptor in (
        openai_chat.DESCRIPTOR,
        openai_responses.DESCRIPTOR,
        anthropic_messages.DESCRIPTOR,
        openai_embeddings.DESCRIPTOR,
        gemini.DESCRIPTOR,
        gemini_embeddings.DESCRIPTOR,
        gemini_embeddings.BATCH,
    )
}
"""By name. The first tells errors on paths that are no protocol's own, such as the list of models."""
DEFAULT = next(iter(PROTOCOLS.values()))


def paths_of(descriptor: Descriptor) -> list[str]:
    """Every path of a protocol, those that it shares with others included."""
    routes = [*descriptor.routes, *(descriptor.count_tokens.routes if descriptor.count_tokens is not None else ())]
    return [route.path for route in routes] + [*(descriptor.models.paths if descriptor.models is not None else ())]


VENDOR_PATH_PREFIXES = tuple(
    dict.fromkeys(f"/{path.split('/')[1]}/" for each in PROTOCOLS.values() for path in paths_of(each))
)
"""The first segments of the paths of all vendor protocols, with both slashes: `/v1/`, `/v1beta/`."""


def field_name(protocol: str, field: str) -> str:
    """Translate a field of `Conversation`, or a mark of its parts, into the protocol's word for it."""
    known = PROTOCOLS.get(protocol)
    return field if known is None else known.field_names.get(field, field)


def protocol_at(path: str) -> Descriptor | None:
    """Find the protocol whose endpoint, or one below it, is at this path."""
    for descriptor in PROTOCOLS.values():
        if any(_is_at(route.path, path) for route in descriptor.routes):
            return descriptor
        if descriptor.count_tokens is not None and any(_is_at(r.path, path) for r in descriptor.count_tokens.routes):
            return descriptor
    for descriptor in PROTOCOLS.values():
        if descriptor.namespace is not None and path.startswith(f"{descriptor.namespace}/"):
            return descriptor
    return None


def protocol_of(path: str, headers: Mapping[bytes, bytes], query: bytes) -> Descriptor:
    """Return the protocol of a request's client: its path's, or on a shared path that of what the request carries."""
    found = protocol_at(path)
    if found is not None:
        return found
    for descriptor in PROTOCOLS.values():
        models = descriptor.models
        if models is None or not any(path == each or path.startswith(f"{each}/") for each in models.paths):
            continue
        if any(marker in headers for marker in models.markers) or _values(descriptor.key_parameter, query):
            return descriptor
    return DEFAULT


def keys_in_query(path: str, query: bytes) -> list[bytes]:
    """Return the keys in a query string, none on paths of protocols that take no key there."""
    return _values(protocol_of(path, {}, query).key_parameter, query)


def _is_at(template: str, path: str) -> bool:
    start, is_open, end = template.partition(MODEL)
    if is_open:
        return path.startswith(start) and path.endswith(end) and len(path) > len(start) + len(end)
    return path == template or path.startswith(f"{template}/")


def _values(parameter: str | None, query: bytes) -> list[bytes]:
    """Return what a query string says of a parameter; nothing where it is empty."""
    if parameter is None or not query:
        return []
    pairs = parse_qsl(query.decode("latin-1"), encoding="latin-1")
    return [value.encode("latin-1") for name, value in pairs if name == parameter and value]
