"""Headers of answers that say who answered, why, and at what cost, since the protocols have no fields for it."""

from __future__ import annotations

from urllib.parse import quote

from llm_gateway.domain.reply import Answer
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.error_format.responses import Headers


def gateway_headers(answer: Answer) -> Headers:
    """Return an answer's x-gateway-* headers, which protocols have no fields for."""
    cost = f"{answer.cost_nanos / NANOS_PER_USD:.9f}".encode()
    cache = b"hit" if answer.cached else b"miss"
    return [
        *provider_headers(answer.provider, answer.model, answer.route, answer.reply.dropped),
        (b"x-gateway-cache", cache),
        (b"x-gateway-cost-usd", cost),
    ]


def provider_headers(provider: str, model: str, route: bytes, dropped: tuple[str, ...]) -> Headers:
    """Return the headers that are known when an answer begins; `dropped` names hints that the provider was not told."""
    headers = [
        (b"x-gateway-provider", provider.encode()),
        (b"x-gateway-model", quote(model, safe="/:@").encode()),
        (b"x-gateway-route", route),
    ]
    if dropped:
        headers.append((b"x-gateway-dropped", quote(", ".join(dropped), safe=" ,[].").encode()))
    return headers


def provider_and_route(provider: str, route: bytes) -> Headers:
    """Return the headers of answers whose body says the rest."""
    return [(b"x-gateway-provider", provider.encode()), (b"x-gateway-route", route)]
