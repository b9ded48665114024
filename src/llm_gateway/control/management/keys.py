"""Endpoints that create, list, get, patch, rotate and delete service keys, and `/me`. A secret is shown once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response
from starlette.requests import Request

from llm_gateway import wall_clock
from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.effective_keys import rights_of, scopes_of, stored_line, team_of
from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.management.fields import Reference, Text, iso
from llm_gateway.control.management.key_schemas import (
    KeyCreate,
    KeyInForce,
    KeyMade,
    KeyMe,
    KeyOut,
    KeyPage,
    KeyPatch,
    Rotation,
)
from llm_gateway.control.management.key_spending import KeySpending
from llm_gateway.control.management.router import Router
from llm_gateway.domain.service_key import FOR_EVER, SCOPE_BITS, SCOPES_OF_BITS, ServiceKey
from llm_gateway.domain.stored_key import Allowed, Fixed, KeySettings, StoredKey
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import Conflict, Invalid
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.store.identifiers import missing
from llm_gateway.store.keys import SETTINGS, KeyDraft, KeyStore

ENVIRONMENT = uuid.UUID("6f1c3a52-8f0e-5f0a-9a55-6c6c6d67656e")
"""Namespace of the ids of the environment's keys, which are made from their names (UUIDv5)."""
READ_ONLY = (
    "This is a key of the environment, which cannot be changed here: change LLM_GATEWAY_SERVICE_KEYS and restart or "
    "reload the gateway."
)
Limit = Annotated[int, Query(ge=1, le=1000, description="keys of a page")]
Cursor = Annotated[Reference | None, Query(description="`next_cursor` of the page before")]
TeamId = Annotated[Reference | None, Query(description="only keys of this team")]
Name = Annotated[Text | None, Query(description="only the key with this name")]


class EnvironmentKeys:
    """The keys of the environment as the API shows them, by their ids. They have no secret here."""

    def __init__(self, keys: Iterable[tuple[str, Iterable[str]]]) -> None:
        self.by_id = {str(uuid.uuid5(ENVIRONMENT, name)): _of_environment(name, scopes) for name, scopes in keys}

    def find(self, key_id: str) -> KeyOut | None:
        """Return the key with this id, None if the environment has none."""
        return self.by_id.get(key_id.lower())

    def named(self, name: str | None) -> list[KeyOut]:
        """Return the key with this name, or all if it is None."""
        return [key for key in self.by_id.values() if name is None or key.name == name]

    def refuse_change(self, key_id: str) -> None:
        """Check that a key to be changed is not of the environment.

        Raises:
            Conflict: it is.
        """
        if self.find(key_id) is not None:
            raise Conflict(READ_ONLY)


def keys_router(store: KeyStore, config: LiveConfiguration, environment: EnvironmentKeys) -> Router:
    """Build the endpoints of keys. A change is in force before its response is sent."""
    router = Router("/api/v1/keys", "keys")

    @router.get("", responses=problems(422))
    def list_keys(limit: Limit = 100, cursor: Cursor = None, team_id: TeamId = None, name: Name = None) -> KeyPage:
        first = environment.named(name) if cursor is None and team_id is None else []
        found = store.list(
            name=name, team_id=team_id and team_id.lower(), after=(cursor or "").lower(), limit=limit + 1
        )
        shown = [*first, *(shown_key(key) for key in found[:limit])]
        return KeyPage(keys=shown, next_cursor=found[limit - 1].id if len(found) > limit else None)

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_key(body: KeyCreate) -> KeyMade:
        fields = _plain(body.model_dump())
        settings = KeySettings(**{name: fields.pop(name) for name in SETTINGS})
        made = store.create(KeyDraft(settings=settings, **fields))
        config.reload()
        return KeyMade(secret=made.secret, **dict(shown_key(made.key)))

    @router.get("/{key_id}", responses=problems(404))
    def get_key(key_id: str) -> KeyOut:
        return environment.find(key_id) or shown_key(store.get(key_id))

    @router.patch("/{key_id}", responses=problems(404, 409, 422))
    def patch_key(key_id: str, body: KeyPatch) -> KeyOut:
        environment.refuse_change(key_id)
        changes = _plain(body.model_dump(exclude_unset=True))
        stored = store.update(key_id, changes) if changes else store.get(key_id)
        config.reload()
        return shown_key(stored)

    @router.delete("/{key_id}", status_code=204, response_class=Response, responses=problems(404, 409))
    def delete_key(key_id: str) -> None:
        environment.refuse_change(key_id)
        store.delete(key_id)
        config.reload()

    @router.post("/{key_id}/rotate", responses=problems(404, 409, 422))
    def rotate_key(key_id: str, body: Rotation) -> KeyMade:
        """Make a new secret. The secrets before stay valid for `overlap_s` seconds."""
        environment.refuse_change(key_id)
        made = store.rotate(key_id, body.overlap_s)
        config.reload()
        return KeyMade(secret=made.secret, **dict(shown_key(made.key)))

    return router


def me_router(store: KeyStore, environment: EnvironmentKeys, spending: KeySpending) -> Router:
    """Build the endpoint that shows the key or token of the request. Any may call it."""
    router = Router("/api/v1/me", "keys")

    @router.get("", responses=problems(404))
    def get_me(request: Request) -> KeyMe:
        """Return the key of this request: its name, scopes and limits, and what it spent."""
        context: RequestContext = request.scope[REQUEST_CONTEXT]
        caller = context.caller
        if caller.key_id is not None:
            line = stored_line(store, caller.key_id)
            shown, in_force = shown_key(line[0]), key_in_force(line)
        elif caller.key is not None:
            shown, in_force = _of_token(caller.key)
        else:
            named = environment.named(caller.name)
            if not named:
                raise missing("key")
            shown, in_force = named[0], _alone(named[0])
        key = caller.key_id or caller.name
        spend, budgets = spending.of_month(key), spending.budgets(key, caller.key_id, caller.key)
        return KeyMe(**dict(shown), in_force=in_force, spend=spend, budgets=budgets)

    return router


