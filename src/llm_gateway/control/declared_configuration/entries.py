"""Entries of the sections of a configuration document: the fields of the API, with names in the place of ids."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from llm_gateway.control.management.alert_target_schemas import AlertTargetCreate
from llm_gateway.control.management.budget_schemas import BudgetCreate
from llm_gateway.control.management.fields import STRICT, CallerName, Text
from llm_gateway.control.management.key_schemas import KeyFields, TeamCreate
from llm_gateway.control.management.overrides import OverrideCreate
from llm_gateway.control.management.provider_schemas import Key, Models, Name, ProviderPatch

SECRET_CHARACTERS, HASH_CHARACTERS = 200, 120
PROVIDER_EXAMPLE: JsonDict = {"name": "openai", "api_key": "your-key", "models": ["gpt-4o-mini"]}


class ProviderEntry(ProviderPatch):
    """A provider. Fields that are left out have their defaults, except `api_key`: a stored key stays."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [PROVIDER_EXAMPLE]})

    name: Name
    display_name: Annotated[Text | None, Field(description="null: the name")] = None  # type: ignore[assignment] # wider
    api_key: Annotated[Key | None, Field(description="null: the stored key stays")] = None  # type: ignore[assignment]
    models: Models


class OverrideEntry(OverrideCreate):
    """An override. There is one for each customer and service."""


class TeamEntry(TeamCreate):
    """A team."""


class KeyEntry(KeyFields):
    """A service key. Fields left out have their defaults, except `secret` and `hash`: a stored secret stays."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [{"name": "shop", "team": "core", "rpm": 600}]})

    name: CallerName
    team: Annotated[Text | None, Field(description="name of the team")] = None
    parent: Annotated[Text | None, Field(description="name of a key that this one cannot exceed")] = None
    secret: Annotated[str | None, Field(max_length=SECRET_CHARACTERS, description="what its client sends")] = None
    hash: Annotated[
        str | None, Field(max_length=HASH_CHARACTERS, description="the hash of its secret, as this API returns it")
    ] = None


class BudgetEntry(BudgetCreate):
    """A budget, with the names of a team and a key in `match`. Fields that are left out have their defaults."""


class AlertTargetEntry(AlertTargetCreate):
    """A target of alerts. Fields left out have their defaults; a stored `url`, `secret` and `password` stay."""
