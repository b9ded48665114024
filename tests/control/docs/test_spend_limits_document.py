"""The OpenAPI document's spend limits, a part of Anthropic's Admin API, match the running gateway's responses."""

from __future__ import annotations

from typing import Any

from tests.application.driver import Client
from tests.control.docs.document import ONE_LIMIT, SPEND_LIMITS, assert_described, body_schema, valid


async def test_responses_for_spend_limits_match_the_document(client: Client, document: Any) -> None:
    nobody, scope = Client(client.app, key=None), {"type": "user", "user_id": "ann"}

    async def call(method: str, path: str, body: object = b"", *, by: Client = client, place: str = "") -> Any:
        response = await by.call(method, place or path, body)
        assert_described(document, method, path, response)
        return response

    made = await call("POST", SPEND_LIMITS, {"scope": scope, "amount": "700"})
    await call("POST", SPEND_LIMITS, {"scope": {"type": "organization"}, "amount": "50"})
    place = f"{SPEND_LIMITS}/{made.json['id']}"
    listed = await call("GET", SPEND_LIMITS, place=f"{SPEND_LIMITS}?limit=1")
    answers = [
        await call("POST", SPEND_LIMITS, {"scope": scope, "amount": "0"}),
        await call("POST", SPEND_LIMITS, b"{"),
        await call("POST", SPEND_LIMITS, {}, by=nobody),
        await call("GET", SPEND_LIMITS, place=f"{SPEND_LIMITS}?limit=0"),
        await call("GET", SPEND_LIMITS, place=f"{SPEND_LIMITS}?page=x"),
        await call("GET", ONE_LIMIT, place=place),
        await call("GET", ONE_LIMIT, place=f"{SPEND_LIMITS}/x"),
        await call("DELETE", ONE_LIMIT, place=place),
        await call("DELETE", ONE_LIMIT, place=place),
    ]

    assert (made.status, listed.status, len(listed.json["data"])) == (200, 200, 1)
    assert [each.status for each in answers] == [400, 400, 401, 400, 404, 200, 404, 200, 404]
    for body in ({"scope": scope}, {"scope": scope, "amount": 5}, {"scope": scope, "amount": "5", "x": 1}):
        assert not valid(document, body_schema(document, "post", SPEND_LIMITS), body)
