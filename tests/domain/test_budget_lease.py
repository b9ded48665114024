"""The rule of leases, simulated: hosts, journals and the ledger, in any order of requests, crashes and returns."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm_gateway.domain.budget_lease import Lease, Wish, left_of, take
from tests.rows import each_row


class Host:
    """A host: what it may spend, what it has spent and holds, and what of it is not stored yet."""

    def __init__(self) -> None:
        self.granted = self.spent = self.held = self.stored = 0
        self.is_alive = True

    @property
    def lease(self) -> Lease:
        """Its row in the ledger, which is what it knows itself while it runs."""
        return Lease(self.granted, self.stored)

    def returns(self) -> None:
        self.granted = max(self.stored, min(self.granted, self.spent + self.held))


class Hosts:
    """Hosts that share a limit. `trips` are those to the ledger."""

    def __init__(self, count: int, limit: int) -> None:
        self.hosts = [Host() for _ in range(count)]
        self.limit = limit
        self.trips = 0

    @property
    def left(self) -> int:
        spent = sum(host.stored for host in self.hosts)
        return left_of(self.limit, spent, (host.lease for host in self.hosts))

    def admits(self, host: Host, need: int) -> bool:
        wanted = host.spent + host.held + need
        if wanted <= host.granted:
            host.held += need
            return True
        self.trips += 1
        living = sum(each.is_alive for each in self.hosts)
        granted = take(host.lease, self.left, Wish(wanted, wanted), living)
        if granted is None:
            for other in self.hosts:
                if other.is_alive and other is not host:
                    other.returns()
            granted = take(host.lease, self.left, Wish(wanted, wanted), living)
        if granted is None:
            return False
        host.granted, host.held = granted, host.held + need
        return True

    def settle(self, host: Host, held: int, cost: int) -> None:
        host.held -= held
        host.spent += cost


class AnyOrder(RuleBasedStateMachine):
    """Three hosts share 200; a request costs at most what is held for it."""

    def __init__(self) -> None:
        super().__init__()
        self.all = Hosts(3, 200)
        self.flying: list[tuple[Host, int]] = []

    def _host(self, which: int) -> Host:
        return self.all.hosts[which % len(self.all.hosts)]

    @rule(which=st.integers(0, 2), need=st.integers(0, 40))
    def request(self, which: int, need: int) -> None:
        host = self._host(which)
        if host.is_alive and self.all.admits(host, need):
            self.flying.append((host, need))

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99), share=st.floats(0, 1))
    def settle(self, which: int, share: float) -> None:
        host, held = self.flying.pop(which % len(self.flying))
        self.all.settle(host, held, int(held * share))

    @rule(which=st.integers(0, 2))
    def ship(self, which: int) -> None:
        host = self._host(which)
        if host.is_alive:
            host.stored = host.spent

    @rule(which=st.integers(0, 2))
    def kill(self, which: int) -> None:
        """All that is in flight counts at its bound, in a journal that nobody reads yet."""
        host = self._host(which)
        mine = [held for each, held in self.flying if each is host]
        self.flying = [each for each in self.flying if each[0] is not host]
        host.is_alive = False
        for held in mine:
            self.all.settle(host, held, held)

    @rule(which=st.integers(0, 2))
    def come_back(self, which: int) -> None:
        """Its journal is stored, then what was granted beyond it is free."""
        host = self._host(which)
        if not host.is_alive:
            host.is_alive, host.stored = True, host.spent
            host.granted = host.spent

    @invariant()
    def the_limit_holds_wherever_it_was_spent(self) -> None:
        hosts = self.all.hosts
        assert sum(host.spent + host.held for host in hosts) <= self.all.limit
        assert self.all.left >= 0
        for host in hosts:
            assert host.spent + host.held <= host.granted

    def teardown(self) -> None:
        """What living hosts have not granted can be used to the last unit by any of them."""
        self.come_back(0)
        host, lost = self.all.hosts[0], sum(each.lease.outstanding for each in self.all.hosts if not each.is_alive)
        for each, held in self.flying:
            self.all.settle(each, held, held)
        self.flying = []
        while self.all.admits(host, 1):
            self.all.settle(host, 1, 1)
        spent = sum(each.spent for each in self.all.hosts if each.is_alive)
        stored = sum(each.stored for each in self.all.hosts if not each.is_alive)
        assert spent + stored + lost == self.all.limit


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@each_row(("count", "busy"), [(1, 100), (2, 50), (2, 80), (4, 25), (4, 80), (16, 6), (16, 80)])
def test_the_whole_limit_is_used_with_few_trips(count: int, busy: int) -> None:
    """`busy`: percent of the requests that come to the first host; 32 are in flight at a time, at a tenth too much."""
    random, hosts, flying = Random(count * 100 + busy), Hosts(count, count * 10_000_000), []
    calls = refused = 0
    while refused < 100:
        first = random.randrange(100) < busy
        host = hosts.hosts[0 if first else random.randrange(count)]
        calls += 1
        if hosts.admits(host, 11_000):
            flying.append(host)
        else:
            refused += 1
        if len(flying) >= 32 or refused:
            while flying and (refused or len(flying) >= 32):
                hosts.settle(flying.pop(random.randrange(len(flying))), 11_000, 10_000)
        if random.random() < 0.02:
            host.stored = host.spent
    spent = sum(host.spent for host in hosts.hosts)
    assert hosts.limit - 11_000 < spent <= hosts.limit
    assert (hosts.trips - refused) / calls <= 0.055


@each_row(
    ("own", "left", "wish", "hosts", "granted"),
    [
        (Lease(), 1000, Wish(1, 1), 2, 125),
        (Lease(), 1000, Wish(1, 400), 2, 400),
        (Lease(), 1000, Wish(600, 600), 2, 600),
        (Lease(), 10, Wish(8, 50), 2, 10),
        (Lease(), 7, Wish(8, 8), 2, None),
        (Lease(100, 40), 5, Wish(90, 90), 2, 100),
        (Lease(100, 130), 50, Wish(135, 135), 4, 135),
        (Lease(5, 5), -3, Wish(6, 6), 2, None),
    ],
)
def test_a_host_takes_what_it_needs_or_a_part_of_its_share(
    own: Lease, left: int, wish: Wish, hosts: int, granted: int | None
) -> None:
    assert take(own, left, wish, hosts) == granted
