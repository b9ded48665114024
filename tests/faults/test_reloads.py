"""All processes are replaced again and again under load: no client notices, and no call is lost or counted twice."""

from __future__ import annotations

import pytest

from tests.e2e.process import CommandProcess
from tests.e2e.reloads import STEPS, Load, reload, size, state
from tests.e2e.streaming_vendor import StreamingVendor
from tests.faults.conftest import Note
from tests.faults.ledger import PRICES
from tests.faults.scene import Scene

RELOADS, LONG_RELOADS = 2, 50
GROWTH_KIB = 512
"""Memory that the supervisor may need more after the last reload than after the first."""
RELOADED = (0, "Reloaded: new processes serve, and the old ones have ended.\n", "")


@pytest.mark.fault("reloads under load", "SIGHUP; connections that are kept and new ones, streams, reports meanwhile")
def test_reloads_under_load_refuse_cut_and_lose_nothing(scene: Scene, note: Note, long: bool) -> None:
    reloads, workers = LONG_RELOADS if long else RELOADS, max(2, scene.workers)
    sizes: list[tuple[int, int]] = []
    # At full length the gateway is started by its command, so that each reload starts new interpreters.
    gateway = CommandProcess(scene.directory, workers=workers) if long else scene.gateway(workers=workers)
    with StreamingVendor() as streamer, gateway:
        streamer.steps = STEPS
        scene.providers(gateway, "ok", priority=10)
        gateway.provider("streamer", streamer.url, "streamer-1", priority=1, prices={"streamer-1": PRICES})
        with Load(gateway) as load:
            for _ in range(reloads):
                assert reload(gateway) == RELOADED
                sizes.append(size(gateway.process.pid))
        served, streamed = next(load.served), next(load.streamed)
        assert load.errors == []
        assert {status for status, _ in load.managed} <= {200, 503}
        assert served > 50 * reloads
        assert streamed > reloads
        assert len({descriptors for descriptors, _ in sizes}) == 1, sizes
        assert sizes[-1][1] - sizes[0][1] <= GROWTH_KIB, sizes
        assert load.most_children <= 2 * (workers + 1) + 1, "two generations, and the process that reads the settings"
        assert state(gateway).ended == reloads
        ledger, bills = scene.books(gateway), scene.bills
    assert len(ledger.rows) == ledger.count("ok") == served
    calls = [attempt for row in ledger.rows for attempt in row.attempts]
    billed = sorted(attempt.upstream_request_id or "" for attempt in calls if attempt.provider == "p0")
    assert billed == sorted(bill.id for bill in bills), "each call has one record"
    assert len(calls) - len(billed) == len(streamer.calls) == streamed, "each stream has one, too"
    late = sum(status != 200 for status, _ in load.managed)
    longest = max(seconds for _, seconds in load.managed)
    grown = f"{sizes[0][0]} descriptors, {sizes[0][1]} to {sizes[-1][1]} KiB"
    note(
        f"{reloads} reloads of {workers} workers: {served} calls, {streamed} of them streams: 0 refused, 0 cut off, "
        f"each recorded once; {len(load.managed)} reports ({late} got 503, the longest took {longest:.2f} s); "
        f"supervisor: {grown}"
    )
