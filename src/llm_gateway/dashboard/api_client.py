"""Call the management API in the same process, as the person who is signed in, with that person's rights.

The dashboard can do nothing that the API cannot: each page is made of responses that the person would get with a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Forbidden
from llm_gateway.gate.authentication import check_scope
from llm_gateway.gate.request_context import REQUEST_CONTEXT, Caller, RequestContext

Query: TypeAlias = Mapping[str, str | int | None]
API = "/api/v1"


class ApiError(Exception):
    """The API refused a request. `detail` is its sentence, `fields` the sentences of single fields."""

    def __init__(self, status: int, title: str, detail: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.fields = dict(fields or {})

    @property
    def is_about_form(self) -> bool:
        """Whether the person can mend it in the form: a field is not valid, or something has this name already."""
        return self.status in (409, 413, 422)


class ApiClient:
    """Calls of the management API `app` as `caller`, whose address is `client`.

    `written` is the id of the last request that may have changed something, as the audit trail names it.
    """

    def __init__(self, app: ASGIApp, caller: Caller, client: tuple[str, int] | None, log: Callable[..., None]) -> None:
        self._app = app
        self._caller = caller
        self._client = client
        self._log = log
        self.written: str | None = None

    def with_own_usage(self) -> ApiClient:
        """Return a client that may also read usage of the person's own key, which its page shows to any key."""
        return self._with("own")

    def with_own_account(self) -> ApiClient:
        """Return a client for the person's own account, whose password must have been checked before it changes."""
        return self._with("admin")

    def _with(self, scope: str) -> ApiClient:
        caller = msgspec.structs.replace(self._caller, scopes=self._caller.scopes | {scope})
        return ApiClient(self._app, caller, self._client, self._log)

    async def get(self, path: str, query: Query | None = None) -> Any:
        """Return the decoded response to a GET of a path below /api/v1.

        Raises:
            ApiError: the API refused it.
        """
        return await self.send("GET", path, query=query)

    async def get_all(self, calls: Iterable[tuple[str, Query | None]]) -> list[Any]:
        """Return the decoded responses to several GETs, made at once.

        Raises:
            ApiError: the API refused one of them.
        """
        return await asyncio.gather(*(self.get(path, query) for path, query in calls))

    async def send(self, method: str, path: str, body: object = None, query: Query | None = None) -> Any:
        """Return the decoded response to a request; None if it has no content.

        Raises:
            ApiError: the API refused it.
        """
        content = b"" if body is None else msgspec.json.encode(body)
        response = _Collected()
        scope = self._scope(method, path, query)
        await self._app(scope, _receive(content), response)
        if response.status >= 400:
            raise _error(response.status, bytes(response.body))
        if method != "GET":
            self.written = scope[REQUEST_CONTEXT].request_id
        return msgspec.json.decode(response.body) if response.body else None

    async def relay(self, path: str, query: Query | None, send: Send) -> None:
        """Send the response to a GET on to the browser as it comes, such as a file to save.

        Raises:
            ApiError: the person may not make this request.
        """
        await self._app(self._scope("GET", path, query), _receive(b""), send)

    def _scope(self, method: str, path: str, query: Query | None) -> Scope:
        request_id = new_id()
        headers: dict[bytes, bytes] = {b"host": b"dashboard"}
        context = RequestContext(self._caller, request_id, None, request_id.encode(), headers, self._log)
        given = [(name, str(value)) for name, value in (query or {}).items() if value not in (None, "")]
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": API + path,
            "raw_path": quote(API + path).encode(),
            "query_string": urlencode(given).encode(),
            "root_path": "",
            "headers": list(headers.items()),
            "client": self._client,
            "server": None,
            REQUEST_CONTEXT: context,
        }
        try:
            check_scope(self._caller, scope)
        except Forbidden as error:
            raise ApiError(403, "Not allowed", error.detail) from None
        return scope


class _Collected:
    """A response whose parts are collected (an ASGI `send`)."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take one message of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


def _receive(content: bytes) -> Receive:
    """Return an ASGI `receive` of a request with this body, whose client stays."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


def _error(status: int, body: bytes) -> ApiError:
    try:
        problem = msgspec.json.decode(body)
    except msgspec.DecodeError:
        problem = {}
    fields = {str(each["loc"][-1]): each["msg"] for each in problem.get("errors", []) if each.get("loc")}
    title = problem.get("title") or f"Status {status}"
    return ApiError(status, title, problem.get("detail") or "The API did not say why.", fields)
