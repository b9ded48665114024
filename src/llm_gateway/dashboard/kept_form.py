"""Keep a form whose session has ended in the pages of the sign-in, so that it can be sent afterwards."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qsl

from llm_gateway.dashboard.page import Form

HIDDEN = ("key", "password", "secret")
"""Parts of names of fields whose value the page does not show."""
URL = "url"
"""The field with a receiver's URL, which can have a token in it: it is not shown either."""


class KeptForm(NamedTuple):
    """The path below /ui that a form was sent to, and its fields as the browser sent them, in base64."""

    path: str
    content: str

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The names and values of the fields; none if they cannot be read."""
        try:
            body = urlsafe_b64decode(self.content + "=" * (-len(self.content) % 4))
            return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=500)
        except (NotBase64, ValueError):
            return []

    @property
    def shown(self) -> list[tuple[str, str]]:
        """The fields as the page shows them: those with something in them, secrets as dots."""
        found = [(name, value) for name, value in self.fields if value.strip()]
        return [
            (name, "•••" if name == URL or any(part in name for part in HIDDEN) else value) for name, value in found
        ]


def keep(path: str, body: bytes) -> KeptForm:
    """Return a form to be kept."""
    return KeptForm(path, urlsafe_b64encode(body).decode().rstrip("="))


def kept_in(form: Form, is_known: Callable[[str], bool]) -> KeptForm | None:
    """Return the form that the form of the sign-in keeps; None if it keeps none, or not for a path of the dashboard."""
    path, content = form["kept_path"], form["kept_form"]
    return KeptForm(path, content) if path and is_known(path) else None
