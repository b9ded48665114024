"""Environment of a fault test: a data directory, gateways on it, the mock vendor, and checks of the usage records."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.ledger import PRICES, Ledger
from tests.upstream import Bill, UpstreamProcess, read_bills

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Scene:
    """A data directory on which gateways are started, and the mock vendor behind them.

    Gateways have `workers` worker processes, unless their settings say otherwise. `url`
    is that of their database, if it is not in the data directory.
    """

    directory: Path
    mock: UpstreamProcess
    journal: Path
    workers: int = 1
    url: str | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def bills(self) -> list[Bill]:
        """The bills of every call the vendor has seen."""
        return read_bills(self.journal)

    def gateway(self, **settings: object) -> GatewayProcess:
        """Return a gateway on this data; each `with` block starts it again."""
        where = {} if self.url is None else {"database_url": self.url}
        return GatewayProcess(self.directory, **{"workers": self.workers, **where, **settings})

    def providers(self, gateway: GatewayProcess, *models: str, **fields: object) -> list[str]:
        """Create one provider per model, all with PRICES. Returns their API paths."""
        return [
            gateway.provider(f"p{n}", self.mock.base_url, model, prices={model: PRICES}, **fields)
            for n, model in enumerate(models)
        ]

    def books(self, gateway: GatewayProcess, data: Path | None = None) -> Ledger:
        """Wait until everything is in the database, check its sums, and return a snapshot.

        `data` is the gateway's data directory if it is not the usual one.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (response := gateway.call("GET", "/api/v1/usage/summary")).status != 200:
            assert time.monotonic() < deadline, response.body
            time.sleep(0.1)
        ledger = Ledger(data or self.data, self.url)
        ledger.check_sums()
        assert response.json["total_requests"] == len(ledger.rows)
        return ledger

    def check(self, gateway: GatewayProcess, *loads: Load) -> Ledger:
        """Check the usage records against the vendor's bills and the clients' answers. Returns the snapshot."""
        ledger = self.books(gateway)
        bills = self.bills
        ledger.check_bills(bills, sum((load.sent for load in loads), start=Counter()) if loads else None)
        for load in loads:
            ledger.check_answers(load.answers, bills)
        return ledger


def windows(times: Iterable[float], seconds: float = 60.0) -> int:
    """Return the maximum number of `times` within any period of `seconds`."""
    ordered = sorted(times)
    first = most = 0
    for last, when in enumerate(ordered):
        while when - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
