"""Limit of the output tokens of an answer: what a request sets, and what its key or a budget sets in its document."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.service_key import KeyRights
from llm_gateway.errors import Invalid, RequestNotAllowed
from llm_gateway.protocols.descriptor import Descriptor

DEFAULT_MAX_TOKENS = 4096
"""Output tokens to reserve in rate limits and cost bounds for a request that sets no limit of its own."""
MOST_TOKENS, MOST_CHOICES = 10_000_000, 128
"""Bounds of the output tokens to reserve for a choice, and of the choices; OpenAI rejects more, and more is ignored."""


def limit_by_key(client_request: ClientRequest, protocol: Descriptor, rights: KeyRights) -> None:
    """Lower or set the limit of output tokens in a request's document, as its key demands.

    If the key bounds the cost of a request, the limit that the bound is made of is set as well: without it, or beside
    it in another field, an answer could be longer.

    Raises:
        Invalid, RequestNotAllowed: as `limit_output`.
    """
    limit = rights.max_tokens
    if rights.max_request_nanos is not None:
        _refuse_uncounted_choices(client_request.document, protocol, "This key limits what a request can cost")
        of_answer = _limit_of_answer(client_request.document, protocol)
        limit = of_answer if limit is None else min(limit, of_answer)
    if limit is not None:
        limit_output(client_request, protocol, limit)


def limit_to_bound(client_request: ClientRequest, protocol: Descriptor, budget: str) -> None:
    """Set the limit of output tokens that the bound of a request's cost is made of, as `budget` (its name) demands.

    Raises:
        Invalid, RequestNotAllowed: as `limit_output`; or as `_refuse_uncounted_choices`.
    """
    promise = f"Budget '{budget}' holds the most that a request can cost"
    _refuse_uncounted_choices(client_request.document, protocol, promise)
    limit_output(
        client_request,
        protocol,
        _limit_of_answer(client_request.document, protocol),
        f"{promise}, and this one is too large to be given a limit of its output tokens here: set one.",
    )
    if client_request.apart is None:
        client_request.put_conversation(None)


def limit_output(client_request: ClientRequest, protocol: Descriptor, limit: int, refusal: str = "") -> None:
    """Lower the limit of output tokens in a request's document, or set one.

    `refusal` is the sentence for a client that has to set the limit itself; by default that of a service key. What is
    no positive integer counts as no limit: some providers take -1 as none, others a text or a float as a number.

    Raises:
        Invalid: the object that would hold the limit is no object.
        RequestNotAllowed: the document is so large that it is not decoded here, and its own limit is not low enough.
    """
    names = protocol.output_fields
    if not names:
        return
    document = client_request.document
    places = [found for name in protocol.settings_fields if isinstance(found := document.get(name), dict)]
    if client_request.apart is not None:
        for place in places or [document]:
            given = [value for name in names if (value := place.get(name)) is not None]
            if not given or not all(_is_within(value, limit) for value in given):
                raise RequestNotAllowed(
                    refusal or f"This key allows {limit} output tokens: set this limit in the request, or less."
                )
        return
    for place in places or [_settings(document, protocol)]:
        for name in names:
            if place.get(name) is not None and not _is_within(place[name], limit):
                place[name] = limit
        if all(place.get(name) is None for name in names):
            place[names[0]] = limit


def _refuse_uncounted_choices(document: dict[str, Any], protocol: Descriptor, promise: str) -> None:
    """Refuse a number of choices that is not counted: some servers take a text or a float, or any number.

    Raises:
        RequestNotAllowed: it is no integer from 1 to `MOST_CHOICES`; the sentence begins with `promise`.
    """
    places = [found for name in protocol.settings_fields if isinstance(found := document.get(name), dict)]
    for place in places or [document]:
        for name in protocol.choice_fields:
            if place.get(name) is not None and not _is_within(place[name], MOST_CHOICES):
                raise RequestNotAllowed(f"{promise}, so {name} must be an integer from 1 to {MOST_CHOICES}.")


def _is_within(value: object, limit: int) -> bool:
    return type(value) is int and 0 < value <= limit


def _settings(document: dict[str, Any], protocol: Descriptor) -> dict[str, Any]:
    """Return the object that holds the limit of a document without one, which is added if it is missing."""
    if not protocol.settings_fields:
        return document
    name = protocol.settings_fields[0]
    if document.get(name) is None:
        document[name] = {}
    settings = document[name]
    if not isinstance(settings, dict):
        raise Invalid(f"{name} must be an object.", loc=("body", name))
    return settings


def _limit_of_answer(document: dict[str, Any], protocol: Descriptor) -> int:
    """Return the limit of output tokens of one answer that a document sets, or the default."""
    places = [found for name in protocol.settings_fields if isinstance(found := document.get(name), dict)]
    return max(_first_positive(place, protocol.output_fields) for place in places or [document]) or DEFAULT_MAX_TOKENS


def output_limit(document: dict[str, Any], protocol: Descriptor) -> int:
    """Return the maximum number of output tokens over all choices, for rate limits and the bound of the cost.

    It is 0 for a protocol whose answers have none, such as embeddings.
    """
    if not protocol.output_fields:
        return 0
    places = [found for name in protocol.settings_fields if isinstance(found := document.get(name), dict)]
    if places:
        limit = max([_first_positive(place, protocol.output_fields) for place in places])
        choices = max([_first_positive(place, protocol.choice_fields) for place in places])
    else:
        limit = _first_positive(document, protocol.output_fields)
        choices = _first_positive(document, protocol.choice_fields)
    if not 0 < limit < MOST_TOKENS:
        limit = MOST_TOKENS if limit else DEFAULT_MAX_TOKENS
    return limit * choices if 1 < choices <= MOST_CHOICES else limit


def _first_positive(document: dict[str, Any], names: tuple[str, ...]) -> int:
    """Return the value of the first of these fields that is an integer above 0; 0 if no field is."""
    for name in names:
        value = document.get(name)
        if type(value) is int and value > 0:
            return value
    return 0
