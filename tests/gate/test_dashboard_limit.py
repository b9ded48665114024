"""Limits of requests to the dashboard, which come without a key."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from llm_gateway.gate.dashboard_limit import DashboardLimit, DashboardLimits
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext

FORM = b"name=ann"


def body(piece: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": piece, "more_body": more}


class Application:
    """Application whose answers wait for `go`; it keeps the forms and what else it receives."""

    def __init__(self, **limits: float) -> None:
        self.begun = 0
        self.received: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        self._limited = DashboardLimit(self._answer, DashboardLimits(**limits))  # type: ignore[arg-type]

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        if scope["method"] == "POST":
            self.received += [await receive(), await receive()]
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def call(
        self, method: str, path: str, *messages: dict[str, Any], address: str = "::1"
    ) -> tuple[int | None, str]:
        """Send one request. Returns the status and the error's sentence; after its messages the client only waits."""
        sent = await self.exchange(method, path, *messages, address=address)
        if not sent:
            return None, ""
        problem = msgspec.json.decode(sent[1]["body"]) if len(sent) > 1 else {}
        return sent[0]["status"], problem.get("detail", "")

    async def exchange(
        self, method: str, path: str, *messages: dict[str, Any], address: str = "::1", **headers: str
    ) -> list[Any]:
        """Send one request with headers. Returns the messages of its response."""
        waiting = list(messages)
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        context = RequestContext(NOBODY, "id", None, b"id", {}, lambda *_, **__: None)
        scope = {"type": "http", "method": method, "path": path, REQUEST_CONTEXT: context}
        scope["headers"] = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope["client"] = (address, 1)
        await self._limited(scope, receive, send)
        return sent

    async def begins(self, number: int) -> None:
        """Wait until so many requests have reached the application."""
        async with asyncio.timeout(5):
            while self.begun < number:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)


async def test_the_dashboard_has_places_of_its_own_and_leaves_the_others() -> None:
    app = Application(requests=2)
    waiting = [asyncio.create_task(app.call("GET", path)) for path in ("/ui", "/ui/keys")]
    await app.begins(2)
    status, sentence = await app.call("GET", "/ui/spend")
    assert (status, "2 requests to the dashboard" in sentence) == (503, True)
    others = [asyncio.create_task(app.call("GET", path)) for path in ("/api/v1/keys", "/uikeys", "/docs")]
    await app.begins(5)
    app.go.set()
    assert {status for status, _ in await asyncio.gather(*waiting, *others)} == {200}
    assert (await app.call("GET", "/ui"))[0] == 200


async def test_a_form_takes_no_place_until_it_is_complete() -> None:
    app = Application(requests=1, forms=2, form_bytes=100)
    app.go.set()
    slow = [asyncio.create_task(app.call("POST", "/ui/sign-in", body(b"n", more=True))) for _ in range(2)]
    await asyncio.sleep(0)
    assert (await app.call("GET", "/ui"))[0] == 200
    status, sentence = await app.call("POST", "/ui/sign-in", body(FORM))
    assert (status, "2 forms" in sentence) == (503, True)
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    gone = {"type": "http.disconnect"}
    assert (await app.call("POST", "/ui/sign-in", body(FORM[:4], more=True), body(FORM[4:]), gone))[0] == 200
    assert app.received == [body(FORM), gone]
    assert await app.call("POST", "/ui/sign-in", body(b"n", more=True), gone) == (None, "")
    status, sentence = await app.call("POST", "/ui/sign-in", body(b"x" * 101))
    assert (status, "send less" in sentence) == (413, True)
    assert len(app.received) == 2


async def test_sign_ins_and_forms_of_one_address_leave_the_others_their_places() -> None:
    app = Application(sign_ins=1, forms_of_address=1)
    waiting = [asyncio.create_task(app.call("GET", "/ui/sign-in"))]
    await app.begins(1)
    status, sentence = await app.call("GET", "/ui/sign-in/oidc/callback")
    assert (status, "1 sign-ins are being served" in sentence) == (503, True)
    waiting.append(asyncio.create_task(app.call("GET", "/ui")))
    await app.begins(2)
    app.go.set()
    assert {status for status, _ in await asyncio.gather(*waiting)} == {200}
    slow = asyncio.create_task(app.call("POST", "/ui/teams", body(b"n", more=True), address="2001:db8::1"))
    await asyncio.sleep(0)
    gone = {"type": "http.disconnect"}
    for address, expected in (("2001:db8::2", 503), ("2001:db8:0:1::1", 200), ("192.0.2.1", 200)):
        assert (await app.call("POST", "/ui/teams", body(FORM), gone, address=address))[0] == expected, address
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert (await app.call("POST", "/ui/teams", body(FORM), gone, address="2001:db8::2"))[0] == 200


async def test_a_form_that_does_not_arrive_in_time_is_refused() -> None:
    app = Application(form_s=0.01)
    status, sentence = await app.call("POST", "/ui/teams", body(b"n", more=True))
    assert (status, sentence) == (400, "The form did not arrive within 0.01 seconds: send it again.")
    assert app.begun == 0


async def test_a_browser_that_is_refused_gets_a_page_that_tries_again_and_a_script_a_part() -> None:
    app = Application(requests=0, form_bytes=10)
    browser = {"accept": "text/html,application/xhtml+xml"}
    start, page = await app.exchange("GET", "/ui/spend", **browser)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (503, b"text/html; charset=utf-8")
    assert headers[b"retry-after"] == b"1"
    assert b"default-src 'none'" in headers[b"content-security-policy"]
    assert any(b'http-equiv="refresh" content="%d"' % seconds in page["body"] for seconds in (1, 2, 3))
    assert b"0 requests to the dashboard" in page["body"]
    for form, status, words in ((FORM, 503, b"sends the form again"), (2 * FORM, 413, b"larger than 10 bytes")):
        start, page = await app.exchange("POST", "/ui/keys", body(form), **browser)
        assert (start["status"], words in page["body"], b"refresh" in page["body"]) == (status, True, False)
    assert (b"connection", b"close") in start["headers"]
    _, part = await app.exchange("GET", "/ui/teams", hx_request="true", accept="*/*")
    assert part["body"].startswith(b'<div class="notice bad"')
    start, _ = await app.exchange("GET", "/ui/spend", accept="*/*")
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
