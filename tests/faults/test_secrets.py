"""No key or prompt leaves the gateway through failures of every kind, a kill and a replay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import BROKEN, Client
from tests.faults.conftest import Note
from tests.faults.scene import Scene

KEYS = {name: f"cAnArY-{name}-4f2c9e71d8" for name in ("first", "second", "rotated")}
PROMPT = "cAnArY-prompt-5a1be07733"
FAULTS = ("leak", "status-500", "reset", "half", "bad-json", "not-json-content", "no-usage", "echo")
ENDPOINTS = (
    "/api/v1/health", "/api/v1/health/providers", "/api/v1/providers", "/api/v1/overrides", "/api/v1/usage/summary",
    "/api/v1/usage/by-provider", "/api/v1/usage/by-service", "/api/v1/usage/by-customer", "/metrics", "/nowhere",
    "/openapi.json",
)  # fmt: skip


async def ask_for_every_fault(gateway: GatewayProcess) -> list[bytes]:
    """Send requests to every fault. Returns the answers without their content, which may echo the client's prompt."""
    told = []
    client = Client(gateway.port)
    for number in range(2 * len(FAULTS)):
        answer = await client.generate(f"{PROMPT}.{number}", "customer", json_mode=number % 2 == 0)
        told.append(str(answer.headers).encode())
        if answer.status != 200:
            told.append(answer.body)
    client.close()
    return told


async def kill_in_mid_call(gateway: GatewayProcess) -> None:
    """Kill the gateway during calls, so that its journal holds intents only."""
    client = Client(gateway.port)
    call = asyncio.create_task(client.generate(f"{PROMPT}.killed", "customer"))
    await asyncio.sleep(0.2)
    gateway.kill()
    with pytest.raises(BROKEN):
        await call
    client.close()


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.fault("secrets and prompts", "canaries as keys and prompts; failures that quote them, a kill and a replay")
async def test_no_key_or_prompt_is_in_any_answer_file_or_log(scene: Scene, note: Note) -> None:
    texts: dict[str, bytes] = {}
    with scene.gateway(log_level="debug") as gateway:
        for number, fault in enumerate(FAULTS):
            scene_key = KEYS["first"] if number % 2 else KEYS["second"]
            gateway.provider(f"p{number}", scene.mock.base_url, fault, api_key=scene_key)
        told = await ask_for_every_fault(gateway)
        path = gateway.provider("rotating", scene.mock.base_url, "leak", priority=99, api_key=KEYS["first"])
        rotated = gateway.call("PATCH", path, {"api_key": KEYS["rotated"]})
        told += [rotated.body, gateway.call("POST", f"{path}/test").body, *await ask_for_every_fault(gateway)]
        told += [gateway.call("GET", endpoint).body for endpoint in ENDPOINTS]
        stalling = gateway.provider("stalling", scene.mock.base_url, "stall", priority=100, api_key=KEYS["second"])
        await kill_in_mid_call(gateway)
        texts |= files(scene.data)
    with scene.gateway(log_level="debug") as gateway:
        told += [gateway.call("GET", stalling).body, *(gateway.call("GET", endpoint).body for endpoint in ENDPOINTS)]
    texts |= files(scene.data) | {file.name: file.read_bytes() for file in scene.directory.glob("gateway-*.log")}
    assert {call.key for call in scene.mock.seen().calls} >= set(KEYS.values())  # the keys were really sent
    assert any("gateway.db" in name for name in texts)
    assert any(name.endswith(".seg") for name in texts)
    for canary in (*KEYS.values(), PROMPT):
        found = [name for name, text in texts.items() if canary.encode() in text]
        assert not found, f"{canary} is in {found}"
        assert not [text for text in told if canary.encode() in text], canary
    size = sum(map(len, texts.values()))
    note(
        f"{len(told)} answers and {len(texts)} files ({size / 1e6:.0f} MB: database, journal, logs) read: "
        f"0 of {len(KEYS)} keys and no prompt in them"
    )
