"""First start by a new user: the embedded model answers, and its usage is still known after a restart."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_gateway.data_dir import running_gateway
from tests.e2e.process import CommandProcess, GatewayProcess, Response, until
from tests.upstream import UpstreamProcess

QUESTION = "What is the capital of France?"
SURE = {"temperature": 0, "max_tokens": 50}
"""Options for stable answers: at the default temperature about one in twenty of this small model is off topic."""


def test_a_fresh_start_answers_and_a_restart_keeps_its_usage(tmp_path: Path, mock: UpstreamProcess) -> None:
    with CommandProcess(tmp_path, local_model="auto") as gateway:
        [provider] = gateway.call("GET", "/api/v1/providers").json
        assert (provider["name"], provider["kind"], provider["priority"]) == ("local", "local", 0)
        tested = gateway.call("POST", f"/api/v1/providers/{provider['id']}/test")
        assert tested.json == {"success": True, "error": None}
        first = gateway.ask(QUESTION, no_store=False, **SURE)
        assert first.status == 200, first.body
        answer = first.json
        assert "Paris" in answer["content"]
        assert (answer["provider"], answer["model"], answer["cached"]) == ("local", provider["models"][0], False)
        assert answer["input_tokens"] > 0
        assert answer["output_tokens"] > 0
        assert (answer["cost_usd"], answer["cost_status"]) == (0, "exact")
        again = gateway.ask(QUESTION, no_store=False, **SURE).json
        assert again == {**answer, "cached": True, "latency_ms": again["latency_ms"]}
        summary = gateway.summary()
        assert (summary["total_requests"], summary["cached_requests"], summary["error_requests"]) == (2, 1, 0)
        assert summary["total_tokens"] == answer["input_tokens"] + answer["output_tokens"]
        assert (summary["total_cost_usd"], summary["cache_hit_rate"]) == (0, 0.5)
        assert "public development key" in gateway.log

    started = time.monotonic()
    with GatewayProcess(tmp_path, local_model="auto") as gateway:
        assert time.monotonic() - started < 15, "5 s where nothing else runs"
        assert gateway.call("GET", "/api/v1/providers").json == [provider]
        assert gateway.summary() == summary
        assert "Paris" in gateway.ask(QUESTION, no_store=False, **SURE).json["content"]
        with asking(gateway) as answers:
            gateway.process.send_signal(signal.SIGHUP)
            until(lambda: ended(gateway) == 1)
            killed = gateway.control_pid
            os.kill(killed, signal.SIGKILL)
            until(lambda: gateway.control_pid != killed)
            until(lambda: gateway.call("GET", "/api/v1/providers").status == 200)
        assert {(answer.status, answer.json.get("provider")) for answer in answers} == {(200, "local")}, answers
        assert gateway.log.count("loading the embedded local model") == 1, "it goes on"
        gateway.provider("acme", mock.base_url)
        assert gateway.ask(QUESTION).json["provider"] == "acme", "a real provider comes first"
        model = json.loads(next(line for line in gateway.log.splitlines() if "local model answers" in line))["pid"]
        assert Path(f"/proc/{model}").exists()
    until(lambda: not Path(f"/proc/{model}").exists())


def ended(gateway: GatewayProcess) -> int:
    """Return the number of replacements that have ended."""
    found = running_gateway(gateway.directory / "data")
    assert found is not None
    return found.ended


@contextmanager
def asking(gateway: GatewayProcess) -> Iterator[list[Response]]:
    """Ask the embedded model all the time. Returns the answers, which are all there at the end."""
    answers: list[Response] = []
    ends = threading.Event()

    def ask() -> None:
        while not ends.is_set():
            answers.append(gateway.ask("Say yes", max_tokens=2))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ends.set()
        thread.join()


def test_the_gateway_starts_without_the_embedded_model(tmp_path: Path, mock: UpstreamProcess) -> None:
    with GatewayProcess(tmp_path, local_model="false") as gateway:
        assert gateway.call("GET", "/api/v1/providers").json == []
        assert gateway.ask().json["code"] == "no_provider"
        gateway.provider("acme", mock.base_url)
    with GatewayProcess(tmp_path, local_model="auto") as gateway:
        assert [provider["name"] for provider in gateway.call("GET", "/api/v1/providers").json] == ["acme"]
        assert "embedded" not in gateway.log
