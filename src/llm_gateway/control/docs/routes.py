"""Routes of the API's documentation: the page, and the OpenAPI document and files of Swagger UI that it loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.responses import FileResponse, HTMLResponse, Response

from llm_gateway.control.management.router import Router
from llm_gateway.docs_page.swagger_ui import ASSETS_PACKAGE, MEDIA_TYPES, find_asset
from llm_gateway.error_format.paths import nothing_at
from llm_gateway.errors import NotFound
from llm_gateway.gate.authentication import DOCS_PATH
from llm_gateway.gate.security_headers import security_headers
from llm_gateway.gate.sign_in import SignInPage

DOCUMENT_PATH = "/openapi.json"
FILE_HEADERS = security_headers("", cache_control="private, no-cache")


def docs_page_router(page: SignInPage) -> Router:
    """Build the route of the page."""
    router = Router(tag="documentation")

    @router.get(DOCS_PATH, response_class=HTMLResponse)
    def docs_page() -> Response:
        """Show this document as a page. A browser gets the page without a key, too, as a 401; it asks for the key."""
        return HTMLResponse(page.body, headers=page.headers)

    return router


def docs_router(document: Callable[[], bytes], package: str = ASSETS_PACKAGE) -> Router:
    """Build the routes of what the page loads. `document` returns OpenAPI JSON; `package` has Swagger UI's files."""
    router = Router(tag="documentation")

    @router.get(DOCUMENT_PATH, response_model=dict[str, Any])
    def openapi_document() -> Response:
        """Return this document (OpenAPI 3.1)."""
        return Response(document(), media_type="application/json", headers=FILE_HEADERS)

    @router.get(f"{DOCS_PATH}/{{name}}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in MEDIA_TYPES:
            raise NotFound(nothing_at(f"{DOCS_PATH}/{name}"))
        path = find_asset(name, package)
        if path is None:
            raise NotFound(f"The page needs the package {package}: install it. The document is at {DOCUMENT_PATH}.")
        return FileResponse(path, media_type=MEDIA_TYPES[name], headers=FILE_HEADERS)

    return router
