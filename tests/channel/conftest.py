"""Run the tests of the channel on the gateway's event loop (uvloop)."""

from tests.server.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
