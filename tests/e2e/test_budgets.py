"""Budgets of started gateways: exactly what there is room for is sent, by four workers, or by several hosts."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.offline import reprice_once
from llm_gateway.settings import Settings
from tests.e2e.process import GatewayProcess, until
from tests.postgres_server import CannotRun, new_cluster
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
        assert gateway.call("DELETE", f"/api/v1/budgets/{made.json['id']}").status == 204
        check_that_new_prices_and_an_erasure_count_at_once(gateway, tmp_path / "data")


def check_that_new_prices_and_an_erasure_count_at_once(gateway: GatewayProcess, data_dir: Path) -> None:
    fields = {"per": "user_id", "limit_usd": 0.1}
    assert gateway.call("POST", "/api/v1/budgets", {"name": "each", **fields}).status == 201
    [provider] = (each for each in gateway.call("GET", "/api/v1/providers").json if each["name"] == "p")

    def set_price(usd: float) -> None:
        prices = {model: {"input": usd, "output": usd} for model in provider["models"]}
        assert gateway.call("PATCH", f"/api/v1/providers/{provider['id']}", {"prices": prices}).status == 200

    set_price(0.01)
    assert gateway.ask(user_id="ann").status == 200
    assert gateway.summary()  # it is stored now
    set_price(100_000)
    assert reprice_once(Settings(data_dir=data_dir), since_ms=0).changed
    set_price(0.01)
    until(lambda: gateway.ask(user_id="ann").status == 429)
    assert gateway.ask(user_id="bob").status == 200
    assert gateway.call("DELETE", "/api/v1/usage/customers/ann").status == 200
    assert gateway.ask(user_id="ann").status == 200


def test_two_hosts_send_exactly_what_a_budget_has_room_for_though_postgres_control_and_a_host_are_killed(
    tmp_path: Path, mock: UpstreamProcess, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("it runs with --long only: tests/shared_budgets/test_leases.py shows the same in one process")
    try:
        server = new_cluster()
    except CannotRun as error:
        pytest.skip(str(error))
    pid = server.start()
    shared = {
        "database_url": server.url,
        "encryption_keys": "ab" * 32,
        "key_peppers": "1:0123456789abcdefghijklmnopqrstuvwxyz",
        "workers": 2,
    }
    for name in "ab":
        (tmp_path / name).mkdir()
    try:
        with GatewayProcess(tmp_path / "a", **shared) as one, GatewayProcess(tmp_path / "b", **shared) as two:
            one.provider("p", mock.base_url, rate_limit_rpm=100_000, rate_limit_tpm=10**9)
            made = one.call("POST", "/api/v1/budgets", {"name": "core", "limit_requests": 1000}).json["id"]
            until(lambda: all(two.ask().status == 200 for _ in range(8)))  # both of its workers know the provider

            def send(count: int, *gateways: GatewayProcess) -> Counter[int]:
                def ask(number: int) -> int:
                    try:
                        return gateways[number % len(gateways)].ask(f"Question {number}").status
                    except OSError:  # its worker was killed
                        return 0

                with ThreadPoolExecutor(16) as pool:
                    return Counter(pool.map(ask, range(count)))

            first = send(200, one, two)
            assert first == {200: 200}, two.log[-2000:]
            os.kill(one.control_pid, signal.SIGKILL)
            assert send(100, one, two).keys() <= {200, 503}
            server.stop(pid)
            assert send(100, one, two).keys() <= {200, 503}
            pid = server.start()
            until(lambda: one.ask().status == two.ask().status == 200)
            two.kill()
            assert send(100, one).keys() <= {200, 429, 503}
            two.launch()
            two.wait_until_ready()
            assert send(2000, one, two).keys() <= {200, 429, 503}, "503: a machine that is too busy to ask in time"
            until(lambda: {one.ask().status, two.ask().status} == {429})
            assert mock.seen().total <= 1000

            def spent() -> Any:
                [account] = one.call("GET", f"/api/v1/budgets/{made}/accounts").json["accounts"]
                return account["spent_requests"], account["leased"]

            until(lambda: spent() == (1000, []))
    finally:
        server.stop(pid)
        shutil.rmtree(server.directory)
