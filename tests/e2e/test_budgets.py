"""A budget of a started gateway with four workers: exactly what there is room for is sent, also after a worker died."""

from __future__ import annotations

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.process import GatewayProcess, until
from tests.upstream import UpstreamProcess

WORKERS = 4
ROOM = 10


def test_four_workers_send_exactly_what_a_budget_has_room_for_and_a_killed_one_changes_nothing(
    tmp_path: Path, mock: UpstreamProcess
) -> None:
    with GatewayProcess(tmp_path, workers=WORKERS, max_queue_seconds=0) as gateway:
        until(lambda: gateway.log.count('"event": "ready"') == WORKERS)
        gateway.provider("p", mock.base_url, rate_limit_rpm=100_000, rate_limit_tpm=10**9)
        made = gateway.call("POST", "/api/v1/budgets", {"name": "core", "limit_requests": ROOM, "match": {}})
        assert made.status == 201

        def ask(number: int) -> Any:
            body = {"user_id": "u", "service": "s", "prompt": f"Question {number}"}
            return gateway.call("POST", "/api/v1/generate", body, cache_control="no-store")

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(200)))
        assert Counter(answer.status for answer in answers) == {200: ROOM, 429: 190}
        assert mock.seen().total == ROOM
        last = ask(200)
        assert (last.json["code"], last.json["budget"]["spent_requests"]) == ("budget_exceeded", ROOM)
        os.kill(gateway.worker_pids[0], signal.SIGKILL)
        until(lambda: gateway.log.count('"event": "ready"') == WORKERS + 1)
        assert gateway.call("PATCH", f"/api/v1/budgets/{made.json['id']}", {"limit_requests": ROOM + 1}).status == 200
        assert [ask(number).status for number in (201, 202)] == [200, 429]
        [account] = gateway.call("GET", f"/api/v1/budgets/{made.json['id']}/accounts").json["accounts"]
        assert account["spent_requests"] == ROOM + 1
