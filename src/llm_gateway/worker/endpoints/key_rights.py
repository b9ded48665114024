"""Apply the rights of a service key to a request: allowed customers and services, the output limit, tags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.domain.model_aliases import matches
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.service_key import AllowLists, KeyRights
from llm_gateway.errors import CustomerNotAllowed, RequestNotAllowed, ServiceNotAllowed
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.protocols.descriptor import Descriptor

MAX_SHOWN = 100
"""Characters of a client's value that an error message quotes."""
BUDGETS = (("low", 2048), ("medium", 8192), ("high", 24_576))
"""Efforts, and the most thinking tokens that count as them; more is the highest effort."""


def allows(lists: AllowLists, value: str) -> bool:
    """Return whether a value matches a glob of each list."""
    return all(any(matches(glob, value) for glob in globs) for globs in lists)


def restrict(request: Request, rights: KeyRights) -> Request:
    """Return the request as the key allows it, except for its model (`routing/restricted_plan.py`).

    Raises:
        CustomerNotAllowed, ServiceNotAllowed: the key may not make requests for its customer or service.
        RequestNotAllowed: it asks for more reasoning than the key allows.
    """
    changes: dict[str, Any] = {}
    if rights.fixed_customer is not None:
        changes["user_id"] = rights.fixed_customer
    if rights.fixed_service is not None:
        changes["service"] = rights.fixed_service
    if rights.fixed_model is not None:
        changes["requested_model"] = rights.fixed_model
    if rights.tags:
        changes["tags"] = request.tags | rights.tags
    if changes:
        request = msgspec.structs.replace(request, **changes)
    if not allows(rights.customers, request.user_id):
        raise CustomerNotAllowed(
            f"This key may not make requests for the customer {request.user_id[:MAX_SHOWN]!r}: send the user id of one "
            "that it may, or use another key."
        )
    if not allows(rights.services, request.service):
        raise ServiceNotAllowed(
            f"This key may not make requests for the service {request.service[:MAX_SHOWN]!r}: send the name of one "
            "that it may, or use another key."
        )
    if rights.max_reasoning_effort is not None:
        _check_effort(request, rights.max_reasoning_effort)
    return request


def limit_output(client_request: ClientRequest, protocol: Descriptor, limit: int) -> None:
    """Lower the limit of output tokens in a request's document, or set one.

    Raises:
        RequestNotAllowed: the document is so large that it is not decoded here.
    """
    if not protocol.output_fields:
        return
    if client_request.apart is not None:
        raise RequestNotAllowed(f"This key allows {limit} output tokens: set this limit in the request, or less.")
    document = client_request.document
    places = [found for name in protocol.settings_fields if isinstance(found := document.get(name), dict)]
    if not places:
        places = [document.setdefault(protocol.settings_fields[0], {})] if protocol.settings_fields else [document]
    for place in places:
        if not _lower(place, protocol.output_fields, limit):
            place[protocol.output_fields[0]] = limit


def _lower(place: dict[str, Any], names: Iterable[str], limit: int) -> bool:
    """Lower those of these fields that are greater than the limit. Returns whether any is there."""
    found = False
    for name in names:
        value = place.get(name)
        if type(value) is int:
            found = True
            place[name] = min(value, limit)
    return found


def _check_effort(request: Request, most: str) -> None:
    """Check that a request asks for no more reasoning than `most`.

    Raises:
        RequestNotAllowed: it does.
    """
    try:
        reasoning = request.client_request.conversation.reasoning
    except (Unreadable, Unsupported):
        return  # the provider of its own protocol tells what is wrong with it
    if reasoning is None:
        return
    effort = reasoning.effort
    if effort is None and reasoning.budget_tokens is not None:
        effort = next((word for word, tokens in BUDGETS if reasoning.budget_tokens <= tokens), REASONING_EFFORTS[-1])
    if effort in REASONING_EFFORTS and REASONING_EFFORTS.index(effort) > REASONING_EFFORTS.index(most):
        raise RequestNotAllowed(f"This key allows reasoning efforts up to {most!r}, not {effort!r}: ask for less.")
