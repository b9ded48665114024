"""Put a configuration together from the messages that it was cut into (see `transfer.py`)."""

from __future__ import annotations

import msgspec

from llm_gateway.channel.messages import Accounts, Begin, End, MalformedFrame, Overrides, Prices
from llm_gateway.domain.catalog import Override
from llm_gateway.domain.configuration import Account, Configuration
from llm_gateway.domain.public_prices import PublicPrices, VendorPrices

Part = Accounts | Overrides | Prices


class ConfigurationReceiver:
    """Collects the messages from `Begin` to `End` of one version after the other."""

    def __init__(self) -> None:
        self._begin: Begin | None = None
        self._accounts: dict[str, Account] = {}
        self._overrides: dict[tuple[str, str | None], Override] = {}
        self._vendors: dict[str, VendorPrices] = {}

    def begin(self, begin: Begin) -> None:
        """Begin a new version."""
        self.__init__()  # type: ignore[misc]
        self._begin = begin

    def take(self, part: Part) -> None:
        """Take over a part of the version."""
        match part:
            case Accounts():
                self._accounts.update({account.provider.id: account for account in part.accounts})
            case Overrides():
                self._overrides.update({(rule.user_id, rule.service_name): rule for rule in part.overrides})
            case Prices():
                for name, vendor in part.vendors.items():
                    before = self._vendors.get(name)
                    models = vendor.models if before is None else before.models + vendor.models
                    self._vendors[name] = msgspec.structs.replace(vendor, models=models)

    def end(self, end: End) -> Configuration:
        """Return the configuration of the version that was begun.

        Raises:
            MalformedFrame: it was not begun.
        """
        if self._begin is None or self._begin.version != end.version:
            raise MalformedFrame("A configuration ends that has not begun.")
        return Configuration(
            accounts=tuple(self._accounts.values()),
            overrides=tuple(self._overrides.values()),
            public_prices=PublicPrices(self._vendors),
            has_vendor=self._begin.has_vendor,
            format=self._begin.format,
        )
