"""Endpoints that list the hosts on the database, and remove those that are gone."""

from __future__ import annotations

from fastapi.responses import Response
from pydantic import BaseModel, Field

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.hosts import Hosts
from llm_gateway.control.management.fields import Id, Timestamp, iso
from llm_gateway.control.management.router import Router
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.hosts import Host


class HostOut(BaseModel):
    """A gateway on the database."""

    id: Id
    name: str = Field(description="name of its machine")
    version: str
    is_living: bool = Field(description="whether it was there within the last 15 seconds")
    is_own: bool = Field(description="whether it is the host that answers")
    started_at: Timestamp
    seen_at: Timestamp


class HostList(BaseModel):
    """All hosts in the order of their starts, and how many live. The first living one does the jobs of all."""

    hosts: list[HostOut]
    living: int


def hosts_router(hosts: Hosts, audit: AuditTrail) -> Router:
    """Build the endpoints of hosts."""
    router = Router("/api/v1/hosts", "hosts")

    @router.get("", responses=problems(422))
    def list_hosts() -> HostList:
        found = [_shown(host, hosts.id) for host in hosts.list()]
        return HostList(hosts=found, living=sum(host.is_living for host in found))

    @router.delete("/{host_id}", status_code=204, response_class=Response, responses=problems(404, 409))
    def delete_host(host_id: str) -> None:
        """Remove a host that is gone for good."""
        hosts.remove(host_id, audit)

    return router


def _shown(host: Host, own_id: str) -> HostOut:
    return HostOut(
        id=host.id,
        name=host.name,
        version=host.version,
        is_living=host.is_living,
        is_own=host.id == own_id,
        started_at=iso(host.started_at_ms),
        seen_at=iso(host.beat_at_ms),
    )
