"""Browser without scripts: it keeps cookies, follows no redirect, and sends forms as pages of the dashboard do."""

from __future__ import annotations

import itertools
import re
from html import unescape
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

from tests.application.driver import DEV_KEY, Client, Response, exchange

SUBSCRIBERS = itertools.count(1)
PASSWORD = "correct horse battery"
OWN = "http://localhost:8200"


class Browser:
    """A browser of the dashboard in `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.cookie = ""
        self.address = f"2001:db8:{next(SUBSCRIBERS):x}::1"  # so that failures of one are not those of another

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Response:
        """Open a page."""
        return await self._send("GET", path, b"", headers or {})

    async def post(
        self, path: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        """Send a form."""
        own = {"content-type": "application/x-www-form-urlencoded", "origin": OWN, "sec-fetch-site": "same-origin"}
        return await self._send("POST", path, urlencode(form or {}).encode(), {**own, **(headers or {})})

    async def sign_in(self, key: str = DEV_KEY) -> Response:
        """Sign in with a key."""
        return await self.post("/ui/sign-in", {"key": key, "timezone": "Europe/Berlin"})

    async def sign_in_as(self, name: str, password: str) -> Response:
        """Sign in with a name and a password."""
        return await self.post("/ui/sign-in", {"name": name, "password": password, "timezone": "Europe/Berlin"})

    def _take(self, cookie: str) -> None:
        """Keep a cookie in the place of one with its name; an empty one deletes that."""
        name, _, value = cookie.partition("=")
        kept = [each for each in self.cookie.split("; ") if each and not each.startswith(f"{name}=")]
        self.cookie = "; ".join(kept if value in ("", '""') else [*kept, cookie])

    async def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Response:
        given = {"host": "localhost:8200", "content-length": str(len(body)), **headers}
        if self.cookie:
            given["cookie"] = self.cookie
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        response = await exchange(self.app, method, path, given.items(), messages, self.address)
        for line in response.headers.get("set-cookie", "").splitlines():
            self._take(line.partition(";")[0])
        return response


async def key_with(client: Client, *scopes: str) -> str:
    """Return the secret of a new key, whose name is its scopes."""
    response = await client.call("POST", "/api/v1/keys", {"name": "-".join(scopes), "scopes": scopes})
    assert response.status == 201, response.body
    return str(response.json["secret"])


async def person(client: Client, name: str, **fields: str) -> str:
    """Make a person whose password is PASSWORD. Returns its id."""
    response = await client.call("POST", "/api/v1/people", {"name": name, "password": PASSWORD, **fields})
    assert response.status == 201, response.body
    return str(response.json["id"])


def text_of(response: Response) -> str:
    """Return what a person reads on a page: its text without tags, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", response.body.decode())).split())
