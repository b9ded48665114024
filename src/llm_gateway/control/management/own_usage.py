"""Narrow usage reports for the scope `own`: a key sees its own requests and its team's, a person its bounds'."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request

from llm_gateway.errors import Forbidden, NotFound
from llm_gateway.gate.request_context import REQUEST_CONTEXT, Caller, Person, RequestContext

REFUSED = (
    "With the scope 'own' this key sees its own requests (key={key}){of_team}, no others: leave the filters key and "
    "team out, or name these."
)

REFUSED_PERSON = "With the role own you see the requests with {bounds}, no others: leave these filters out."
UNBOUND = "With the role own you see the usage of a team or a customer, but you are bound to none: ask an admin."
PARAMETERS = {"team": "team", "customer": "user_id"}
"""Query parameters of what a person can be bound to."""


class OwnUsage:
    """Filters that each report must apply. `team_of` returns the team's id of a key that was made over the API.

    A report is of the key if its filter `key` names it, else of the key's team, if it has one.
    """

    def __init__(self, team_of: Callable[[str], str | None]) -> None:
        self._team_of = team_of

    def filters(self, request: Request, given: Mapping[str, str]) -> dict[str, str]:
        """Return the given filters, narrowed for a key that may see only its own usage; values by dimension.

        Raises:
            Forbidden: the filters ask for usage of other keys or teams.
        """
        caller = _caller(request)
        if _sees_all(caller):
            return dict(given)
        if isinstance(caller, Person):
            return _narrowed(caller, given)
        key, team = self._own(caller)
        if given.get("key") == key:
            return dict(given)
        if team is None and "key" not in given and "team" not in given:
            return {**given, "key": key}
        if team is not None and given.get("team", team) == team:
            return {**given, "team": team}
        of_team = "" if team is None else f" and those of its team (team={team})"
        raise Forbidden(REFUSED.format(key=key, of_team=of_team))

    def of_all(self, request: Request) -> dict[str, str] | None:
        """Return the filter of a report that has none: None for a key that sees all, else of its team or itself."""
        return self.filters(request, {}) or None

    def alternatives(self, request: Request) -> list[dict[str, str]]:
        """Return filters of which a single record must meet one."""
        caller = _caller(request)
        if _sees_all(caller):
            return [{}]
        if isinstance(caller, Person):
            return [_bounds(caller)]
        key, team = self._own(caller)
        return [{"key": key}] if team is None else [{"key": key}, {"team": team}]

    def _own(self, caller: Caller) -> tuple[str, str | None]:
        """Return the key as reports name it, and its team."""
        if caller.key_id is None:
            return caller.name, None
        try:
            return caller.key_id, self._team_of(caller.key_id)
        except NotFound:  # deleted a moment ago
            return caller.key_id, None


def _caller(request: Request) -> Caller:
    context: RequestContext = request.scope[REQUEST_CONTEXT]
    return context.caller


def _bounds(person: Person) -> dict[str, str]:
    bounds = {"team": person.team_id, "customer": person.customer}
    found = {name: value for name, value in bounds.items() if value is not None}
    if not found:
        raise Forbidden(UNBOUND)
    return found


def _narrowed(person: Person, given: Mapping[str, str]) -> dict[str, str]:
    bounds = _bounds(person)
    if any(given.get(name, value) != value for name, value in bounds.items()):
        filters = " and ".join(f"{PARAMETERS[name]}={value}" for name, value in bounds.items())
        raise Forbidden(REFUSED_PERSON.format(bounds=filters))
    return {**given, **bounds}


def _sees_all(caller: Caller) -> bool:
    return "read" in caller.scopes or "admin" in caller.scopes
