"""The ledger of leases: what each of several hosts on one Postgres may use of the accounts of budgets.

    absent ──(join, and there is no other host)──▶ alone ──(share, after another one has joined)──▶ leasing
       └────────────(join, and there are others)──────────────────────────────────────────────────────▲

A host that is alone may use whole limits; nothing is granted to others until it shares. The rule is that of
`domain/budget_lease.py`. An account is locked while something of it is granted (`pg_advisory_xact_lock`); what is
spent and what leases have used change in one transaction, and are read by one statement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_lease import Lease, Wish, left_of, take
from llm_gateway.domain.budget_table import account_name
from llm_gateway.domain.stored_budget import StoredBudget, carried, limit_at
from llm_gateway.host_memory.slots import Key, key_of
from llm_gateway.store.budget_spend import OF_UNIT
from llm_gateway.store.budget_tables import budget_hosts, budget_leases, budget_spend, budgets
from llm_gateway.store.budgets import stored_budget
from llm_gateway.store.bulk import Pause, no_pause
from llm_gateway.store.database import Database
from llm_gateway.store.set_insert import row_insert

_JOINING = 0x6C656173
"""Key of the advisory lock of hosts that join or share ("leas"). Accounts have other keys."""
_of, _hosts = budget_leases.c, budget_hosts.c
_COLUMNS = ("account", "host", "granted", "used", "asked", "answered", "expires_at_ms", "budget_id")
_OUTSTANDING = sa.func.greatest(_of.granted - _of.used, 0)
_NOW_MS = sa.literal_column("(extract(epoch FROM clock_timestamp()) * 1000)::bigint", sa.BigInteger)
VALUES_AT_ONCE = 500
SLACK_MS = 86_400_000
"""Milliseconds for which a lease is kept after the end of its account's period."""
Transaction: TypeAlias = Connection
"""A transaction, for those who pass it on."""


class Taken(NamedTuple):
    """Result of `take`: what a host may use of an account from now on, and the account's amounts, in its unit.

    `spent` is that of stored records, `elsewhere` what others may still use. `lease` is None if the budget is not there
    any more, or is in another unit.
    """

    lease: Lease | None
    is_enough: bool = False
    limit: int = 0
    spent: int = 0
    elsewhere: int = 0


class Amounts(NamedTuple):
    """Amounts of an account: what is spent, this host's lease, and what others may still use."""

    spent: int
    own: Lease
    elsewhere: int


class Used(NamedTuple):
    """Amount that stored records have used of an account, until when that is needed (ms UTC), and its `budget_id`."""

    account: str
    amount: int
    until_ms: int
    budget_id: str


class NotJoined(Exception):
    """The host's row is gone: an operator has released it."""


class MustWait(Exception):
    """Another host may use whole limits until it has shared them; the text is its id."""


def account_key(budget: Budget, ref: AccountRef) -> str:
    """Return the key of an account of one period."""
    return text_of(key_of(account_name(budget, ref)))


def text_of(key: Key) -> str:
    """Return the digest of an account's name, as the memory has it, as text."""
    return f"{key.low & (2**64 - 1):016x}{key.high & (2**64 - 1):016x}"


def key_in(text: str) -> Key:
    """Return the digest in a text made by `text_of`."""
    low, high = int(text[:16], 16), int(text[16:], 16)
    return Key(low - 2**64 if low >> 63 else low, high - 2**64 if high >> 63 else high)


