"""Header that names the workers which do not apply a change yet."""

from __future__ import annotations

from pathlib import Path

from tests.application.driver import Client
from tests.channel.harness import raw_worker
from tests.control.management.test_providers import created

HEADER = "x-gateway-pending-workers"


async def test_a_change_names_the_workers_that_do_not_apply_it_yet_and_keeps_its_status(
    client: Client, data_dir: Path
) -> None:
    provider = await created(client)
    path = f"/api/v1/providers/{provider['id']}"
    changed = await client.call("PATCH", path, {"display_name": "A"})
    assert (changed.status, HEADER in changed.headers) == (200, False)
    async with raw_worker(data_dir):
        changed = await client.call("PATCH", path, {"display_name": "B"})
        assert (changed.status, changed.headers[HEADER]) == (200, "worker 9 (process 99)")
        read = await client.call("GET", path)
        assert (read.json["display_name"], HEADER in read.headers) == ("B", False)
        refused = await client.call("PATCH", path, {"priority": "high"})
        assert (refused.status, HEADER in refused.headers) == (422, False)
