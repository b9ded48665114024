"""Routes of the management API that FastAPI analyses only when they are first needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from starlette.routing import Match

from llm_gateway.control.management.router import DeferredRoute, Router


def routes_of(router: Router) -> list[DeferredRoute]:
    return [route for route in router.routes if isinstance(route, DeferredRoute)]


@pytest.fixture
def things() -> Router:
    router = Router("/api/v1/things", "things")

    @router.get("/{number}")
    def get_thing(number: int, limit: int = 5) -> list[int]:
        return [number] * limit

    @router.post("", status_code=201)
    def create_thing(body: dict[str, int]) -> dict[str, int]:
        return body

    return router


def test_a_request_is_matched_without_an_analysis_of_any_route(things: Router) -> None:
    get, create = routes_of(things)
    scope = {"type": "http", "method": "GET", "path": "/api/v1/things/7", "root_path": ""}
    assert get.matches(scope)[0] is Match.FULL
    assert get.matches({**scope, "method": "DELETE"})[0] is Match.PARTIAL
    assert create.matches(scope)[0] is Match.NONE
    assert not any("dependant" in vars(route) for route in (get, create))


def test_an_analysis_finds_parameters_responses_and_the_names_of_router_and_function(things: Router) -> None:
    get, create = routes_of(things)
    assert [field.name for field in get.dependant.query_params] == ["limit"]
    assert (get.unique_id, get.tags, get.methods) == ("get_thing", ["things"], {"GET"})
    assert (create.status_code, create.path, create.name) == (201, "/api/v1/things", "create_thing")
    with pytest.raises(AttributeError, match="'DeferredRoute' object has no attribute 'color'"):
        get.color  # noqa: B018


def test_threads_that_need_a_route_at_once_share_one_analysis(things: Router) -> None:
    get, _ = routes_of(things)
    start = Barrier(4)

    def handler(_: int) -> object:
        start.wait()
        return get.app

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(handler, range(4)))) == 1
