"""The gateway's state over the API: what is running, and the settings without their secrets."""

from __future__ import annotations

import pytest

from llm_gateway import __version__
from tests.application.driver import DEV_KEY, Client
from tests.application.fixtures import Start


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9"])
async def test_the_state_has_all_parts_and_no_secret(start: Start, endpoint: str) -> None:
    async with start(otlp_endpoint=endpoint, webhook_url="https://hooks.example.com/T000", max_in_flight=7) as app:
        client = Client(app)
        await client.call("POST", "/api/v1/people", {"name": "ann", "password": "correct horse battery"})
        response = await client.call("GET", "/api/v1/state")
        made = await client.call("POST", "/api/v1/keys", {"name": "reader", "scopes": ["read"]})
        seen = (await Client(app, made.json["secret"]).call("GET", "/api/v1/state")).json
    state = response.json
    assert (seen["settings"], seen["version"]) == (None, __version__)
    assert (state["version"], state["environment"]) == (__version__, "dev")
    assert state["limits_used"] == []
    assert state["journal"]["quarantined_records"] == 0
    assert state["journal"]["available_bytes"] > 0
    assert state["sign_in"] == {"people": 1, "identity_provider": None, "token_issuer": None}
    telemetry = {"endpoint": endpoint, "is_up": True, "waiting_bytes": 0, "lost_records": 0}
    assert state["telemetry"] == (telemetry if endpoint else None)
    settings = {each["name"]: (each["value"], each["is_default"]) for each in state["settings"]}
    assert settings["LLM_GATEWAY_WEBHOOK_URL"] == ("(secret)", False)
    assert settings["LLM_GATEWAY_MAX_IN_FLIGHT"] == ("7", False)
    assert settings["LLM_GATEWAY_OTLP_HEADERS"] == (None, True)
    assert settings["LLM_GATEWAY_WORKERS"] == ("1", True)
    origins = {each["name"]: each["origin"] for each in state["settings"]}
    assert (origins["LLM_GATEWAY_WORKERS"], origins["LLM_GATEWAY_MAX_IN_FLIGHT"]) == ("default", "other settings")
    assert b"hooks.example.com" not in response.body
    assert DEV_KEY.encode() not in response.body
