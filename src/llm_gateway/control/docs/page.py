"""Routes of the API's documentation: the OpenAPI document, and a Swagger UI page that loads nothing from other hosts.

Swagger UI's files come from the `fastapi-offline` package; nothing else of that package is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from llm_gateway.error_format.paths import nothing_at
from llm_gateway.errors import NotFound
from llm_gateway.gate.authentication import DOCS_PATH, DOCUMENT_PATH

ASSETS_PACKAGE = "fastapi_offline"
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".png": "image/png"}
ASSETS = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon.png"})

PAGE = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LLM Gateway API</title>
<link rel="icon" href="{DOCS_PATH}/favicon.png">
<link rel="stylesheet" href="{DOCS_PATH}/swagger-ui.css">
<link rel="stylesheet" href="{DOCS_PATH}/start.css">
</head>
<body>
<div id="api"></div>
<script src="{DOCS_PATH}/swagger-ui-bundle.js"></script>
<script src="{DOCS_PATH}/start.js"></script>
</body>
</html>
"""
# Swagger UI's own persistAuthorization keeps the key in localStorage for good. The plugin keeps it in sessionStorage,
# which ends with the tab, by the two actions in which Swagger UI saves and restores the key.
# location.origin has no credentials. The page's own address can have them, and browsers refuse to fetch such URLs.
START = f"""\
const keepKeyForTab = () => ({{
  statePlugins: {{
    auth: {{ wrapActions: {{ persistAuthorizationIfNeeded: (_, system) => () => {{
      sessionStorage.setItem("authorized", JSON.stringify(system.authSelectors.authorized().toJS()));
    }} }} }},
    configs: {{ wrapActions: {{ loaded: (original, system) => (...given) => {{
      original(...given);
      const kept = sessionStorage.getItem("authorized");
      if (kept) system.authActions.restoreAuthorization({{ authorized: JSON.parse(kept) }});
    }} }} }},
  }},
}});
localStorage.removeItem("authorized"); // earlier versions of this page kept the key there
SwaggerUIBundle({{
  url: location.origin + "{DOCUMENT_PATH}",
  dom_id: "#api",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [keepKeyForTab],
}});
document.addEventListener("click", (event) => {{
  const status = event.target.closest("tr.response > td.response-col_status");
  if (status) status.parentElement.classList.toggle("is-open");
}});
"""
# Fold the error responses: with their examples those of one operation fill ten screens.
STYLE = """\
tr.response:is([data-code^="4"], [data-code^="5"]) > td.response-col_status { cursor: pointer; }
tr.response:is([data-code^="4"], [data-code^="5"]) > td.response-col_status::after { content: " \\25B8"; }
tr.response.is-open:is([data-code^="4"], [data-code^="5"]) > td.response-col_status::after { content: " \\25BE"; }
tr.response:is([data-code^="4"], [data-code^="5"]):not(.is-open)
  > td.response-col_description > :not(.response-col_description__inner) { display: none; }
"""
PAGE_HEADERS = {
    # Swagger UI draws its icons from data: URLs; everything else must come from the gateway.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-cache",
}


def docs_router(document: Callable[[], bytes], package: str = ASSETS_PACKAGE) -> APIRouter:
    """Build the documentation's routes. `document` returns OpenAPI JSON; `package` contains Swagger UI's files."""
    router = APIRouter(tags=["documentation"])

    @router.get(DOCUMENT_PATH, response_model=dict[str, Any])
    def openapi_document() -> Response:
        """Return this document (OpenAPI 3.1)."""
        return Response(document(), media_type="application/json", headers=PAGE_HEADERS)

    @router.get(DOCS_PATH, response_class=HTMLResponse)
    def docs_page() -> Response:
        """Show this document as a page. Browsers can send the key as the password of Basic credentials."""
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    @router.get(f"{DOCS_PATH}/start.js", include_in_schema=False)
    def start() -> Response:
        return Response(START, media_type="text/javascript", headers=PAGE_HEADERS)

    @router.get(f"{DOCS_PATH}/start.css", include_in_schema=False)
    def style() -> Response:
        return Response(STYLE, media_type="text/css", headers=PAGE_HEADERS)

    @router.get(f"{DOCS_PATH}/{{name}}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(nothing_at(f"{DOCS_PATH}/{name}"))
        return FileResponse(_assets(package) / name, media_type=MEDIA_TYPES[Path(name).suffix], headers=PAGE_HEADERS)

    return router


def _assets(package: str) -> Path:
    """Return the directory of the package's static files, without importing the package.

    Raises:
        NotFound: the package is not installed.
    """
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations if found else None) or ():
        return Path(place) / "static"
    raise NotFound(f"The page needs the package {package}: install it. The document is at {DOCUMENT_PATH}.")
