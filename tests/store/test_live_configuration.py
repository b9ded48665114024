"""Configuration snapshots: replaced whole, by one reload at a time, without providers that cannot be used."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from llm_gateway.control.effective_keys import EffectiveKeys
from llm_gateway.control.live_configuration import LiveConfiguration, Sources
from llm_gateway.control.overrides_in_force import OverridesInForce
from llm_gateway.domain.catalog import Provider, Snapshot, Target
from llm_gateway.domain.configuration import Account
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.public_prices import PublicPrices, VendorPrices
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.routing.snapshot import SnapshotBuilder
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.overrides import OverrideDraft, OverrideStore
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox


def account(provider: Provider, api_key: str) -> Account:
    return Account(provider=provider, base_url="https://x", api_key=api_key)


def aimed(account: Account) -> Provider:
    if account.base_url is None:
        return account.provider
    target = Target(account.base_url, "https://y", {"authorization": account.api_key})
    return msgspec.structs.replace(account.provider, target=target)


class House:
    """A LiveConfiguration over real stores, with the log kept in a list."""

    def __init__(self, database: Database, box: SecretBox, resolve: Any = account) -> None:
        self.providers = ProviderStore(database, box)
        self.overrides = OverrideStore(database)
        self.logged: list[tuple[str, str]] = []
        self.public_prices = PublicPrices()
        self.configuration = LiveConfiguration(
            Sources(
                self.providers,
                OverridesInForce(self.overrides),
                EffectiveKeys(KeyStore(database, [Pepper(1, b"pepper")])),
                BudgetStore(database),
            ),
            resolve,
            lambda: self.public_prices,
            SnapshotBuilder(aimed, self._log).build,
            self._log,
        )

    def _log(self, name: str, why: str) -> None:
        self.logged.append((name, why))

    def add(self, name: str, **fields: Any) -> Provider:
        return self.providers.create(
            ProviderDraft(name=name, display_name=name, api_key=f"key-{name}", kind="openai", models=("m",), **fields)
        )


@pytest.fixture
def house(database: Database, box: SecretBox) -> House:
    return House(database, box)


def test_a_snapshot_holds_assembled_providers_and_overrides(house: House) -> None:
    empty = house.configuration.snapshot
    assert empty == Snapshot(providers={}, tiers=(), overrides={}, hashers=empty.hashers)
    house.add("a", priority=1)
    house.add("b", priority=2)
    house.add("c", is_enabled=False)
    override = house.overrides.create(OverrideDraft(user_id="u", provider_name="a", model_name="m"))
    snapshot = house.configuration.reload()
    assert snapshot is house.configuration.snapshot
    assert [[candidate.provider.name for candidate in tier] for tier in snapshot.tiers] == [["b"], ["a"]]
    assert snapshot.overrides == {("u", None): override}
    headers = {name: provider.target and provider.target.headers for name, provider in snapshot.providers.items()}
    assert headers == {name: {"authorization": f"key-{name}"} for name in "abc"}
    assert house.logged == []


def test_a_snapshot_holds_the_price_lists_that_resolving_its_providers_asked_for(
    database: Database, box: SecretBox
) -> None:
    def resolve(provider: Provider, key: str) -> Account:
        made.public_prices = PublicPrices({"vendor": VendorPrices(())})
        return account(provider, key)

    made = House(database, box, resolve)
    made.add("a")

    assert made.configuration.reload().public_prices == PublicPrices({"vendor": VendorPrices(())})


def test_the_old_snapshot_stays_as_it_was(house: House) -> None:
    before = house.configuration.reload()
    house.add("a")
    assert house.configuration.snapshot is before
    assert before.providers == {}
    assert list(house.configuration.reload().providers) == ["a"]
    assert before.providers == {}


def test_subscribers_get_every_new_snapshot(house: House) -> None:
    seen: list[tuple[Snapshot, bool]] = []
    house.configuration.subscribe(lambda snapshot: seen.append((snapshot, snapshot is house.configuration.snapshot)))
    first = house.configuration.reload()
    house.add("a")
    assert seen == [(first, True)]
    second = house.configuration.reload()
    assert seen == [(first, True), (second, True)]


def test_a_key_that_cannot_be_decrypted_disables_only_its_provider(house: House, database: Database) -> None:
    house.add("old")
    rotated = House(database, SecretBox([b"n" * 32]))
    rotated.add("new")
    snapshot = rotated.configuration.reload()
    assert [[candidate.provider.name for candidate in tier] for tier in snapshot.tiers] == [["new"]]
    assert (snapshot.providers["old"].is_enabled, snapshot.providers["old"].target) == (False, None)
    assert [name for name, _ in rotated.logged] == ["old"]
    assert "LLM_GATEWAY_ENCRYPTION_KEYS" in rotated.logged[0][1]
    assert rotated.providers.list()[1].is_enabled is True


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConfigurationError("The host is private."), "The host is private."), (ValueError("key-a"), "ValueError")],
)
def test_a_provider_that_cannot_be_resolved_is_left_out_and_logged(
    database: Database, box: SecretBox, error: Exception, reason: str
) -> None:
    def resolve(provider: Provider, api_key: str) -> Account:
        if provider.name == "a":
            raise error
        return account(provider, api_key)

    house = House(database, box, resolve)
    house.add("a")
    house.add("b")
    assert [[candidate.provider.name for candidate in tier] for tier in house.configuration.reload().tiers] == [["b"]]
    assert house.logged == [("a", reason)]


def test_the_embedded_model_does_not_answer_for_a_provider_that_cannot_be_used(
    database: Database, box: SecretBox
) -> None:
    def resolve(provider: Provider, api_key: str) -> Account:
        if provider.name == "a":
            raise ConfigurationError("The host is private.")
        return account(provider, api_key)

    house = House(database, box, resolve)
    house.providers.create(
        ProviderDraft(name="local", display_name="local", api_key="unused", kind="local", models=("toy",))
    )
    assert house.configuration.reload().tiers != ()
    house.add("a")
    assert house.configuration.reload().tiers == ()


def test_a_failed_reload_keeps_the_snapshot(house: House, database: Database) -> None:
    house.add("a")
    before = house.configuration.reload()
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE overrides")
    with pytest.raises(StoreUnavailable):
        house.configuration.reload()
    assert house.configuration.snapshot is before


def test_an_older_read_never_overwrites_a_newer(database: Database, box: SecretBox) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def resolve(provider: Provider, api_key: str) -> Account:
        if provider.name == "slow" and not go_on.is_set():
            reading.set()
            go_on.wait(5)
        return account(provider, api_key)

    house = House(database, box, resolve)
    house.add("slow")
    older = threading.Thread(target=house.configuration.reload)
    older.start()
    assert reading.wait(5)
    house.add("new")
    newer = threading.Thread(target=house.configuration.reload)
    newer.start()
    go_on.set()
    older.join(5)
    newer.join(5)
    assert sorted(house.configuration.snapshot.providers) == ["new", "slow"]


def test_concurrent_changes_and_reloads_end_in_the_newest_state(url: str, box: SecretBox) -> None:
    database = Database.open(url, fsync=False)
    house = House(database, box)

    def add(number: int) -> None:
        house.add(f"p{number}")
        assert f"p{number}" in house.configuration.reload().providers

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(house.configuration.snapshot.providers) == 8
    database.close()
