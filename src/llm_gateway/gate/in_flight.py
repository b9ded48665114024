"""Caps on the requests in flight and on the bytes of their bodies, of one process or of all workers of a host."""

from __future__ import annotations

from llm_gateway.errors import Overloaded
from llm_gateway.host_memory.workers import BODY_BYTES, REQUESTS, WorkerPlace

DROP_S = 5.0


class InFlight:
    """Counters of the requests being served and of the bytes of their bodies, over all endpoints.

    `cap` is the maximum number of requests, `cap_bytes` that of bytes: a decoded body takes several times its size in
    memory. The rest of a rejected body is read and dropped for up to `drop_s` seconds: most clients read the response
    only after they have sent the whole request.

    `count` and `bytes` are those of this process. With `place`, the caps hold for all workers of the host. Each worker
    adds to its own part before it compares the sum, so that two that do so at once can both be refused, but never both
    exceed the cap.
    """

    __slots__ = ("_place", "bytes", "cap", "cap_bytes", "count", "drop_s")

    def __init__(self, cap: int, cap_bytes: int, drop_s: float = DROP_S, place: WorkerPlace | None = None) -> None:
        self.cap = cap
        self.cap_bytes = cap_bytes
        self.drop_s = drop_s
        self.count = 0
        self.bytes = 0
        self._place = place

    def enter(self) -> None:
        """Count a request, until `leave`.

        Raises:
            Overloaded: there would be more than the cap.
        """
        count, place = self.count + 1, self._place
        if place is None:
            total = count
        else:
            place.hold(REQUESTS, count)
            total = place.total(REQUESTS)
        if total > self.cap:
            if place is not None:
                place.hold(REQUESTS, self.count)
            raise Overloaded(
                "The gateway serves its maximum number of requests: try again, or raise LLM_GATEWAY_MAX_IN_FLIGHT.",
                retry_after_s=1,
            )
        self.count = count

    def leave(self) -> None:
        """Count a request as over."""
        self.count -= 1
        if self._place is not None:
            self._place.hold(REQUESTS, self.count)

    def hold(self, size: int) -> None:
        """Add `size` bytes to the count, until `release` subtracts them.

        Raises:
            Overloaded: the count would exceed the cap.
        """
        held, place = self.bytes + size, self._place
        if place is None:
            total = held
        else:
            place.hold(BODY_BYTES, held)
            total = place.total(BODY_BYTES)
        if total > self.cap_bytes:
            if place is not None:
                place.hold(BODY_BYTES, self.bytes)
            raise Overloaded(
                "The bodies of the requests in flight are as large as LLM_GATEWAY_MAX_BODY_BYTES_IN_FLIGHT allows: "
                "try again, or raise it.",
                retry_after_s=1,
            )
        self.bytes = held

    def release(self, size: int) -> None:
        """Subtract `size` bytes that `hold` added."""
        self.bytes -= size
        if self._place is not None:
            self._place.hold(BODY_BYTES, self.bytes)
