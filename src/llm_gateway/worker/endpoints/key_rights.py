"""Apply the rights of a service key to a request: allowed customers and services, reasoning, tags."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.domain.model_aliases import matches
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.service_key import AllowLists, KeyRights
from llm_gateway.errors import CustomerNotAllowed, RequestNotAllowed, ServiceNotAllowed
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.protocols.registry import PROTOCOLS

MAX_SHOWN = 100
"""Characters of a client's value that an error message quotes."""
BUDGETS = (("low", 2048), ("medium", 8192), ("high", 24_576))
"""Efforts, and the most thinking tokens that count as them; more is the highest effort."""
REASONING_FIELDS = ("reasoning_effort", "reasoning", "thinking", "output_config", "thinkingConfig", "thinking_config")
"""Fields of the protocols' requests, or of the settings in them, that ask for reasoning."""


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
        _check_effort(request.client_request, rights.max_reasoning_effort)
    return request


def _check_effort(client_request: ClientRequest, most: str) -> None:
    """Check that a request asks for no more reasoning than `most`.

    Raises:
        RequestNotAllowed: it does, or it asks for reasoning in a document that cannot be read.
    """
    try:
        reasoning = client_request.conversation.reasoning
    except (Unreadable, Unsupported):
        # A provider of its own protocol may accept it all the same.
        field = _reasoning_field(client_request)
        if field is None:
            return
        raise RequestNotAllowed(
            f"This key allows reasoning efforts up to {most!r}, and the gateway cannot read how much this request asks "
            f"for: leave {field} out."
        ) from None
    if reasoning is None:
        return
    budget = reasoning.budget_tokens
    asked = [] if reasoning.effort is None else [reasoning.effort]
    if budget is not None:
        asked.append(next((word for word, tokens in BUDGETS if budget <= tokens), REASONING_EFFORTS[-1]))
    for effort in asked:
        if REASONING_EFFORTS.index(effort) > REASONING_EFFORTS.index(most):
            raise RequestNotAllowed(f"This key allows reasoning efforts up to {most!r}, not {effort!r}: ask for less.")


def _reasoning_field(client_request: ClientRequest) -> str | None:
    """Return the name of a field that asks for reasoning, None if the document has none."""
    document = client_request.document
    settings = [document.get(name) for name in PROTOCOLS[client_request.protocol].settings_fields]
    places = [document, *(each for each in settings if isinstance(each, dict))]
    return next((name for place in places for name in REASONING_FIELDS if place.get(name) is not None), None)
