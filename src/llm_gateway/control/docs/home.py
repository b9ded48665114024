"""Route `/`: the way to the dashboard for browsers, and JSON for programs that says what this server is.

With an admin port, browsers get a page instead, since the dashboard is at one of the two ports only. Neither needs a
key.
"""

from __future__ import annotations

from html import escape

from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.requests import Request

from llm_gateway.control.management.router import Router
from llm_gateway.error_format.browser_page import UI_PATH
from llm_gateway.gate.authentication import DOCS_PATH, HOME_PATH
from llm_gateway.gate.reverse_proxy import called_host
from llm_gateway.gate.security_headers import hash_source, security_headers
from llm_gateway.settings import Settings

PATHS = {"api": "/api/v1", "docs": DOCS_PATH, "health": "/api/v1/health"}
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 44rem; margin: 3rem auto; padding: 0 1rem; }
code, pre { font: 0.875rem/1.5 ui-monospace, monospace; }
pre { padding: 1rem; overflow-x: auto; border: 1px solid #8886; border-radius: 0.5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 0.25rem 1rem 0.25rem 0; border-bottom: 1px solid #8886; }
"""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LLM Gateway</title>
<style>{style}</style>
</head>
<body>
<h1>LLM Gateway</h1>
<p>This is one HTTP API in front of every LLM vendor. It is running. Programs call it; this page says how.</p>
<pre>curl {origin}/api/v1/generate \\
  -H 'X-Service-Key: {key}' \\
  -d '{{"user_id": "alice", "service": "browser", "prompt": "Hello"}}'</pre>
<h2>Where the key goes</h2>
<p>{which}</p>
<table>
<tr><th>Call</th><th>Base URL</th><th>Key</th></tr>
<tr><td>This gateway's own API</td><td><code>{origin}/api/v1</code></td><td><code>X-Service-Key: KEY</code></td></tr>
<tr><td>OpenAI's SDKs</td><td><code>{origin}/v1</code></td><td><code>Authorization: Bearer KEY</code></td></tr>
<tr><td>Anthropic's SDKs</td><td><code>{origin}</code></td><td><code>x-api-key: KEY</code></td></tr>
<tr><td>Google's SDKs</td><td><code>{origin}</code></td><td><code>x-goog-api-key: KEY</code></td></tr>
</table>
<h2>What there is</h2>
<p><a href="{root}/ui">The dashboard</a>: what was spent, by whom, and each request. It asks for a key.</p>
<p><a href="{root}/docs">Every endpoint, to read and to try</a>. The page asks for the key.</p>
<p><a href="{root}/api/v1/health">Is it well?</a> Needs no key.</p>
</body>
</html>
"""
DEV_KEY_IN_FORCE = "This gateway runs in dev mode and takes the public development key, <code>{key}</code>."
SERVICE_KEY = (
    "A service key is one of those in <code>LLM_GATEWAY_SERVICE_KEYS</code>: ask the operator of this gateway."
)
HEADERS = {
    **security_headers(f"style-src {hash_source(STYLE.encode())}; ", cache_control="no-cache"),
    "vary": "accept",
}


def home_router(settings: Settings) -> Router:
    """Build the route.

    X-Forwarded-Host is believed if there are trusted proxies; the worker has dropped those that none of them has sent.
    """
    root_path, dev_key = settings.root_path, settings.dev_key
    router = Router()
    about = {"service": "llm-gateway"} | {name: root_path + path for name, path in PATHS.items()}

    @router.get(HOME_PATH, include_in_schema=False)
    async def home(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(about, headers={"vary": "accept"})
        if not settings.admin_port:
            return RedirectResponse(f"{root_path}{UI_PATH}", headers={"vary": "accept", "cache-control": "no-cache"})
        return HTMLResponse(page(request), headers=HEADERS)

    def page(request: Request) -> str:
        forwarded = request.headers.get("x-forwarded-host", "") if settings.proxy_networks else ""
        host = called_host(request.headers.get("host", ""), forwarded)
        origin = f"{request.url.scheme}://{host}{root_path}"
        key = escape(dev_key) if dev_key is not None else "KEY"
        which = SERVICE_KEY if dev_key is None else DEV_KEY_IN_FORCE.format(key=key)
        return PAGE.format(style=STYLE, origin=origin, key=key, which=which, root=root_path)

    return router
