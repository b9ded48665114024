"""Applications share the document's JSON only if it would be the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.control.docs.encoded import encoded_document
from llm_gateway.control.docs.openapi import openapi_document
from llm_gateway.control.management.router import Router


def one(text: str, path: str = "/one") -> Router:
    """Return a router with one route, whose function is another one each time."""
    router = Router()

    @router.get(path)
    def get_one() -> str:
        """Return a word."""
        return text

    return router


def another(path: str = "/one") -> Router:
    """Return a router with another function."""
    router = Router()

    @router.get(path)
    def get_another() -> int:
        """Return a number."""
        return 1

    return router


def encoded(router: Router, **options: Any) -> bytes:
    return encoded_document(router.routes, options.pop("version", "1"), **options)


def test_routes_from_the_same_lines_share_a_document() -> None:
    first = encoded(one("a"))
    assert encoded(one("b")) is first
    assert json.loads(first) == json.loads(json.dumps(openapi_document(one("c").routes, "1")))


@pytest.mark.parametrize(
    ("router", "options"),
    [
        (another(), {}),
        (one("a", "/two"), {}),
        (one("a"), {"root_path": "/llm"}),
        (one("a"), {"version": "2"}),
    ],
    ids=["function", "path", "root", "version"],
)
def test_another_application_gets_its_own_document(router: Router, options: dict[str, str]) -> None:
    encoded(one("a"))
    version, root_path = options.get("version", "1"), options.get("root_path", "")
    document = json.loads(json.dumps(openapi_document(router.routes, version, root_path)))
    assert json.loads(encoded(router, **options)) == document


def test_more_routes_get_a_document_with_all_of_them() -> None:
    routes = [*one("a").routes, *another("/two").routes]
    assert {"/one", "/two"} <= json.loads(encoded_document(routes, "1"))["paths"].keys()
