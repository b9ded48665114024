"""The endpoints of usage over a database, without a gateway."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_gateway.control.management.app import build_management
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.router import Router
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.store.database import Database
from tests.application.driver import DEV_KEY, Client, ignore

NO_TEAMS = OwnUsage(lambda _key_id: None)


@contextmanager
def copied(migrated: Path, directory: Path) -> Iterator[Database]:
    """Open a copy of a migrated database."""
    database = Database.open(f"sqlite:///{shutil.copy(migrated, directory / 'reports.db')}", fsync=False)
    yield database
    database.close()


def client_of(routers: Iterable[Router], scope: str = "read") -> Client:
    """Return a client of these endpoints, with a key of one scope."""
    return client_behind(Keyring([("dev", DEV_KEY, frozenset({scope}))]), routers)


def client_behind(keyring: Keyring, routers: Iterable[Router]) -> Client:
    """Return a client of these endpoints, whose caller is found by `keyring`."""
    management = build_management(routers, ignore, InFlight(10, 10_000_000))
    return Client(Gate(management, keyring, local_only=True, log=ignore))
