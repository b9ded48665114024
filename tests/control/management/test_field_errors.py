"""Errors of fields are told in the words of POST /generate, not in pydantic's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from llm_gateway.control.management import (
    alert_target_schemas,
    key_schemas,
    overrides,
    people,
    provider_schemas,
    record_schemas,
    spend_limits,
)
from llm_gateway.control.management.budget_schemas import BudgetCreate
from llm_gateway.control.management.field_errors import PATTERNS, place_of, sentence
from llm_gateway.control.management.people import PersonCreate
from llm_gateway.control.management.provider_schemas import ProviderCreate

MODULES = key_schemas, overrides, provider_schemas, record_schemas, spend_limits
PROVIDER: dict[str, Any] = {"name": "a", "display_name": "A", "api_key": "key", "models": ["m"]}
BUDGET: dict[str, Any] = {"name": "b", "limit_usd": 5, "period": "month"}


def told(model: type[BaseModel], document: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as raised:
        model.model_validate(document)
    (found,) = raised.value.errors()
    return sentence(".".join(map(str, place_of(found))), found)


def test_a_field_is_named_with_what_it_must_be() -> None:
    for fields, expected in (
        ({"name": "A b"}, "name must be 1 to 63 lower-case letters (a to z), digits, - and _, and begin with a letter"),
        ({"name": None}, "name must be text, not null."),
        ({"display_name": ""}, "display_name must not be empty."),
        ({"display_name": " \u3000"}, "display_name must not be blank."),
        ({"models": ["m", " "]}, "models.1 must not be blank."),
        ({"display_name": "a\nb"}, "display_name must not contain control characters, such as line breaks."),
        ({"display_name": "x" * 201}, "display_name must have at most 200 characters."),
        ({"api_key": ""}, "api_key must not be empty."),
        ({"api_key": 5}, "api_key must be text, not a whole number."),
        ({"api_key": "k" * 4097}, "api_key must have at most 4096 characters."),
        ({"api_key": " k"}, "api_key must be printable ASCII without blanks at either end."),
        ({"models": []}, "models must not be empty."),
        ({"models": ["m", "n", "m"]}, "models: 'm' is named twice; name it once."),
        ({"models": "m"}, "models must be a list, not text."),
        ({"models": ["m", ""]}, "models.1 must not be empty."),
        ({"models": [str(number) for number in range(1001)]}, "models must have at most 1000 entries."),
        ({"is_enabled": "yes"}, "is_enabled must be true or false, not text."),
        ({"rate_limit_rpm": 0}, "rate_limit_rpm must be at least 1."),
        ({"rate_limit_rpm": 1.5}, "rate_limit_rpm must be a whole number, not a number with a fraction."),
        ({"rate_limit_tpm": True}, "rate_limit_tpm must be a whole number, not true or false."),
        ({"priority": 2**31}, "priority must be at most 2147483647."),
        ({"priority": [1]}, "priority must be a whole number, not a list."),
        ({"timeout_s": 3601}, "timeout_s must be at most 3600."),
        ({"timeout_s": 0}, "timeout_s must be at least 0.001."),
        ({"timeout_s": {}}, "timeout_s must be a number, not an object."),
        ({"kind": "opnai"}, "kind: there is no provider kind 'opnai': choose from openai, anthropic, gemini, local."),
        ({"context_window": 0}, "context_window must be at least 1."),
        ({"context_window": {"m": "x"}}, "context_window.m must be a whole number, not text."),
        ({"prices": []}, "prices must be an object, not a list."),
    ):
        assert told(ProviderCreate, PROVIDER | fields).startswith(expected), fields
    assert told(BudgetCreate, BUDGET | {"period": "year"}) == (
        "period must be 'hour', 'day', 'week', 'month', 'quarter' or 'total'."
    )
    person = {"name": "ann", "role": "admin", "password": "short"}
    assert told(PersonCreate, person) == "password must have at least 12 characters."


def test_no_name_or_label_may_be_blank() -> None:
    """A list with a row whose name is blank cannot be read, and nobody means such a name."""
    for model, field, more in (
        (ProviderCreate, "display_name", PROVIDER),
        (BudgetCreate, "name", BUDGET),
        (key_schemas.KeyCreate, "name", {}),
        (key_schemas.KeyCreate, "owner", {"name": "k"}),
        (key_schemas.TeamCreate, "name", {}),
        (people.PersonCreate, "name", {"password": "x" * 12}),
        (people.PersonCreate, "customer", {"name": "p", "password": "x" * 12}),
        (overrides.OverrideCreate, "user_id", {"provider_name": "a", "model_name": "m"}),
        (overrides.OverrideCreate, "service_name", {"user_id": "u", "provider_name": "a", "model_name": "m"}),
        (alert_target_schemas.AlertTargetCreate, "name", {"kind": "slack", "url": "https://a.example"}),
    ):
        for blank in (" ", "\u3000 "):
            assert told(model, {**more, field: blank}) == f"{field} must not be blank.", (model, field)
    fixed = {"name": "k", "customers": {"fixed": " "}}
    assert "fixed must not be blank" in told(key_schemas.KeyCreate, fixed)


def patterns(schema: Any) -> Iterator[str]:
    """Yield the patterns of texts in a schema of pydantic's core."""
    if isinstance(schema, dict):
        if schema.get("type") == "str" and "pattern" in schema:
            yield schema["pattern"]
        for value in schema.values():
            yield from patterns(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from patterns(value)


def test_every_pattern_of_a_field_has_a_sentence() -> None:
    models = [BudgetCreate] + [
        each
        for module in MODULES
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, BaseModel) and each is not BaseModel
    ]
    found = {pattern for model in models for pattern in patterns(model.__pydantic_core_schema__)}

    assert len(found) >= 5
    assert found <= PATTERNS.keys()
    assert all(re.compile(pattern) for pattern in PATTERNS)
