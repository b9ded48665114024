"""Errors of the dashboard as a browser shows them, when it is a worker or the gate that refuses, not the dashboard.

A page needs no file: who is refused for a limit would not get its style sheet either.
"""

from __future__ import annotations

import math
from html import escape
from secrets import randbelow

from starlette.types import Scope

from llm_gateway.error_format.responses import LONGEST_TEXT, shown
from llm_gateway.errors import GatewayError
from llm_gateway.gate.security_headers import hash_source, security_headers

HTML = b"text/html; charset=utf-8"
UI_PATH = "/ui"
UI_PREFIX = "/ui/"
SPREAD_S = 3
"""Seconds over which pages that were refused together try again, so that they are not refused together again."""
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 12vh auto 0; padding: 1.5rem; }
h1 { font-size: 1.5rem; }
"""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>{title} · LLM Gateway</title>
<style>{style}</style>
</head>
<body><main><h1>{title}</h1><p role="alert">{detail}</p><p>{advice}</p></main></body>
</html>
"""
PART = '<div class="notice bad" role="alert"><p>{detail}</p></div>'
"""Part of a page of the dashboard, for the script that requested it."""
HEADERS = [
    (name.encode(), value.encode())
    for name, value in security_headers(
        f"style-src {hash_source(STYLE.encode())}; img-src data:; ", cache_control="no-store"
    ).items()
]


def is_dashboard(path: str) -> bool:
    """Return whether a path is one of the dashboard."""
    return path == UI_PATH or path.startswith(UI_PREFIX)


def browser_page(scope: Scope, error: GatewayError) -> bytes | None:
    """Return the error as HTML: a page, or for the script of a page a part; None if no browser shows the response."""
    if not is_dashboard(scope["path"]):
        return None
    headers = dict(scope["headers"])
    detail = escape(shown(error.detail, LONGEST_TEXT))
    if b"hx-request" in headers:
        return PART.format(detail=detail).encode()
    if b"text/html" not in headers.get(b"accept", b""):
        return None
    refresh, advice = _advice(error, is_form=scope["method"] not in ("GET", "HEAD"))
    title = escape(error.title)
    return PAGE.format(style=STYLE, refresh=refresh, title=title, detail=detail, advice=advice).encode()


def _advice(error: GatewayError, *, is_form: bool) -> tuple[str, str]:
    """Return the element that makes a browser try again, if it can, and the sentence that says what to do."""
    if error.retry_after_s is None:
        return "", "Go back to the form." if is_form else ""
    if not is_form:
        seconds = max(1, math.ceil(error.retry_after_s)) + randbelow(SPREAD_S)
        return f'<meta http-equiv="refresh" content="{seconds}">\n', "This page tries again in a few seconds."
    if error.retryable:
        return "", "Nothing was saved. Reload this page: the browser sends the form again."
    return "", "Look at the screen whether the change was made, before you send the form again."
