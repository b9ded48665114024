"""Requests for the dashboard's pages and their rendering: templates, forms, and the headers that protect a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode
from zoneinfo import ZoneInfo

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from llm_gateway import __version__
from llm_gateway.dashboard.access import Access, SignedIn
from llm_gateway.dashboard.api_client import ApiClient, ApiError
from llm_gateway.dashboard.formats import FILTERS, usd
from llm_gateway.dashboard.static_files import static_files
from llm_gateway.gate.request_context import Person
from llm_gateway.gate.reverse_proxy import called_host

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
NAVIGATION = (
    ("", "Overview", "own", "o"),
    ("requests", "Requests", "own", "r"),
    ("spend", "Spend", "own", "s"),
    ("keys", "Keys and teams", "read", "k"),
    ("me", "My key", "call", "m"),
    ("budgets", "Budgets", "read", "b"),
    ("providers", "Providers", "read", "p"),
    ("routing", "Routing", "read", "t"),
    ("playground", "Playground", "call", "y"),
    ("prices", "Prices", "read", "c"),
    ("alerts", "Alerts", "read", "a"),
    ("audit", "Audit", "admin", "u"),
    ("health", "Health", "read", "h"),
    ("people", "People", "admin", "e"),
    ("sessions", "Signed in", "own", "i"),
)
"""Path below /ui and name of each screen, the scope that it needs, and its letter after the key g; `read` includes
`own`."""
SHORTCUTS = (
    (("?",), "This list"),
    (("j", "k"), "Next row, row before; Enter opens it, Escape closes it"),
    (("/",), "To the filters"),
    (("n",), "Next page of the table"),
    (("l",), "Follow new requests, or stop"),
    (("a",), "To the form for a new one"),
    (("1", "5"), "The first to the last of the periods"),
)
"""Keys and what they do; `static/shortcuts.js` has them."""
CHANGED, UNDONE = "changed", "undone"
"""Parameters of a page's address: the request that made a change, and that one was undone."""
MOST_FORM_BYTES = 256 * 1024


class Form(dict[str, str]):
    """Fields of a form; one that is missing is empty, so that templates need not ask."""

    def __missing__(self, name: str) -> str:
        """Return the value of a missing field."""
        return ""


class Toast(NamedTuple):
    """Message of a page about the change that was just made, and the id of its request if it can be undone."""

    words: str
    change: str | None


