"""Restrict a plan to what the service key of its request may use and spend. Pure: no I/O, no state."""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate, Snapshot
from llm_gateway.domain.model_aliases import is_glob, matches
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.service_key import AllowLists, KeyRights
from llm_gateway.domain.usage import NANOS_PER_USD, Usage, cost
from llm_gateway.errors import ModelNotAllowed, RequestNotAllowed

AUTO = "auto"
MAX_CHARACTERS, MOST_SHOWN = 100, 20
"""Characters of the client's model name, and globs, that an error message quotes."""


def restrict_plan(plan: Plan, request: Request, rights: KeyRights) -> Plan:
    """Return the plan as the request's key allows it.

    Raises:
        ModelNotAllowed: the key may use none of its models.
        RequestNotAllowed: the request could cost more than the key allows.
    """
    if rights.models:
        plan = restrict_models(plan, rights.models, request.requested_model)
    if rights.max_request_nanos is not None:
        plan = restrict_cost(plan, request, rights.max_request_nanos)
    return plan


def restrict_models(plan: Plan, lists: AllowLists, requested: str | None) -> Plan:
    """Return the plan with those of its candidates that match a glob of each list.

    Globs are compared with a candidate's model, with `provider/model`, and with the name that the request gives; the
    latter does not stand for the model of an override.

    Raises:
        ModelNotAllowed: no candidate is left.
    """
    named = None if requested in (None, AUTO) else requested
    tiers = []
    is_made_up = named is not None and not _is_known(named, plan.candidates)
    for number, tier in enumerate(plan.tiers):
        name = None if number == 0 and plan.override_id is not None else named
        kept = tuple(each for each in tier if _allows(lists, each, name, is_made_up=is_made_up))
        if kept:
            tiers.append(kept)
    if not tiers:
        shown = ", ".join([glob for globs in lists for glob in globs][:MOST_SHOWN])
        what = f"the model {named[:MAX_CHARACTERS]!r}" if named is not None else "any of the models it could go to"
        raise ModelNotAllowed(f"This key may not use {what}: name one that it may use ({shown}).")
    if len(tiers) == len(plan.tiers) and all(len(a) == len(b) for a, b in zip(tiers, plan.tiers, strict=True)):
        return plan
    return Plan(tuple(tiers), plan.override_id if tiers[0] == plan.tiers[0] else None, plan.reason)


def restrict_cost(plan: Plan, request: Request, most_nanos: int) -> Plan:
    """Return the plan with those candidates at which the request cannot cost more than `most_nanos`.

    The bound is that of a usage record's intent: the estimated input and the limit of the output, at the price of the
    standard tier. A candidate without a known price has no bound.

    Raises:
        RequestNotAllowed: no candidate is left.
    """
    usage = Usage(input_tokens=request.estimated_input_tokens(), output_tokens=request.max_tokens)
    bounds = [None if each.price is None else cost(each.price, usage) for each in plan.candidates]
    pairs = zip(plan.candidates, bounds, strict=True)
    allowed = {id(each) for each, bound in pairs if bound is not None and bound <= most_nanos}
    if len(allowed) == len(bounds):
        return plan
    if not allowed:
        known = [bound for bound in bounds if bound is not None]
        could = f"could cost {min(known) / NANOS_PER_USD:.6f} USD" if known else "goes to models without a known price"
        raise RequestNotAllowed(
            f"The request {could}, and this key allows requests of up to {most_nanos / NANOS_PER_USD:.6f} USD: lower "
            "its limit of output tokens, shorten it, or name another model."
        )
    tiers = tuple(tuple(each for each in tier if id(each) in allowed) for tier in plan.tiers)
    override_id = plan.override_id if tiers[0] == plan.tiers[0] else None
    return Plan(tuple(tier for tier in tiers if tier), override_id, plan.reason)


def check_allowed(rights: KeyRights, model: str, snapshot: Snapshot) -> None:
    """Check that a key may name a model, which leads somewhere.

    Raises:
        ModelNotAllowed: it may not.
    """
    found = None if model == AUTO else snapshot.resolve(model)
    tiers = snapshot.tiers if found is None else found.tiers
    if rights.models and tiers:
        restrict_models(Plan(tiers), rights.models, model)


def allows_model(lists: AllowLists, name: str, candidates: tuple[Candidate, ...]) -> bool:
    """Return whether a key with these lists may name a model that leads to these candidates."""
    is_made_up = not _is_known(name, candidates)
    return any(_allows(lists, candidate, name, is_made_up=is_made_up) for candidate in candidates)


def _is_known(name: str, candidates: tuple[Candidate, ...]) -> bool:
    """Return whether a name is that of a model, or an alias of its own; else its client can have made it up."""
    for candidate in candidates:
        provider = candidate.provider
        plain = name.removeprefix(f"{provider.name}/")
        if candidate.model in (plain, name):
            return True
        if any(not is_glob(alias) and alias in (name, plain) for alias in provider.model_aliases or ()):
            return True
    return False


def _allows(lists: AllowLists, candidate: Candidate, name: str | None, *, is_made_up: bool = False) -> bool:
    """Return whether a candidate, or the `name` that leads to it, matches a glob of each list.

    A name that is made up can begin or end as it likes. So a glob must cover all that its alias stands for, unless it
    is the name itself: with the alias `*`, `local/*` must not allow local/anything, which is no model of `local`.
    """
    provider = candidate.provider
    names = [candidate.model, f"{provider.name}/{candidate.model}"]
    if is_made_up and name is not None:
        plain = name.removeprefix(f"{provider.name}/")
        for alias, model in (provider.model_aliases or {}).items():
            if model == candidate.model and matches(alias, name):
                names.append(alias)
            elif model == candidate.model and matches(alias, plain):
                names.append(f"{provider.name}/{alias}")
    elif name is not None:
        names.append(name)
    return all(
        any((glob == name and not is_glob(glob)) or any(matches(glob, each) for each in names) for glob in globs)
        for globs in lists
    )