def key_in_force(line: Sequence[StoredKey]) -> KeyInForce:
    """Return what a key may do with what its parents leave it; the key comes first in `line`."""
    rights, scopes = rights_of(line), SCOPES_OF_BITS[scopes_of(line)]
    nanos = rights.max_request_nanos
    ends = [each.expires_at_ms for each in line if each.expires_at_ms is not None]

    def least(name: str) -> int | None:
        limits = [getattr(each, name) for each in rights.limits]
        return min((limit for limit in limits if limit is not None), default=None)

    return KeyInForce(
        scopes=[scope for scope in SCOPE_BITS if scope in scopes],
        team_id=team_of(line),
        customers=list(map(list, rights.customers)),
        services=list(map(list, rights.services)),
        models=list(map(list, rights.models)),
        fixed_customer=rights.fixed_customer,
        fixed_service=rights.fixed_service,
        fixed_model=rights.fixed_model,
        rpm=least("rpm"),
        tpm=least("tpm"),
        max_parallel=least("max_parallel"),
        max_tokens=rights.max_tokens,
        max_reasoning_effort=rights.max_reasoning_effort,
        max_request_usd=None if nanos is None else nanos / NANOS_PER_USD,
        tags=rights.tags,
        expires_at=_moment(min(ends, default=None)),
    )


def _alone(key: KeyOut) -> KeyInForce:
    """Return what a key of the environment may do, which nothing narrows."""
    absent: dict[str, Any] = dict.fromkeys(KeyInForce.model_fields)
    lists: dict[str, Any] = {"customers": [], "services": [], "models": []}
    return KeyInForce(**(absent | lists | {"scopes": key.scopes, "tags": {}}))


def _of_token(token: ServiceKey) -> tuple[KeyOut, KeyInForce]:
    """Return a token of an identity provider as a key, which nothing but its claims narrows, and what it may do."""
    customer = None if token.rights is None else token.rights.fixed_customer
    ends = {"expires_at": None if token.until_ms == FOR_EVER else iso(token.until_ms)}
    key = _of_environment(token.name, SCOPES_OF_BITS[token.scopes])
    of_claims = {
        "source": "jwt",
        "team_id": token.team_id,
        "customers": None if customer is None else {"fixed": customer},
    }
    shown = key.model_copy(update=of_claims | ends)
    return shown, _alone(key).model_copy(update=ends | {"team_id": token.team_id, "fixed_customer": customer})


def shown_key(key: StoredKey) -> KeyOut:
    """Return a stored key as the API shows it."""
    settings = key.settings
    nanos = settings.max_request_nanos
    return KeyOut(
        id=key.id,
        name=key.name,
        source="api",
        scopes=list(key.scopes),
        team_id=key.team_id,
        parent_id=key.parent_id,
        owner=key.owner,
        customers=_shown_list(settings.customers),
        services=_shown_list(settings.services),
        models=_shown_list(settings.models),
        rpm=settings.rpm,
        tpm=settings.tpm,
        max_parallel=settings.max_parallel,
        max_tokens=settings.max_tokens,
        max_reasoning_effort=settings.max_reasoning_effort,
        max_request_usd=None if nanos is None else nanos / NANOS_PER_USD,
        tags=settings.tags,
        expires_at=_moment(key.expires_at_ms),
        disabled=key.disabled,
        last4=key.last4,
        last_used_at=_moment(key.last_used_at_ms),
        created_at=_moment(key.created_at_ms),
        updated_at=_moment(key.updated_at_ms),
    )


def _of_environment(name: str, scopes: Iterable[str]) -> KeyOut:
    absent: dict[str, Any] = dict.fromkeys(KeyOut.model_fields)
    known = {
        "id": str(uuid.uuid5(ENVIRONMENT, name)),
        "name": name,
        "source": "env",
        "scopes": [scope for scope in SCOPE_BITS if scope in scopes],
        "tags": {},
        "disabled": False,
    }
    return KeyOut(**(absent | known))


def _shown_list(allowed: Allowed | None) -> object:
    if isinstance(allowed, Fixed):
        return {"fixed": allowed.fixed}
    return None if allowed is None else list(allowed)


def _moment(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else iso(milliseconds)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a schema's fields to those of the store.

    Raises:
        Invalid: a scope is named twice, or the key would have expired already.
    """
    if "scopes" in fields:
        if len(set(fields["scopes"])) < len(fields["scopes"]):
            raise Invalid("scopes names one twice: name each once.", loc=("body", "scopes"))
        fields["scopes"] = tuple(fields["scopes"])
    if "max_request_usd" in fields:
        usd = fields.pop("max_request_usd")
        fields["max_request_nanos"] = None if usd is None else max(1, round(usd * NANOS_PER_USD))
    if "expires_at" in fields:
        expires_at_ms = fields["expires_at_ms"] = fields.pop("expires_at")
        if expires_at_ms is not None and expires_at_ms <= wall_clock.now_ms():
            raise Invalid(
                "expires_at is in the past: choose a later time, or disable the key to end it now.",
                loc=("body", "expires_at"),
            )
    for name in ("team_id", "parent_id"):
        if fields.get(name) is not None:
            fields[name] = fields[name].lower()
    return fields