class Pages:
    """Renders templates. `root` is the prefix at which a proxy serves the gateway."""

    def __init__(self, root: str = "") -> None:
        self._environment = template_environment(root)
        self.root = root

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page as a response."""
        return HTMLResponse(self._environment.get_template(template).render(values), status, headers=HEADERS)

    def redirect(self, path: str) -> Response:
        """Return a response that sends the browser to a path below /ui, with GET."""
        return RedirectResponse(f"{self.root}/ui{path}", 303, headers=HEADERS)


@cache
def template_environment(root: str) -> Environment:
    """Return the environment of all templates; a process reads them once, and compiles each when it is first used."""
    files = static_files()
    folder = resources.files("llm_gateway.dashboard").joinpath("templates")
    sources = {each.name: each.read_text("utf-8") for each in folder.iterdir() if each.name.endswith(".html")}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(FILTERS)
    environment.filters["path"] = lambda value: quote(str(value), safe="")
    environment.filters["json"] = lambda value: Markup(json.dumps(value).replace("<", "\\u003c"))  # noqa: S704
    environment.globals.update(
        ui=f"{root}/ui",
        root=root,
        static=lambda name: f"{root}/ui/static/{name}?{files.version(name)}",
        version=__version__,
        usd=usd,
    )
    return environment


class Page:
    """A request of a person who is signed in. `api` makes requests with their rights."""

    def __init__(self, request: Request, pages: Pages, signed_in: SignedIn, api: ApiClient, access: Access) -> None:
        self.request = request
        self.api = api
        self.access = access
        self.signed_in = signed_in
        self.timezone = signed_in.session.timezone
        self.toast: Toast | None = None
        self._parameters: dict[tuple[str, str | int | None], str] = {}
        self._pages = pages

    @property
    def is_fragment(self) -> bool:
        """Whether the page's script asks for a part of the page, to put it into the page that is open."""
        return "hx-request" in self.request.headers

    def given(self, name: str, default: str = "") -> str:
        """Return a parameter of the address."""
        return self.request.query_params.get(name, default).strip()

    @property
    def is_of_customer(self) -> bool:
        """Whether the person sees the usage of one customer only, which reports sum from records."""
        caller = self.signed_in.caller
        return isinstance(caller, Person) and caller.customer is not None and not self.may("read")

    def may(self, scope: str) -> bool:
        """Return whether the person has a scope. `admin` includes all others, and `read` includes `own`."""
        scopes = self.signed_in.caller.scopes
        return scope in scopes or "admin" in scopes or (scope == "own" and "read" in scopes)

    def _sees(self, path: str, scope: str) -> bool:
        """Return whether a screen is in the navigation. Who may only make calls sees that of the own key alone."""
        if path == "me":
            return not isinstance(self.signed_in.caller, Person)  # people have no key
        return self.may(scope) and self.may("own")

    @property
    def origin(self) -> str:
        """The gateway's address without a path, as the browser called it."""
        headers = self.request.headers
        host = called_host(headers.get("host", ""), headers.get("x-forwarded-host", ""))
        return f"{self.request.url.scheme}://{host}{self._pages.root}"

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page, or a part of one."""
        return self._pages.render(
            template,
            status,
            here=self.request.url.path.removeprefix("/ui").strip("/").partition("/")[0],
            person=self.signed_in.session.key_name,
            may_change=self.may("admin"),
            may_read=self.may("read"),
            navigation=[(path, name, letter) for path, name, scope, letter in NAVIGATION if self._sees(path, scope)],
            shortcuts=SHORTCUTS,
            timezone=self.timezone,
            toast=self.toast,
            **values,
        )

    def redirect(self, path: str) -> Response:
        """Return a response that sends the browser to a path below /ui."""
        return self._pages.redirect(path)

    def redirect_changed(self, path: str) -> Response:
        """Return a response that sends the browser to a page which says that the change was made, and can undo it."""
        return self.redirect(with_parameter(path, CHANGED, self.api.written or ""))

    def refused(self, error: ApiError) -> Response:
        """Return a page that shows what the API said."""
        template = "fragment_error.html" if self.is_fragment else "error.html"
        url = self.request.url
        is_of_address = error.status == 422 and self.request.method in ("GET", "HEAD") and url.query
        plain = f"{self._pages.root}{url.path}" if is_of_address else None
        return self.render(template, error.status, title=error.title, problem=error, plain=plain)

    async def form(self) -> Form:
        """Return the fields of the form that was sent; of a repeated field, the values are separated by a comma.

        Raises:
            ApiError: it is too large.
        """
        return await read_form(self.request)

    def moment(self, text: str) -> str:
        """Return a moment as the API takes it: that of a browser's field, on the person's clock.

        A text that is no moment is returned as it is: the API says what is wrong with it.
        """
        try:
            return datetime.fromisoformat(text.strip()).replace(tzinfo=ZoneInfo(self.timezone)).isoformat()
        except ValueError:
            return text

    def link(self, path: str, query: Mapping[str, str | int | None]) -> str:
        """Return the address of a path below /ui with those parameters that are not empty."""
        given = "&".join(self._parameter(pair) for pair in query.items() if pair[1] not in (None, ""))
        return f"{self._pages.root}/ui{path}" + (f"?{given}" if given else "")

    def _parameter(self, pair: tuple[str, str | int | None]) -> str:
        """Return a parameter encoded. A chart has hundreds of addresses of the same few parameters."""
        found = self._parameters.get(pair)
        if found is None:
            found = self._parameters[pair] = urlencode([pair])
        return found


def with_parameter(path: str, name: str, value: str) -> str:
    """Return a path below /ui, which may have a fragment, with a parameter."""
    place, hash_sign, fragment = path.partition("#")
    return f"{place}?{urlencode({name: value})}{hash_sign}{fragment}"


async def read_form(request: Request) -> Form:
    """Return the fields of a form that a browser sent as `application/x-www-form-urlencoded`.

    Raises:
        ApiError: it is larger than 256 KiB, or not text.
    """
    return form_of(await read_body(request, MOST_FORM_BYTES))


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request.

    Raises:
        ApiError: it has more than `most` bytes.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise ApiError(413, "Too large", f"The form is larger than {most} bytes: send less.")
    return bytes(body)


def form_of(body: bytes) -> Form:
    """Return the fields of a form; the values of a repeated one are separated by a comma.

    Raises:
        ApiError: it is not text.
    """
    fields = Form()
    try:
        for name, value in parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=500):
            fields[name] = f"{fields[name]},{value}" if name in fields else value
    except (UnicodeDecodeError, ValueError):
        raise ApiError(400, "Not a form", "The form cannot be read: send it from the page again.") from None
    return fields
