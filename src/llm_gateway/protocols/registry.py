"""Registry of the protocols that clients may speak, and lookup of a protocol by request path, header or query."""

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
"""All protocols by name."""
DEFAULT = next(iter(PROTOCOLS.values()))
"""The protocol of requests on paths that several protocols share (`/v1/models`) or that belong to none."""


def paths_of(descriptor: Descriptor) -> list[str]:
    """Return every path of a protocol, including those that it shares with other protocols."""
    routes = [*descriptor.routes, *(descriptor.count_tokens.routes if descriptor.count_tokens is not None else ())]
    return [route.path for route in routes] + [*(descriptor.models.paths if descriptor.models is not None else ())]


VENDOR_PATH_PREFIXES = tuple(
    dict.fromkeys(f"/{path.split('/')[1]}/" for each in PROTOCOLS.values() for path in paths_of(each))
)
"""First path segments of all vendor protocols, with both slashes: `/v1/`, `/v1beta/`."""


MANAGEMENT_PREFIXES = tuple(each.management_path for each in PROTOCOLS.values() if each.management_path is not None)
"""Starts of paths that the management API serves in the shape of a vendor's."""
GENERATE_PATH = "/api/v1/generate"
"""The path of the gateway's own protocol."""


def is_call(path: str) -> bool:
    """Return whether requests for the path are calls: of the gateway's own protocol, or anything below a vendor's."""
    return (path == GENERATE_PATH or path.startswith(VENDOR_PATH_PREFIXES)) and not path.startswith(MANAGEMENT_PREFIXES)


def field_name(protocol: str, field: str) -> str:
    """Return the protocol's name for a field of `Conversation` or an attribute of its parts."""
    known = PROTOCOLS.get(protocol)
    return field if known is None else known.field_names.get(field, field)


def protocol_at(path: str) -> Descriptor | None:
    """Return the protocol that owns this path: of an endpoint, of a path below one, or by `namespace`."""
    for descriptor in PROTOCOLS.values():
        if any(_is_at(route.path, path) for route in descriptor.routes):
            return descriptor
        if descriptor.count_tokens is not None and any(_is_at(r.path, path) for r in descriptor.count_tokens.routes):
            return descriptor
        if descriptor.management_path is not None and _is_at(descriptor.management_path, path):
            return descriptor
    for descriptor in PROTOCOLS.values():
        if descriptor.namespace is not None and path.startswith(f"{descriptor.namespace}/"):
            return descriptor
    return None


def protocol_of(path: str, headers: Mapping[bytes, bytes], query: bytes) -> Descriptor:
    """Return the protocol in which a request's errors are written.

    On a path that protocols share, a protocol's header or key parameter decides; without any, it is `DEFAULT`.
    """
    protocol = protocol_at(path)
    if protocol is not None:
        return protocol
    for descriptor in PROTOCOLS.values():
        models = descriptor.models
        if models is None or not any(path == each or path.startswith(f"{each}/") for each in models.paths):
            continue
        if any(marker in headers for marker in models.markers) or _values(descriptor.key_parameter, query):
            return descriptor
    return DEFAULT


def keys_in_query(path: str, query: bytes) -> list[bytes]:
    """Return the API keys in a query string; empty on paths of protocols that accept no key in the query."""
    return _values(protocol_of(path, {}, query).key_parameter, query)


def _is_at(template: str, path: str) -> bool:
    start, is_open, end = template.partition(MODEL)
    if is_open:
        return path.startswith(start) and path.endswith(end) and len(path) > len(start) + len(end)
    return path == template or path.startswith(f"{template}/")


def _values(parameter: str | None, query: bytes) -> list[bytes]:
    """Return the values of a query parameter, without empty ones."""
    if parameter is None or not query:
        return []
    pairs = parse_qsl(query.decode("latin-1"), encoding="latin-1")  # a bijection of bytes, so no key is altered
    return [value.encode("latin-1") for name, value in pairs if name == parameter and value]
