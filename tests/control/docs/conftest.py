"""The OpenAPI document of the running gateway."""

from __future__ import annotations

from typing import Any

import pytest_asyncio

from tests.application.driver import Client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(reader: Client) -> Any:
    return (await reader.call("GET", "/openapi.json")).json
