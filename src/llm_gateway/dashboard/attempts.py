"""Limit how often a sign-in can fail, by address and by person's name, in bounded memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

MOST_FAILURES, FAILURES_S = 10, 60.0
"""Failed sign-ins from one address, and with one name, in this many seconds."""
MOST_KNOWN = 1024
"""Addresses and names that are remembered; the oldest failure is forgotten first."""
LONGEST_NAME = 100


class Attempts:
    """Attempts to sign in of the last minute. An attempt counts as failed until it succeeds.

    So attempts at the same time cannot be more than the limit. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def begin(self, address: str, name: str | None) -> bool:
        """Count an attempt. Returns False if it must not be made now; then it is not counted.

        Addresses of IPv6 count by /64, which is what one subscriber has (RFC 6177). `name` is that of a person.
        """
        sources = _sources(address, name)
        oldest = self._clock() - FAILURES_S
        for source in sources:
            if sum(at > oldest for at in self._times.get(source, ())) >= MOST_FAILURES:
                return False
        for source in sources:
            times = self._times.pop(source, [])
            self._times[source] = [*times, self._clock()][-MOST_FAILURES:]
        while len(self._times) > MOST_KNOWN:
            self._times.popitem(last=False)
        return True

    def succeeded(self, address: str, name: str | None) -> None:
        """Take back the count of an attempt that succeeded."""
        for source in _sources(address, name):
            times = self._times.get(source)
            if times:
                times.pop()


def _sources(address: str, name: str | None) -> list[tuple[str, str]]:
    sources = [("address", _subscriber(address))]
    return sources if name is None else [*sources, ("name", name[:LONGEST_NAME])]


def _subscriber(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped is not None:
        return address
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
