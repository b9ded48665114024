"""Endpoints that create, list, get, patch and delete teams, to which service keys belong."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.fields import Reference, Text, iso
from llm_gateway.control.management.key_schemas import TeamCreate, TeamOut, TeamPage, TeamPatch
from llm_gateway.control.management.router import Router
from llm_gateway.domain.stored_key import Team
from llm_gateway.store.teams import TeamStore

Limit = Annotated[int, Query(ge=1, le=1000, description="teams of a page")]
Cursor = Annotated[Reference | None, Query(description="`next_cursor` of the page before")]
Name = Annotated[Text | None, Query(description="only the team with this name")]
Part = Annotated[Text | None, Query(description="only teams whose name has this part, letters of ASCII in either case")]


def teams_router(store: TeamStore) -> Router:
    """Build the endpoints of teams."""
    router = Router("/api/v1/teams", "teams")

    @router.get("", responses=problems(422))
    def list_teams(limit: Limit = 100, cursor: Cursor = None, name: Name = None, contains: Part = None) -> TeamPage:
        found = store.list(name=name, contains=contains, after=(cursor or "").lower(), limit=limit + 1)
        next_cursor = found[limit - 1].id if len(found) > limit else None
        return TeamPage(teams=[_shown(team) for team in found[:limit]], next_cursor=next_cursor)

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_team(body: TeamCreate) -> TeamOut:
        return _shown(store.create(body.name, body.description))

    @router.get("/{team_id}", responses=problems(404))
    def get_team(team_id: str) -> TeamOut:
        return _shown(store.get(team_id))

    @router.patch("/{team_id}", responses=problems(404, 409, 422))
    def patch_team(team_id: str, body: TeamPatch) -> TeamOut:
        changes = body.model_dump(exclude_unset=True)
        return _shown(store.update(team_id, changes) if changes else store.get(team_id))

    @router.delete("/{team_id}", status_code=204, response_class=Response, responses=problems(404, 409))
    def delete_team(team_id: str) -> None:
        store.delete(team_id)

    return router


def _shown(team: Team) -> TeamOut:
    return TeamOut(
        id=team.id,
        name=team.name,
        description=team.description,
        created_at=iso(team.created_at_ms),
        updated_at=iso(team.updated_at_ms),
    )
