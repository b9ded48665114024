"""Cut configurations into messages: all of one, or its differences from the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from llm_gateway.channel.messages import Accounts, Begin, End, Message, Overrides, Prices
from llm_gateway.domain.configuration import Account, Configuration
from llm_gateway.domain.public_prices import PublicPrices

ROWS = 500
"""Rows of a message at most, so that its reader decodes it in about a millisecond: overrides, models of accounts."""

Row = TypeVar("Row")


class Published(NamedTuple):
    """A configuration with its version."""

    version: int
    configuration: Configuration


def all_of(published: Published) -> Iterator[Message]:
    """Yield the messages that make up a whole configuration."""
    configuration = published.configuration
    yield Begin(version=published.version, has_vendor=configuration.has_vendor, has_prices=True)
    for accounts in _account_parts(configuration.accounts):
        yield Accounts(accounts=accounts)
    for overrides in parts(configuration.overrides, ROWS):
        yield Overrides(overrides=overrides)
    yield from price_parts(configuration.public_prices)
    yield End(version=published.version)


def price_parts(prices: PublicPrices) -> Iterator[Message]:
    """Yield the messages with the price lists. A list of more than `ROWS` models comes in parts."""
    for name, vendor in prices.vendors.items():
        for models in parts(vendor.models, ROWS) if vendor.models else [[]]:
            yield Prices(vendors={name: msgspec.structs.replace(vendor, models=tuple(models))})


def parts(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of at most `size`."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


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