class LeaseLedger:
    """The ledger, as the host with the id `host` uses it. All methods raise `StoreUnavailable`."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self.host = host
        of_budget = ", budget_id = coalesce(excluded.budget_id, budget_leases.budget_id)"
        adding = f"ON CONFLICT (account, host) DO UPDATE SET used = budget_leases.used + excluded.used{of_budget}"
        self._use = row_insert(database, budget_leases, _COLUMNS, adding)
        granting = f"ON CONFLICT (account, host) DO UPDATE SET granted = excluded.granted{of_budget}"
        self._grant = row_insert(database, budget_leases, _COLUMNS, granting)
        kept = f"{granting}, used = excluded.used"
        self._share = row_insert(database, budget_leases, _COLUMNS, kept)

    def join(self, *, is_new: bool, is_leasing: bool) -> bool:
        """Begin to use budgets. Returns True if the host is alone.

        `is_new`: its memory counts nothing yet, and all its records are stored, so that it needs no leases of before.
        `is_leasing`: its memory has no whole balances any more. A host that runs and was alone stays so until `share`.
        """
        with self._database.write() as connection:
            _lock(connection, _JOINING)
            known = {row.host: row.is_alone for row in connection.execute(sa.select(budget_hosts))}
            before = known.pop(self.host, None)
            if is_new:
                connection.execute(sa.delete(budget_leases).where(_of.host == self.host))
                is_alone = not known
            else:
                is_alone = not is_leasing if before is None else before
            if is_new or (before is None and not (is_alone and known)):
                self._mark(connection, is_alone=is_alone)
        return is_alone

    def must_share(self) -> bool:
        """Return whether a host that was alone is not any more: there are others, or it has been released."""
        with self._database.read() as connection:
            known = connection.execute(sa.select(_hosts.host)).scalars().all()
        return list(known) != [self.host]

    def share(self, leases: Iterable[tuple[str, int, int]]) -> None:
        """End being alone: keep these amounts (account, granted, expires_at_ms), and leave all others to the ledger."""
        rows = [(account, self.host, granted, 0, 0, 0, until_ms, None) for account, granted, until_ms in leases]
        with self._database.write() as connection:
            _lock(connection, _JOINING)
            self._share.run(connection, rows)
            self._mark(connection, is_alone=False)

    def leave(self) -> None:
        """Return everything. All records of the host must be stored, and nothing may be held."""
        with self._database.write() as connection:
            _lock(connection, _JOINING)
            connection.execute(sa.delete(budget_leases).where(_of.host == self.host))
            connection.execute(sa.delete(budget_hosts).where(_hosts.host == self.host))

    def hosts(self) -> dict[str, bool]:
        """Return the hosts that use budgets, and whether each is alone."""
        with self._database.read() as connection:
            return {row.host: row.is_alone for row in connection.execute(sa.select(budget_hosts))}

    def own(self) -> list[tuple[str, int, int]]:
        """Return what is granted to the host: account, amount, and until when it is needed (milliseconds UTC)."""
        query = sa.select(_of.account, _of.granted, _of.expires_at_ms).where(_of.host == self.host)
        with self._database.read() as connection:
            return [(row.account, row.granted, row.expires_at_ms) for row in connection.execute(query)]

    def spent(self) -> dict[str, int]:
        """Return what is spent, by account, of the periods that are counted now and those before."""
        spend, found = budget_spend.c, dict[str, int]()
        with self._database.read() as connection:
            now_ms = connection.execute(sa.select(_NOW_MS)).scalar_one()
            for row in connection.execute(sa.select(budgets)).all():
                budget = (stored := stored_budget(row)).budget
                start_ms = stored.period(now_ms).start_ms
                first_ms = stored.period(start_ms - 1).start_ms if start_ms else 0
                query = sa.select(spend.budget_id, spend.value, spend.period_start_ms, OF_UNIT[budget.unit])
                query = query.where(spend.budget_id == budget.id, spend.period_start_ms >= first_ms)
                for *account, amount in connection.execute(query):
                    found[account_key(budget, AccountRef(*account))] = amount
        return found

    def amounts(self, accounts: Mapping[str, tuple[Budget, AccountRef]]) -> dict[str, Amounts]:
        """Return what is spent of accounts, and what is leased of them."""
        with self._database.read() as connection:
            return {account: self._amounts(connection, account, *each) for account, each in accounts.items()}

    def take(self, budget: Budget, ref: AccountRef, wish: Wish, hosts: int, until_ms: int) -> Taken:
        """Grant this host more of an account, if enough is left. `hosts` is the number of living ones.

        Raises:
            NotJoined: the host has to join again.
            MustWait: another host has not shared its limits yet.
        """
        account = account_key(budget, ref)
        with self._database.write() as connection:
            _lock(connection, key_in(account).low)
            self._check_joined(connection)
            query = sa.select(budgets, _NOW_MS.label("now_ms")).where(budgets.c.accounts_id == ref.budget_id)
            row = connection.execute(query).one_or_none()
            if row is None or (stored := stored_budget(row)).budget.unit != budget.unit:
                return Taken(None)
            before, limit = self._amounts(connection, account, stored.budget, ref), limit_at(stored.budget, row.now_ms)
            limit += self._carried(connection, stored, ref)
            left = left_of(limit, before.spent, [before.own, Lease(before.elsewhere)])
            granted = take(before.own, left, wish, hosts)
            lease = before.own if granted is None else Lease(granted, before.own.used)
            if lease.granted > before.own.granted:
                granting = (account, self.host, lease.granted, 0, 0, 0, until_ms, ref.budget_id)
                self._grant.run(connection, [granting])
        return Taken(lease, granted is not None, limit, before.spent, before.elsewhere)

    def ask_back(self, account: str, living: Collection[str]) -> int:
        """Ask living hosts for what they do not hold of an account. Returns how many are asked."""
        others = _of.host.in_([host for host in living if host != self.host])
        asked = sa.update(budget_leases).where(_of.account == account, others, _of.granted > _of.used)
        with self._database.write() as connection:
            _lock(connection, key_in(account).low)
            return connection.execute(asked.values(asked=_of.asked + 1)).rowcount

    def asked(self) -> dict[str, int]:
        """Return the accounts of which others ask for what this host does not hold, and the number of the question."""
        query = sa.select(_of.account, _of.asked).where(_of.host == self.host, _of.asked != _of.answered)
        with self._database.read() as connection:
            return {row.account: row.asked for row in connection.execute(query)}

    def unanswered(self, account: str, living: Collection[str]) -> int:
        """Return how many living hosts have not answered yet what they were asked of an account."""
        others = _of.host.in_([host for host in living if host != self.host])
        query = sa.select(sa.func.count()).where(_of.account == account, others, _of.asked != _of.answered)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def holders(self, account: str) -> set[str]:
        """Return the hosts that may still use a part of an account."""
        with self._database.read() as connection:
            return set(leased(connection, [account]).get(account, ()))

    def give_back(self, granted: Mapping[str, int], answers: Mapping[str, int]) -> None:
        """Lower what was granted to this host to these amounts, and note which questions they answer."""
        with self._database.write() as connection:
            for account in sorted(granted.keys() | answers.keys()):
                values: dict[str, Any] = {}
                if account in granted:
                    values["granted"] = sa.func.least(_of.granted, granted[account])
                if account in answers:
                    values["answered"] = answers[account]
                own = sa.update(budget_leases).where(_of.account == account, _of.host == self.host)
                connection.execute(own.values(values))

    def use(self, connection: Connection, used: Iterable[Used], pause: Pause = no_pause) -> None:
        """Note what records have used, in the transaction that stores them and adds them to `budget_spend`."""
        rows = [(each.account, self.host, 0, each.amount, 0, 0, each.until_ms, each.budget_id) for each in used]
        if rows:
            self._use.run(connection, rows, pause)

    def prune(self) -> int:
        """Delete leases of accounts that nobody needs any more, and those of deleted budgets. Returns how many.

        Rows that a shipper holds stay until the next time: it locks them in another order.
        """
        of_none = sa.and_(_of.budget_id.is_not(None), _of.budget_id.not_in(sa.select(budgets.c.accounts_id)))
        gone = sa.select(_of.account, _of.host).where(sa.or_(_of.expires_at_ms < _NOW_MS, of_none))
        free = gone.with_for_update(skip_locked=True).cte("free")
        row = sa.tuple_(_of.account, _of.host)
        with self._database.write() as connection:
            deleted = sa.delete(budget_leases).where(row.in_(sa.select(free.c.account, free.c.host)))
            return connection.execute(deleted).rowcount

    def _mark(self, connection: Connection, *, is_alone: bool) -> None:
        connection.execute(sa.delete(budget_hosts).where(_hosts.host == self.host))
        connection.execute(sa.insert(budget_hosts).values(host=self.host, is_alone=is_alone))

    def _check_joined(self, connection: Connection) -> None:
        query = sa.select(budget_hosts).where(sa.or_(_hosts.host == self.host, _hosts.is_alone))
        found = {row.host: row.is_alone for row in connection.execute(query)}
        if found.pop(self.host, True):
            raise NotJoined
        if found:
            raise MustWait(min(found))

    def _amounts(self, connection: Connection, account: str, budget: Budget, ref: AccountRef) -> Amounts:
        """Return what is spent and granted, by one statement, between whose parts no record can be stored."""
        own, others = _of.host == self.host, _of.host != self.host
        query = sa.select(
            sa.func.coalesce(_spent(budget, ref).scalar_subquery(), 0),
            sa.func.coalesce(sa.func.sum(_of.granted).filter(own), 0),
            sa.func.coalesce(sa.func.sum(_of.used).filter(own), 0),
            sa.func.coalesce(sa.func.sum(_OUTSTANDING).filter(others), 0),
        ).where(_of.account == account)
        spent, granted, used, elsewhere = map(int, connection.execute(query).one())
        return Amounts(spent, Lease(granted, used), elsewhere)

    def _carried(self, connection: Connection, stored: StoredBudget, ref: AccountRef) -> int:
        before = stored.period_before(stored.period(ref.period_start_ms))
        if before is None:
            return 0
        past = ref._replace(period_start_ms=before.start_ms)
        amounts = self._amounts(connection, account_key(stored.budget, past), stored.budget, past)
        return carried(stored.budget, amounts.spent + amounts.own.outstanding + amounts.elsewhere)


def leases_of(database: Database, budget: Budget, refs: Collection[AccountRef]) -> dict[AccountRef, dict[str, int]]:
    """Return what each host may still use of a budget's accounts, by account and host."""
    if database.is_sqlite or not refs:
        return {}
    keys = {account_key(budget, ref): ref for ref in refs}
    with database.read() as connection:
        return {keys[account]: by_host for account, by_host in leased(connection, keys).items()}


