"""FastAPI application of the management API, with the gateway's limits of request bodies and its error format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_gateway import __version__
from llm_gateway.control.docs.encoded import encoded_document
from llm_gateway.control.docs.routes import docs_router
from llm_gateway.control.management.field_errors import place_of, sentence
from llm_gateway.control.management.router import Router
from llm_gateway.domain.audit import Actor, acting
from llm_gateway.error_format.json_problem import not_an_object, not_json
from llm_gateway.error_format.paths import nothing_at
from llm_gateway.error_format.responses import JSON, PROBLEM, error_headers, problem_of
from llm_gateway.error_format.send_error import send_error, status_of
from llm_gateway.error_format.validation import MOST_ERRORS
from llm_gateway.errors import GatewayError, Invalid, MethodNotAllowed, NotFound
from llm_gateway.gate.body import WITH_BODY, ClientGone, read_body, refuse_compressed
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.gate.request_context import (
    REQUEST_CONTEXT,
    Caller,
    Person,
    RequestContext,
    defect,
    log_defect,
    log_error,
)
from llm_gateway.gate.value_limit import check_number_of_values
from llm_gateway.protocols.registry import MANAGEMENT_PREFIXES, protocol_of
from llm_gateway.suggestions import if_meant

CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
MOST_FIELDS = 100
"""Maximum number of a body's fields, more than any request has. Validating 300,000 unknown ones would block the event
loop for other requests."""


def build_management(
    routers: Iterable[Router],
    log: Callable[..., None],
    in_flight: InFlight,
    pending: Callable[[], Sequence[str]] = lambda: (),
    root_path: str = "",
) -> ASGIApp:
    """Build the management API as an ASGI application. Errors are sent as problem details (RFC 9457).

    `pending` returns the workers that do not apply the newest configuration yet. A proxy serves all at `root_path`.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.root_path = root_path  # for addresses in responses
    routes: list[APIRoute] = []
    document = docs_router(lambda: encoded_document(app.routes, __version__, root_path))
    for router in (*routers, document):
        routes.extend(route for route in router.routes if isinstance(route, APIRoute))
    app.router.routes.extend(routes)  # including a router would build each of its routes a second time

    async def on_gateway_error(request: Request, error: Exception) -> Response:
        return _rendered(request, cast(GatewayError, error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        path = request.scope["path"]  # decoded, unlike request.url.path
        return _rendered(request, _translated(cast(HTTPException, error), routes, path))

    async def on_validation_error(request: Request, error: Exception) -> Response:
        return _rendered(request, _unfit(cast(RequestValidationError, error), _body_fields(request)))

    async def on_defect(request: Request, _: Exception) -> Response:
        # Starlette raises the exception again after this response; Bounded logs it.
        return _rendered(request, defect(request.scope[REQUEST_CONTEXT]))

    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(Exception, on_defect)
    return Bounded(app, routes, in_flight, log, pending)


class Bounded:
    """ASGI middleware that reads the request body within limits, checks that it is JSON, and passes it on re-encoded.

    Bodies of GET, HEAD and DELETE are not read, so that they take no memory; the HTTP server drops them. A path or
    method without a route gets its 404 or 405 even if the body is not valid.

    HEAD is handled as GET; the HTTP server drops the content (RFC 9110, section 9.3.2).

    Changes are those of the request's key in the audit trail.

    The response to a change names the workers that do not apply it yet in the header `x-gateway-pending-workers`.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: list[APIRoute],
        in_flight: InFlight,
        log: Callable[..., None],
        pending: Callable[[], Sequence[str]],
    ) -> None:
        self._app = app
        self._routes = routes
        self._in_flight = in_flight
        self._log = log
        self._pending = pending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        method, started = scope["method"], False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.append("x-request-id", context.echo.decode())
                if method in CHANGES and message["status"] < 300 and (names := self._pending()):
                    headers.append("x-gateway-pending-workers", ", ".join(names))
            await send(message)

        try:
            body = await self._body(scope, receive) if method in WITH_BODY else b""
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            inner = {**scope, "method": "GET" if method == "HEAD" else method, "headers": headers}
            with acting(_actor_of(scope)):
                await self._app(inner, _replay(body, receive), send_with_id)
        except GatewayError as error:
            await send_error(send, scope, error)
        except ClientGone:
            return
        except Exception as error:  # edge: a defect of the gateway: the client gets the request id, the log the cause
            log_defect(self._log, context, error)
            if not started:
                await send_error(send, scope, defect(context))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        context: RequestContext = scope[REQUEST_CONTEXT]
        refuse_compressed(context.headers)
        body = await read_body(receive, self._in_flight)
        self._in_flight.release(len(body))  # counted only while it is read: it is decoded at once
        await check_number_of_values(body)
        if any(route.matches(scope)[0] is Match.FULL for route in self._routes):
            return _normalised(bytes(body))
        return b""


def _actor_of(scope: Scope) -> Actor:
    context: RequestContext = scope[REQUEST_CONTEXT]
    client = scope.get("client")
    return Actor(_actors_name(context.caller), context.caller.key_id, client[0] if client else "", context.request_id)


def _actors_name(caller: Caller) -> str:
    """Return the caller's name for the audit trail, where a person of an identity provider is its subject first.

    People can change their names there; the subject names them for good (OpenID Connect Core 1.0, section 5.7).
    """
    if not isinstance(caller, Person) or caller.identity is None:
        return caller.name
    kind, _, name = caller.name.partition(":")
    subject = caller.identity.subject
    return f"{kind}:{subject}" if name == subject else f"{kind}:{subject} ({name})"


def _rendered(request: Request, error: GatewayError) -> Response:
    """Log an error, and return its response: a problem document, or the vendor's own on paths in a vendor's shape."""
    context: RequestContext = request.scope[REQUEST_CONTEXT]
    path, echo = request.scope["path"], context.echo.decode()
    if path.startswith(MANAGEMENT_PREFIXES):
        status, media_type = status_of(error), JSON.decode()
        body = protocol_of(path, context.headers, b"").write_error(error, echo)
    else:
        status, media_type = error.status, PROBLEM.decode()
        body = msgspec.json.encode(problem_of(error, echo))
    log_error(request.scope, error, status)
    response = Response(body, status, media_type=media_type)
    response.headers.update({name.decode(): value.decode() for name, value in error_headers(error)})
    return response


def _normalised(body: bytes) -> bytes:
    if not body:
        return body
    try:
        decoded = msgspec.json.decode(body)
        if isinstance(decoded, dict) and len(decoded) > MOST_FIELDS:
            raise Invalid(
                f"The body has {len(decoded)} fields, but no request takes more than {MOST_FIELDS}: send only fields "
                "of this request."
            )
        return msgspec.json.encode(decoded)
    except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError) as error:
        raise not_json(body, error) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def replayed() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replayed


def _translated(error: HTTPException, routes: list[APIRoute], path: str) -> GatewayError:
    if error.status_code == 404:
        return NotFound(nothing_at(path))
    if error.status_code == 405:
        allow = _methods(error, routes, path)
        return MethodNotAllowed(f"This path takes {', '.join(allow) or 'other methods'} only.", allow=allow)
    return Invalid(str(error.detail))


def _methods(error: HTTPException, routes: list[APIRoute], path: str) -> tuple[str, ...]:
    """Return the methods of all routes of the path. Starlette's error names only those of the first route."""
    named = {method.strip() for method in (error.headers or {}).get("Allow", "").split(",")}
    named.update(method for route in routes if route.path_regex.fullmatch(path) for method in route.methods or ())
    if "GET" in named:
        named.add("HEAD")
    return tuple(sorted(named - {""}))


def _unfit(error: RequestValidationError, known: Sequence[str]) -> Invalid:
    """Return an error that lists all errors of a request; `known` are the names of its body's fields."""
    return Invalid.all_of([_mistake(found, known) for found in error.errors()[:MOST_ERRORS]])


def _mistake(found: dict[str, Any], known: Sequence[str]) -> Invalid:
    loc, kind = place_of(found), found["type"]
    if len(loc) == 1:
        return not_json(b"", ValueError()) if kind == "missing" else not_an_object(found["input"])
    where = ".".join(str(part) for part in loc[1:]) or "''"
    if kind == "missing":
        told = f"{where} is required."
    elif kind == "extra_forbidden":
        told = f"{where} is not a field of this request.{if_meant(str(loc[-1]), known)}"
    else:
        told = sentence(where, found)
    return Invalid(told, loc=loc, kind=kind)


def _body_fields(request: Request) -> list[str]:
    """Return the names of the fields that the body of this request can have."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or route.body_field is None:
        return []
    return list(getattr(route.body_field.field_info.annotation, "model_fields", ()))
