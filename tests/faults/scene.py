"""The gateway, the vendor and the books of one fault test."""

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
    """One data directory that gateways are started on, and the vendor behind them."""

    directory: Path
    mock: UpstreamProcess
    journal: Path

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def bills(self) -> list[Bill]:
        """Of every call the vendor has seen."""
        return read_bills(self.journal)

    def gateway(self, **settings: object) -> GatewayProcess:
        """A gateway on this data, to be started with `with` as often as you like."""
        return GatewayProcess(self.directory, **settings)

    def providers(self, gateway: GatewayProcess, *models: str, **fields: object) -> list[str]:
        """One provider per model, all with PRICES. Returns their paths."""
        return [
            gateway.provider(f"p{n}", self.mock.base_url, model, prices={model: PRICES}, **fields)
            for n, model in enumerate(models)
        ]

    def books(self, gateway: GatewayProcess, data: Path | None = None) -> Ledger:
        """The books once everything that was answered is in them; their sums are checked already.

        `data` is where the gateway's data is, if not in the usual place.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (response := gateway.call("GET", "/api/v1/usage/summary")).status != 200:
            assert time.monotonic() < deadline, response.body
            time.sleep(0.1)
        ledger = Ledger(data or self.data)
        ledger.check_sums()
        assert response.json["total_requests"] == len(ledger.rows)
        return ledger

    def check(self, gateway: GatewayProcess, *loads: Load) -> Ledger:
        """The books agree with the vendor's bills and with what the clients read."""
        ledger = self.books(gateway)
        bills = self.bills
        ledger.check_bills(bills, sum((load.sent for load in loads), start=Counter()) if loads else None)
        for load in loads:
            ledger.check_answers(load.answers, bills)
        return ledger


def windows(times: Iterable[float], seconds: float = 60.0) -> int:
    """The most of them that lie within any such span of time."""
    ordered = sorted(times)
    first = most = 0
    for last, when in enumerate(ordered):
        while when - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
