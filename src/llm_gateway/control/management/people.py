"""Endpoints that create, list, get, patch and delete people who sign in to the dashboard with a password."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.fields import STRICT, CallerName, Id, Label, Reference, Text, Timestamp, iso
from llm_gateway.control.management.router import Router
from llm_gateway.domain.person import StoredPerson
from llm_gateway.store.people import PeopleStore
from llm_gateway.store.unchanged import ChangedSince

Role = Literal["viewer", "own", "admin"]
Password = Annotated[str, Field(min_length=12, max_length=200, description="12 to 200 characters; never returned")]
Limit = Annotated[int, Query(ge=1, le=1000, description="people of a page")]
Cursor = Annotated[Reference | None, Query(description="`next_cursor` of the page before")]
Name = Annotated[Text | None, Query(description="only the person with this name")]


def _without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from a patch's schema: a field that is not sent does not change."""
    for field in schema["properties"].values():
        field.pop("default", None)


class PersonPatch(BaseModel):
    """Changes of a person; fields that are not sent stay. `team_id` and `customer` are for the role `own`."""

    model_config = ConfigDict(**STRICT, json_schema_extra=_without_defaults)

    name: CallerName = Field(default="")
    role: Role = "viewer"
    password: Password = ""
    team_id: Reference | None = None
    customer: Label | None = None
    disabled: bool = False
    unchanged_since: Annotated[
        str | None, Field(max_length=40, description="`updated_at` as it was read: 409 if it is another by now")
    ] = None


class PersonCreate(BaseModel):
    """Fields of a new person."""

    model_config = ConfigDict(
        **STRICT,
        json_schema_extra={"examples": [{"name": "ann", "role": "viewer", "password": "correct horse battery"}]},
    )

    name: CallerName
    role: Role = "viewer"
    password: Password
    team_id: Reference | None = None
    customer: Label | None = None


class PersonOut(BaseModel):
    """A person as the API returns it, without the password."""

    id: Id
    name: str
    role: Role
    team_id: str | None
    customer: str | None
    disabled: bool
    created_at: Timestamp
    updated_at: Timestamp


class PersonPage(BaseModel):
    """A page of people in the order of their creation."""

    people: list[PersonOut]
    next_cursor: str | None


def people_router(store: PeopleStore) -> Router:
    """Build the endpoints of people. A change is in force before its response is sent."""
    router = Router("/api/v1/people", "people")

    @router.get("", responses=problems(422))
    def list_people(limit: Limit = 100, cursor: Cursor = None, name: Name = None) -> PersonPage:
        found = store.list(name=name, after=(cursor or "").lower(), limit=limit + 1)
        next_cursor = found[limit - 1].id if len(found) > limit else None
        return PersonPage(people=[_shown(person) for person in found[:limit]], next_cursor=next_cursor)

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_person(body: PersonCreate) -> PersonOut:
        return _shown(store.create(_plain(body.model_dump())))

    @router.get("/{person_id}", responses=problems(404))
    def get_person(person_id: str) -> PersonOut:
        return _shown(store.get(person_id))

    @router.patch("/{person_id}", responses=problems(404, 409, 422))
    def patch_person(person_id: str, body: PersonPatch) -> PersonOut:
        """Change a person. Another password and `disabled` end the person's sessions; a role is in force at once."""
        changes = _plain(body.model_dump(exclude_unset=True, exclude={"unchanged_since"}))
        if not changes:
            return _shown(store.get(person_id))
        if body.unchanged_since is None:
            return _shown(store.update(person_id, changes))
        read = store.get(person_id)
        if body.unchanged_since != iso(read.updated_at_ms):
            raise ChangedSince("person")
        return _shown(store.update(person_id, changes, unchanged_since_ms=read.updated_at_ms))

    @router.delete("/{person_id}", status_code=204, response_class=Response, responses=problems(404))
    def delete_person(person_id: str) -> None:
        store.delete(person_id)

    return router


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("team_id") is not None:
        fields["team_id"] = fields["team_id"].lower()
    return fields


def _shown(person: StoredPerson) -> PersonOut:
    return PersonOut(
        id=person.id,
        name=person.name,
        role=person.role,  # type: ignore[arg-type] # the table has no others
        team_id=person.team_id,
        customer=person.customer,
        disabled=person.disabled,
        created_at=iso(person.created_at_ms),
        updated_at=iso(person.updated_at_ms),
    )