def leased(connection: Connection, accounts: Collection[str]) -> dict[str, dict[str, int]]:
    """Return what each host may still use of accounts, by account and host; those without it are left out."""
    wanted, found = list(accounts), dict[str, dict[str, int]]()
    for start in range(0, len(wanted), VALUES_AT_ONCE):
        part = _of.account.in_(wanted[start : start + VALUES_AT_ONCE])
        query = sa.select(_of.account, _of.host, _of.granted, _of.used).where(part, _of.granted > _of.used)
        for row in connection.execute(query.order_by(_of.account, _of.host)):
            found.setdefault(row.account, {})[row.host] = row.granted - row.used
    return found


class LeaseHolder(NamedTuple):
    """A host that uses budgets: whether it is alone, and of how many accounts it may still use a part."""

    host: str
    is_alone: bool
    accounts: int


def lease_holders(connection: Connection) -> list[LeaseHolder]:
    """Return the hosts that use budgets, and those that are released or have left and have stored more since."""
    query = sa.select(_of.host, sa.func.count()).where(_of.granted > _of.used).group_by(_of.host)
    counts = {host: int(count) for host, count in connection.execute(query)}
    alone = {row.host: row.is_alone for row in connection.execute(sa.select(budget_hosts))}
    hosts = sorted(counts.keys() | alone.keys())
    return [LeaseHolder(host, alone.get(host, False), counts.get(host, 0)) for host in hosts]


def release(connection: Connection, host: str) -> int | None:
    """Free all that a host may use and has not stored records of. Returns in how many accounts; None if it is unknown.

    If the host is not gone, or its journal comes back, limits may be passed by what it has spent since.
    """
    _lock(connection, _JOINING)
    own = sa.update(budget_leases).where(_of.host == host, _of.granted > _of.used).values(granted=_of.used)
    freed = connection.execute(own).rowcount
    known = connection.execute(sa.delete(budget_hosts).where(_hosts.host == host)).rowcount
    return freed if known or freed else None


def _spent(budget: Budget, ref: AccountRef) -> sa.Select[Any]:
    spend = budget_spend.c
    return sa.select(OF_UNIT[budget.unit]).where(
        spend.budget_id == ref.budget_id, spend.value == ref.value, spend.period_start_ms == ref.period_start_ms
    )


def _lock(connection: Connection, key: int) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
