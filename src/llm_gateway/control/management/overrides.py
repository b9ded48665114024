"""Endpoints that create, list and delete overrides: the provider and model that one customer's requests try first."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.management.fields import STRICT, Id, Label, Text, Timestamp, iso
from llm_gateway.control.management.router import Router
from llm_gateway.domain.catalog import Override
from llm_gateway.store.overrides import OverrideDraft, OverrideStore

UserId = Annotated[Label | None, Query(description="only this customer's")]


EXAMPLE: JsonDict = {"user_id": "customer-1", "service_name": "chat", "provider_name": "openai", "model_name": "gpt-4o"}


class OverrideCreate(BaseModel):
    """Fields of a new override. The provider must exist and list the model."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    user_id: Label
    service_name: Annotated[Label | None, Field(description="null: all services")] = None
    provider_name: Text
    model_name: Text
    allow_fallback: Annotated[
        bool, Field(description="false: no other provider is tried; if it is not available, the customer gets 503")
    ] = True


class OverrideOut(BaseModel):
    """An override as the API returns it."""

    id: Id
    user_id: str
    service_name: str | None
    provider_name: str
    model_name: str
    created_at: Timestamp
    updated_at: Timestamp
    allow_fallback: bool


def _shown(override: Override) -> OverrideOut:
    return OverrideOut(
        id=override.id,
        user_id=override.user_id,
        service_name=override.service_name,
        provider_name=override.provider_name,
        model_name=override.model_name,
        created_at=iso(override.created_at_ms),
        updated_at=iso(override.updated_at_ms),
        allow_fallback=override.allow_fallback,
    )


def overrides_router(store: OverrideStore, config: LiveConfiguration) -> Router:
    """Build the endpoints of overrides. A change is in force before its response is sent."""
    router = Router("/api/v1/overrides", "overrides")

    @router.get("", responses=problems(422))
    def list_overrides(user_id: UserId = None) -> list[OverrideOut]:
        return [_shown(override) for override in store.list(user_id)]

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_override(body: OverrideCreate) -> OverrideOut:
        created = store.create(OverrideDraft(**body.model_dump()))
        config.reload()
        return _shown(created)

    @router.delete("/{override_id}", status_code=204, response_class=Response, responses=problems(404))
    def delete_override(override_id: str) -> None:
        store.delete(override_id)
        config.reload()

    return router
