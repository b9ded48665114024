"""Endpoints of the configuration as one document: return it, and make the stored configuration what it says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from llm_gateway.control.declared_configuration.declaration import Declaration, Outcome
from llm_gateway.control.declared_configuration.document import document_schema
from llm_gateway.control.declared_configuration.section import Change
from llm_gateway.control.declared_configuration.sections import SECTIONS
from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.fields import STRICT
from llm_gateway.control.management.router import Router
from llm_gateway.gate.authentication import CONFIGURATION_PATH

SECRET, OTHER_SECRET = "(secret)", "(another secret)"
"""What a plan shows of a secret before and after."""
EXAMPLE: JsonDict = {
    "document": {"teams": [{"name": "core"}], "keys": [{"name": "shop", "team": "core", "rpm": 600}]},
    "dry_run": True,
}
_SECRETS = {section.name: frozenset(section.secrets) for section, _ in SECTIONS}

Document = Annotated[dict[str, Any], WithJsonSchema(document_schema())]
Version = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class ConfigurationOut(BaseModel):
    """The configuration without secrets; fields at their defaults are absent. `version` changes with each change."""

    document: Annotated[dict[str, Any], Field(description="entries by section, as POST takes them")]
    version: Version


class ConfigurationApply(BaseModel):
    """A document to apply. Sections that it does not have stay as they are."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    document: Document
    dry_run: Annotated[bool, Field(description="only return what would change")] = False
    prune: Annotated[bool, Field(description="remove what the document's sections do not have")] = False
    version: Annotated[Version | None, Field(description="409 if the configuration is another one by now")] = None


class FieldChange(BaseModel):
    """A field that changes. Secrets are shown as words in parentheses."""

    name: str
    before: Any
    after: Any


class EntryChange(BaseModel):
    """An entry that is added, changed or removed. `fields` of a new one are those not at their defaults."""

    section: str
    action: Literal["add", "change", "remove"]
    name: str
    service_name: Annotated[str | None, Field(description="of an override")]
    fields: list[FieldChange]


class UnlistedEntry(BaseModel):
    """An entry that the document's section does not have, and that stays without `prune`."""

    section: str
    name: str
    service_name: str | None


class ConfigurationPlan(BaseModel):
    """Changes that were made, or would be without `dry_run`. `version` is that before a dry run, else that after."""

    dry_run: bool
    changes: list[EntryChange]
    unlisted: list[UnlistedEntry]
    unchanged: int
    version: Version


def configuration_router(declaration: Declaration) -> Router:
    """Build the endpoints of the configuration document. A change is in force before its response is sent."""
    router = Router(CONFIGURATION_PATH, "configuration")

    @router.get("")
    def get_configuration() -> ConfigurationOut:
        """Return providers, overrides, teams, keys, budgets and alert targets as one document, without secrets."""
        document, version = declaration.document()
        return ConfigurationOut(document=document, version=version)

    @router.post("", responses=problems(409, 422))
    def apply_configuration(body: ConfigurationApply) -> ConfigurationPlan:
        """Make the configuration what the document says, in one transaction: all of it, or nothing."""
        outcome = declaration.apply(body.document, dry_run=body.dry_run, prune=body.prune, version=body.version)
        return _shown(outcome, dry_run=body.dry_run)

    return router


def _shown(outcome: Outcome, *, dry_run: bool) -> ConfigurationPlan:
    plan = outcome.plan
    return ConfigurationPlan(
        dry_run=dry_run,
        changes=[
            EntryChange(section=section, action=change.action, fields=_fields(section, change), **_name(change.label))
            for section, changes in plan.changes.items()
            for change in changes
        ],
        unlisted=[
            UnlistedEntry(section=section, **_name(label))
            for section, labels in plan.unlisted.items()
            for label in labels
        ],
        unchanged=plan.unchanged,
        version=outcome.version,
    )


def _fields(section: str, change: Change) -> list[FieldChange]:
    if change.after is None:
        return []
    before = None if change.before is None else change.before.fields
    found = []
    for name in change.fields:
        if name in _SECRETS[section]:
            found.append(FieldChange(name=name, before=before and SECRET, after=OTHER_SECRET if before else SECRET))
        else:
            found.append(FieldChange(name=name, before=before and before[name], after=change.after.fields[name]))
    return found


def _name(label: str) -> dict[str, Any]:
    name, _, service = label.partition("\0")
    return {"name": name, "service_name": service or None}
