"""Split a configuration into messages: the whole of it, or its differences from the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import msgspec

from llm_gateway.channel.messages import Accounts, Begin, Budgets, End, Keys, Message, Overrides, Prices
from llm_gateway.domain.budget import Budget
from llm_gateway.domain.catalog import Override
from llm_gateway.domain.configuration import Account, Configuration, OverrideKey
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.domain.service_key import ServiceKey

ROWS = 500
"""Rows of a message at most, so that its reader decodes it in about a millisecond: overrides, keys, budgets, models."""

Row = TypeVar("Row")
Key = TypeVar("Key")


class Published(NamedTuple):
    """A configuration with its version."""

    version: int
    configuration: Configuration


class Changes(NamedTuple):
    """Differences of a version from `base`, the one before. `prices` and `budgets` are None if they are the same."""

    version: int
    base: int
    has_vendor: bool
    format: int
    accounts: list[Account]
    removed_accounts: list[str]
    overrides: list[Override]
    removed_overrides: list[OverrideKey]
    keys: list[ServiceKey]
    removed_keys: list[bytes]
    peppers: tuple[Pepper, ...]
    prices: PublicPrices | None
    budgets: tuple[Budget, ...] | None


def all_of(published: Published) -> Iterator[Message]:
    """Yield the messages that make up a whole configuration."""
    version, configuration = published
    yield Begin(
        version=version,
        has_vendor=configuration.has_vendor,
        has_prices=True,
        has_budgets=True,
        peppers=configuration.peppers,
        format=configuration.format,
    )
    for accounts in _account_parts(configuration.accounts):
        yield Accounts(accounts=accounts)
    for overrides in parts(configuration.overrides.values(), ROWS):
        yield Overrides(overrides=overrides)
    for keys in parts(configuration.service_keys.values(), ROWS):
        yield Keys(keys=keys)
    for budgets in parts(configuration.budgets, ROWS):
        yield Budgets(budgets=budgets)
    yield from _price_parts(configuration.public_prices)
    yield End(version=version)


def changes_between(before: Published, after: Published) -> Changes:
    """Return the differences between a version and the next one."""
    old, new = before.configuration, after.configuration
    old_accounts = {account.provider.id: account for account in old.accounts}
    new_accounts = {account.provider.id: account for account in new.accounts}
    accounts, removed_accounts = _differences(old_accounts, new_accounts)
    overrides, removed_overrides = _differences(old.overrides, new.overrides)
    keys, removed_keys = _differences(old.service_keys, new.service_keys)
    return Changes(
        version=after.version,
        base=before.version,
        has_vendor=new.has_vendor,
        format=new.format,
        accounts=accounts,
        removed_accounts=removed_accounts,
        overrides=overrides,
        removed_overrides=removed_overrides,
        keys=keys,
        removed_keys=removed_keys,
        peppers=new.peppers,
        prices=None if new.public_prices == old.public_prices else new.public_prices,
        budgets=None if new.budgets == old.budgets else new.budgets,
    )


def _differences(old: Mapping[Key, Row], new: Mapping[Key, Row]) -> tuple[list[Row], list[Key]]:
    """Return the rows that are new or others than before, and the keys of those that are gone.

    Rows that did not change are mostly the same objects, of 50,000 all but a few: only others are compared.
    """
    if new is old:
        return [], []
    get = old.get
    others = [(before, row) for key, row in new.items() if (before := get(key)) is not row]
    return [row for before, row in others if before != row], [key for key in old if key not in new]


def changes_of(changes: Changes) -> Iterator[Message]:
    """Yield the messages with the differences of a version from the one before."""
    yield Begin(
        version=changes.version,
        base=changes.base,
        has_vendor=changes.has_vendor,
        has_prices=changes.prices is not None,
        has_budgets=changes.budgets is not None,
        peppers=changes.peppers,
        format=changes.format,
    )
    for accounts in _account_parts(changes.accounts):
        yield Accounts(accounts=accounts)
    for ids in parts(changes.removed_accounts, ROWS):
        yield Accounts(removed=ids)
    for overrides in parts(changes.overrides, ROWS):
        yield Overrides(overrides=overrides)
    for keys in parts(changes.removed_overrides, ROWS):
        yield Overrides(removed=keys)
    for service_keys in parts(changes.keys, ROWS):
        yield Keys(keys=service_keys)
    for public_ids in parts(changes.removed_keys, ROWS):
        yield Keys(removed=public_ids)
    for budgets in parts(changes.budgets or (), ROWS):
        yield Budgets(budgets=budgets)
    if changes.prices is not None:
        yield from _price_parts(changes.prices)
    yield End(version=changes.version)


def parts(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of at most `size`."""
    rest = iter(rows)
    while part := list(islice(rest, size)):
        yield part


def _price_parts(prices: PublicPrices) -> Iterator[Message]:
    """Yield the messages with the price lists. A list of more than `ROWS` models comes in parts."""
    for name, vendor in prices.vendors.items():
        for models in parts(vendor.models, ROWS) if vendor.models else [[]]:
            yield Prices(vendors={name: msgspec.structs.replace(vendor, models=tuple(models))})


def _account_parts(accounts: Sequence[Account]) -> Iterator[list[Account]]:
    """Yield accounts in lists with at most `ROWS` models, or with one account that has more."""
    part: list[Account] = []
    rows = 0
    for account in accounts:
        size = 1 + len(account.provider.models)
        if part and rows + size > ROWS:
            yield part
            part, rows = [], 0
        part.append(account)
        rows += size
    if part:
        yield part
