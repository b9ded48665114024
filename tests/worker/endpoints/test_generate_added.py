"""POST /api/v1/generate beyond the reference: null in the added fields, and query parameters."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import Text, Turn
from tests.application.driver import Client, assert_problem
from tests.application.straight_line import LEAST, PATH, World


async def test_null_is_the_absence_of_each_field_that_the_reference_does_not_have() -> None:
    world = World()
    messages = [{"role": "user", "content": "Hello"}]
    added: dict[str, Any] = {"model": None, "messages": None, "stream": None}
    for body in (LEAST | added, {**LEAST, **added, "prompt": None, "messages": messages}):
        assert (await world.post(body)).status == 200
        request = world.gateway.requests[-1]
        assert (request.requested_model, request.stream) == (None, False)
        assert request.client_request.conversation.turns == [Turn(role="user", parts=[Text(text="Hello")])]
    for nothing in ({"prompt": None}, {"prompt": None, "messages": None}):
        problem = assert_problem(await world.post({**LEAST, **nothing}), 422, "validation_error")
        assert problem["detail"] == "prompt is required."


async def test_a_path_without_query_parameters_refuses_them(client: Client) -> None:
    """`?stream=true` is a field in the wrong place, and would be ignored without a word."""
    for path in (PATH, "/api/v1/routing/explain"):
        for query in ("stream=true", "_=1", "x"):
            problem = assert_problem(await client.call("POST", f"{path}?{query}", {}), 422, "validation_error")
            name = query.partition("=")[0]
            assert problem["detail"] == f"{name} is not a query parameter of this path, which takes none."
            assert problem["errors"][0]["loc"] == ["query", name]
    explained = {"path": f"{PATH}?stream=true", "body": LEAST}
    problem = assert_problem(await client.call("POST", "/api/v1/routing/explain", explained), 422, "validation_error")
    assert "stream is not a query parameter" in problem["detail"]
    vendors = await client.call("POST", "/v1/messages?beta=true", {})
    assert "query parameter" not in vendors.body.decode(), "vendors' SDKs send some"
