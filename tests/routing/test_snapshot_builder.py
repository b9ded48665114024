"""Snapshots built from a configuration that another version of the gateway sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.catalog import Provider, UpstreamAuthorizer
from llm_gateway.domain.configuration import Account, Configuration
from llm_gateway.domain.public_prices import PublicPrices, VendorPrices
from llm_gateway.providers.account_assembler import AccountAssembler
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.routing.snapshot import SnapshotBuilder
from tests.override_keys import by_key
from tests.worker.pipeline.fakes import override, provider


def stored(name: str, **changes: Any) -> Provider:
    return provider(name, target=None, codecs={}, translation_codec=None, **changes)


@pytest.fixture
def reasons() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def builder(reasons: list[tuple[str, str]]) -> SnapshotBuilder:
    assembler = AccountAssembler(dialects=DIALECTS, learn=lambda _keys: None)
    return SnapshotBuilder(assembler.assemble, lambda name, reason: reasons.append((name, reason)))


def test_a_kind_that_only_newer_versions_know_disables_its_provider_alone(
    builder: SnapshotBuilder, reasons: list[tuple[str, str]]
) -> None:
    accounts = tuple(
        Account(provider=stored(name, kind=kind), base_url="https://a.test", api_key="the-key")
        for name, kind in (("new", "smoke"), ("known", "openai"))
    )
    snapshot = builder.build(Configuration(accounts=accounts))

    assert [[candidate.provider.name for candidate in tier] for tier in snapshot.tiers] == [["known"]]
    assert not snapshot.providers["new"].is_enabled
    assert [name for name, _ in reasons] == ["new"]
    assert "install the version that added it" in reasons[0][1]


def test_a_protocol_that_only_newer_versions_know_disables_its_provider_alone(
    builder: SnapshotBuilder, reasons: list[tuple[str, str]]
) -> None:
    accounts = tuple(
        Account(provider=stored(name), base_url="https://a.test", api_key="the-key", protocols=protocols)
        for name, protocols in (("new", ("openai_smoke",)), ("known", None))
    )
    snapshot = builder.build(Configuration(accounts=accounts))

    assert [[candidate.provider.name for candidate in tier] for tier in snapshot.tiers] == [["known"]]
    assert [name for name, _ in reasons] == ["new"]
    assert "openai_smoke" in reasons[0][1]


def test_an_authorizer_that_cannot_be_made_disables_its_provider_alone_and_shows_no_key(
    reasons: list[tuple[str, str]],
) -> None:
    def authorize(made: Provider, api_key: str) -> UpstreamAuthorizer | None:
        if made.name == "known":
            return None
        raise ValueError(f"not JSON: {api_key}")

    assembler = AccountAssembler(dialects=DIALECTS, learn=lambda _keys: None, authorize=authorize)
    accounts = tuple(
        Account(provider=stored(name), base_url="https://a.test", api_key="the-key") for name in ("bad", "known")
    )
    built = SnapshotBuilder(assembler.assemble, lambda name, reason: reasons.append((name, reason)))
    snapshot = built.build(Configuration(accounts=accounts))

    assert [[candidate.provider.name for candidate in tier] for tier in snapshot.tiers] == [["known"]]
    assert reasons == [("bad", "ValueError")]


def test_an_account_that_cannot_be_used_has_no_target(builder: SnapshotBuilder, reasons: list[tuple[str, str]]) -> None:
    snapshot = builder.build(Configuration(accounts=(Account(provider=stored("a", is_enabled=False)),)))

    assert snapshot.providers["a"].target is None
    assert snapshot.tiers == ()
    assert reasons == []


def test_fields_of_newer_versions_are_skipped_and_missing_ones_have_defaults(builder: SnapshotBuilder) -> None:
    rule = override("a")
    account = Account(provider=stored("a"), base_url="https://a.test", api_key="the-key")
    sent = msgspec.to_builtins(Configuration(accounts=(account,), overrides=by_key([rule])))
    sent["format"] = 99
    sent["regions"] = [1, 2]
    sent["accounts"][0]["region"] = "eu"
    for field in ("public_prices", "has_vendor"):
        del sent[field]
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Configuration)

    snapshot = builder.build(received)
    assert snapshot.overrides == {("user", None): rule}
    target = snapshot.providers["a"].target
    assert target is not None
    assert target.headers["authorization"] == "Bearer the-key"


def test_only_changed_accounts_are_assembled_again() -> None:
    assembled: list[str] = []

    def assemble(account: Account) -> Provider:
        assembled.append(account.provider.name)
        return account.provider

    builder = SnapshotBuilder(assemble, lambda _name, _reason: None)
    one, two, other_two = Account(provider=stored("a")), Account(provider=stored("b")), Account(provider=stored("b"))
    first = builder.build(Configuration(accounts=(one, two)))
    second = builder.build(Configuration(accounts=(one, other_two)))
    third = builder.build(Configuration(accounts=(one,)))

    assert assembled == ["a", "b", "b"]
    assert second.providers["a"] is first.providers["a"]
    assert [sorted(snapshot.providers) for snapshot in (first, second, third)] == [["a", "b"], ["a", "b"], ["a"]]


def test_tables_are_kept_while_only_overrides_and_prices_change(builder: SnapshotBuilder) -> None:
    accounts = (Account(provider=stored("a"), base_url="https://a.test"),)
    first = builder.build(Configuration(accounts=accounts))
    prices = PublicPrices({"x": VendorPrices(())})
    second = builder.build(Configuration(accounts=accounts, overrides=by_key([override("a")]), public_prices=prices))

    assert second.tiers_by_model is first.tiers_by_model
    assert (second.overrides, second.public_prices) == ({("user", None): override("a")}, prices)
    assert first.overrides == {}


def test_the_embedded_model_comes_back_when_the_last_vendor_is_gone(builder: SnapshotBuilder) -> None:
    accounts = (Account(provider=stored("a", kind="local", base_url=None), base_url="http://127.0.0.1:1"),)
    alone = builder.build(Configuration(accounts=accounts))
    with_vendor = builder.build(Configuration(accounts=accounts, has_vendor=True))

    assert (len(alone.tiers), len(with_vendor.tiers)) == (1, 0)
