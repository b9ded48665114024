"""Several stores in one transaction: all of their changes are made, or none; other writers wait."""

from __future__ import annotations

import pytest

from llm_gateway.errors import Conflict, Invalid, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.one_transaction import OneTransaction, configuration_version, lock_configuration
from llm_gateway.store.overrides import OverrideDraft, OverrideStore
from llm_gateway.store.teams import TeamStore
from tests.control.declared import PEPPERS


def version(database: Database) -> str:
    with database.read() as connection:
        return configuration_version(connection)


def test_stores_in_one_transaction_see_each_other_and_are_undone_together(database: Database) -> None:
    teams, keys, overrides = TeamStore(database), KeyStore(database, PEPPERS), OverrideStore(database)
    before = version(database)

    def write() -> None:
        with database.write() as connection:
            lock_configuration(connection)
            one = OneTransaction(connection)
            team = teams.within(one).create("core")
            key = keys.within(one).create(KeyDraft(name="shop", team_id=team.id)).key
            with pytest.raises(StoreUnavailable):  # it waits for the transaction, and not for ever
                teams.create("other")
            keys.within(one).detach([key.id])
            assert keys.within(one).get(key.id).team_id is None
            assert configuration_version(connection) != before
            overrides.within(one).create(OverrideDraft(user_id="u", provider_name="none", model_name="m"))

    with pytest.raises(Invalid, match="There is no provider"):
        write()
    assert (teams.list(), keys.list(), version(database)) == ([], [], before)


def test_a_conflict_within_a_transaction_undoes_what_came_before(database: Database) -> None:
    teams = TeamStore(database)
    teams.create("core")

    def write() -> None:
        with database.write() as connection:
            one = teams.within(OneTransaction(connection))
            one.create("more")
            one.create("core")

    with pytest.raises(Conflict):
        write()
    assert [team.name for team in teams.list()] == ["core"]
