"""Headers of answers that say who answered, why, and at what cost, since the protocols have no fields for it."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from llm_gateway.domain.reply import Answer
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.error_format.rate_limit_headers import rate_limit_headers
from llm_gateway.error_format.responses import Headers
from llm_gateway.worker.pipeline.relay import Relay

_REMEMBERED = 1024
"""Encoded names of models that are remembered."""
MOST_NAMES, NAME_CHARACTERS = 20, 60
"""Names that `x-gateway-dropped` lists, and characters of each; a character takes up to twelve bytes encoded."""


def gateway_headers(answer: Answer) -> Headers:
    """Return an answer's x-gateway-* headers, which protocols have no fields for."""
    cost = f"{answer.cost_nanos / NANOS_PER_USD:.9f}".encode()
    cache = b"hit" if answer.cached else b"miss"
    return [
        *provider_headers(answer, answer.reply.dropped),
        (b"x-gateway-cache", cache),
        (b"x-gateway-cost-usd", cost),
    ]


def provider_headers(came: Relay | Answer, dropped: tuple[str, ...]) -> Headers:
    """Return the headers that are known when an answer begins; `dropped` names hints that the provider was not told."""
    headers = [*provider_and_route(came), (b"x-gateway-model", _model(came.model))]
    if dropped:
        headers.append((b"x-gateway-dropped", _listed(dropped)))
    return headers


def _listed(names: tuple[str, ...]) -> bytes:
    """Return a header's value that lists names; long ones are cut, and of many the rest is counted.

    Clients choose the names, and refuse an answer whose headers are large: Node.js allows 16 KiB for all of them
    (https://nodejs.org/api/cli.html, `--max-http-header-size`).
    """
    listed = [name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}..." for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        listed.append(f"and {len(names) - MOST_NAMES} more")
    return quote(", ".join(listed), safe=" ,[].").encode()


@lru_cache(maxsize=_REMEMBERED)
def _model(name: str) -> bytes:
    return quote(name, safe="/:@").encode()


def provider_and_route(came: Relay | Answer) -> Headers:
    """Return the headers of answers whose body says the rest."""
    return [
        (b"x-gateway-provider", came.provider.encode()),
        (b"x-gateway-route", came.route),
        *rate_limit_headers(came.window, came.queued_ms),
        *came.budget,
    ]
