"""The benchmark beside other gateways: its table, and how a peer is started and called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.machine import Cores
from benchmarks.peers import PEERS, Peer, RunningPeer, Start
from benchmarks.side_by_side import THIS, Calls, Chunks, Measured, side_by_side_text
from benchmarks.targets import TargetFailed

SERVES = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc")


def _python(code: str) -> Peer:
    def start(home: Path, folder: Path, port: int, upstream: int) -> Start:
        return Start([sys.executable, "-c", code], {})

    return Peer("python", "python==3", "Python", start, "/", chooses_port=True)


@pytest.fixture
def installed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `python==3` counts as installed."""
    (tmp_path / "python==3").mkdir()
    (tmp_path / "python==3" / ".installed").touch()
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    return tmp_path


def test_each_peer_is_asked_for_its_own_model_with_its_own_key() -> None:
    asked = {}
    for peer in PEERS:
        job = peer.job(80)
        asked[peer.name] = (job.path, json.loads(job.body)["model"], job.headers["authorization"][:10])
    assert asked == {
        "smg": ("/v1/chat/completions", "gpt-4o-mini", "Bearer sk-"),
        "ferrogw": ("/v1/chat/completions", "gpt-4o-mini", "Bearer fgw"),
        "tensorzero": ("/openai/v1/chat/completions", "tensorzero::model_name::bench", "Bearer sk-"),
        "litellm": ("/v1/chat/completions", "gpt-4o-mini", "Bearer sk-"),
    }


@linux
def test_a_peer_that_chooses_its_port_is_found_there(installed_folder: Path) -> None:
    running = RunningPeer(_python(SERVES), installed_folder / "run", 1, Cores())
    try:
        assert str(running.port) in (installed_folder / "run" / "peer.log").read_text()
    finally:
        running.stop()


@linux
def test_a_peer_that_ends_is_named_with_its_last_words(installed_folder: Path) -> None:
    with pytest.raises(TargetFailed, match=r"(?s)^python did not start\. It printed no address:\n.*no luck"):
        RunningPeer(_python("raise SystemExit('no luck')"), installed_folder / "run", 1, Cores())


def test_the_table_has_each_gateway_and_ratios_round_by_round() -> None:
    ours = Measured(
        "full accounts", 98.0, 120.0, [Calls(3000, 300, 8, 20), Calls(3000, 400, 8, 20)], [Chunks(30, 50, 130)]
    )
    other = Measured(
        "no accounts", 50.0, 60.0, [Calls(4000, 200, 7, 10), Calls(4000, 200, 7, 10)], [Chunks(20, 50, 70)]
    )
    text = side_by_side_text({"smg": other, THIS: ours}, ["a fact"])
    assert "| smg         | no accounts   | 4,000      | 200              | 7.00   | 10.0   | 20.0         | 50" in text
    assert "350 (300 to 400)" in text
    assert "| smg            | 1.75 ×        | 2.00 ×           | 1.50 ×      |" in text
    assert "| 98      | 130       |" in text, "the largest memory counts"
    assert text.endswith("- a fact\n")
    failing = side_by_side_text({THIS: msgspec.structs.replace(ours, failure="3 of 4: 'HTTP/1.1 500'")}, [])
    assert f"- {THIS}: 3 of 4" in failing
