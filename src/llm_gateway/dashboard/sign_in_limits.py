"""Limit how often a sign-in can fail, in bounded memory, so that strangers can lock nobody out.

| counted by | beyond | is |
|---|---|---|
| address | 10 | refused |
| person's name from one network | 10 | slowed down, each time twice as long |
| | 100 | refused, which takes ten addresses of that network |
| person's name from anywhere | 100 | slowed down, never refused |

Source: OWASP's Authentication Cheat Sheet, "Login Throttling": count by the account, not by the address alone; let
waits grow exponentially; and do not let an attacker lock others out. Waits run side by side, so they bound no rate: the
hundred of a network does, and the threads that hash (`store/passwords.py`).
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

MOST_FAILURES, FAILURES_S = 10, 60.0
"""Failed sign-ins from one address, in this many seconds."""
MOST_OF_NETWORK = 100
"""Failed sign-ins with one name from one network in FAILURES_S, of which those after MOST_FAILURES are slowed down."""
MOST_OF_NAME, BRAKE_S = 100, 2.0
"""Failed sign-ins with one name from anywhere in FAILURES_S, and seconds by which each further one is slowed down."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 16.0
"""Seconds by which the first one from a network that fails too often is slowed down, and by which one is at most."""
MOST_KNOWN = 4096
"""Addresses, names from a network, and names that are remembered, each; the oldest failure is forgotten first."""
LONGEST_NAME = 100
IPV4_PREFIX, IPV6_SUBSCRIBER, IPV6_NETWORK = 24, 64, 48
"""Bits of a network, and of what one subscriber of IPv6 has (RFC 6177)."""


class Attempts:
    """Attempts to sign in of the last minute. An attempt counts as failed until it succeeds.

    So attempts at the same time cannot be more than the limit. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._addresses = Failures(clock, MOST_FAILURES)
        self._names_of_networks = Failures(clock, MOST_OF_NETWORK)
        self._names = Failures(clock, MOST_OF_NAME)

    def begin(self, address: str, name: str | None) -> bool:
        """Count an attempt. Returns False if it must not be made now; then it is not counted. `name` is a person's."""
        sources = self._sources(address, name)
        if any(failures.is_full(source) for failures, source in sources):
            return False
        for failures, source in sources:
            failures.add(source)
        if name is not None:
            self._names.add(name[:LONGEST_NAME])
        return True

    def brake_s(self, address: str, name: str) -> float:
        """Return the seconds to wait before the password of a person is checked, once the attempt has begun."""
        brake_s = BRAKE_S if self._names.is_full(name[:LONGEST_NAME]) else 0.0
        beyond = self._names_of_networks.count(_name_of_network(address, name)) - MOST_FAILURES
        return brake_s if beyond <= 0 else max(brake_s, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(beyond - 1, 10)))

    def succeeded(self, address: str, name: str | None) -> None:
        """Take back the count of an attempt that succeeded."""
        for failures, source in self._sources(address, name):
            failures.take_back(source)
        if name is not None:
            self._names.take_back(name[:LONGEST_NAME])

    def _sources(self, address: str, name: str | None) -> list[tuple[Failures, str]]:
        found = [(self._addresses, _network(address, 32, IPV6_SUBSCRIBER))]
        if name is not None:
            found.append((self._names_of_networks, _name_of_network(address, name)))
        return found


class Failures:
    """Times of the last failures of each source; `most` of them in FAILURES_S are the limit."""

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock = clock
        self._most = most
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of sources."""
        return len(self._times)

    def count(self, source: str) -> int:
        """Return how often the source has failed, up to its limit."""
        oldest = self._clock() - FAILURES_S
        return sum(at > oldest for at in self._times.get(source, ()))

    def is_full(self, source: str) -> bool:
        """Return True if the source is at its limit."""
        return self.count(source) >= self._most

    def add(self, source: str) -> None:
        """Count a failure now."""
        times = self._times.pop(source, [])
        self._times[source] = [*times, self._clock()][-self._most :]
        while len(self._times) > MOST_KNOWN:
            self._times.popitem(last=False)

    def take_back(self, source: str) -> None:
        """Take back the last failure."""
        times = self._times.get(source)
        if times:
            times.pop()


def _name_of_network(address: str, name: str) -> str:
    return f"{_network(address, IPV4_PREFIX, IPV6_NETWORK)} {name[:LONGEST_NAME]}"


def _network(address: str, ipv4_bits: int, ipv6_bits: int) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed.packed, ipv6_bits), strict=False))
        parsed = parsed.ipv4_mapped
    return str(ipaddress.ip_network((parsed.packed, ipv4_bits), strict=False))
