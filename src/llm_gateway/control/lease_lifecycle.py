"""Start, run and end the leasing of budgets in the control process. With SQLite nothing is leased.

before the journals left over are stored   a host whose memory goes on joins, so that what they used is noted
after it                                   a host with new memory joins: it has nothing out any more
at the end, once all is stored             it leaves, unless workers go on
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.hosts import Hosts
from llm_gateway.control.lease_batches import LeaseBatches
from llm_gateway.control.lease_exchange import BudgetLeases, follow_leases_forever
from llm_gateway.control.lease_memory import LeasedAccounts
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.forwarding.lease_questions import answering_leases
from llm_gateway.host_memory import HostMemory
from llm_gateway.host_memory.budget_holds import owners
from llm_gateway.journal.segments import find_writers
from llm_gateway.store.budget_charges import Charges
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.bulk import Pause
from llm_gateway.store.database import Database
from llm_gateway.store.hosts import SecretNames
from llm_gateway.store.lease_ledger import LeaseLedger, Transaction


class BudgetSharing:
    """The leases of this host, if there are any.

    Args:
        memory: shared by the processes of this host; without it no hard budget is served.
        balances: the accounts in it.
        hosts: this host and the others.
        log: `log(event, level=…, **fields)`.
    """

    def __init__(
        self, memory: HostMemory | None, balances: BudgetBalances, hosts: Hosts, log: Callable[..., None]
    ) -> None:
        self._memory = memory
        self._balances = balances
        self._hosts = hosts
        self._log = log
        self._leases: BudgetLeases | None = None
        self._desk: LeaseBatches | None = None
        self._is_joined = False

    def claim(self, database: Database, secrets: SecretNames) -> None:
        """Say that this host starts, and open the ledger. Call it before anything of the journals is stored.

        Raises:
            ConfigurationError: as `Hosts.claim`.
            StoreUnavailable: the database does not answer.
        """
        self._hosts.claim(database, secrets)
        if self._memory is None:
            return
        self._balances.learn(BudgetStore(database).in_force())  # the journals left over may have requests of them
        if database.is_sqlite:
            return
        accounts = LeasedAccounts(self._memory, self._balances.locked)
        ledger = LeaseLedger(database, self._hosts.id)
        self._leases = BudgetLeases(ledger, accounts, self._balances, lambda: self._hosts.living_ids, self._log)
        self._desk = LeaseBatches(self._leases.fetch)
        if not accounts.is_new:
            self._leases.join()
            self._is_joined = True

    async def join(self) -> None:
        """Join, if that is not done yet: the journals left over are in the database now.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._leases is not None and not self._is_joined:
            await asyncio.to_thread(self._leases.join)

    def use(self, transaction: Transaction, records: Sequence[UsageRecord], charges: Charges, pause: Pause) -> None:
        """Note what stored records have used, in their transaction."""
        if self._leases is not None:
            self._leases.use(transaction, records, charges, pause)

    def follow(self, background: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Exchange leases with the other hosts, in a task that `background` starts."""
        if self._leases is not None:
            background(follow_leases_forever(self._leases, self._log))

    def answering(self, app: ASGIApp) -> ASGIApp:
        """Return an ASGI app that answers workers' questions for more, and passes other requests on to `app`."""
        return app if self._desk is None else answering_leases(app, self._desk.ask)

    def leave(self, journals: Path) -> None:
        """Return everything, if all records of this host are stored and no worker is left."""
        if self._leases is None or self._desk is None or self._memory is None:
            return
        self._desk.close()
        if owners(self._memory.words) or find_writers(journals):
            return
        try:
            self._leases.leave()
        except StoreUnavailable:
            self._log("leases of budgets could not be returned", level="warning", host=self._hosts.id)
