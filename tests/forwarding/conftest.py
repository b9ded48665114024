"""Run the tests of forwarding on the gateway's event loop (uvloop)."""

from tests.application.fixtures import migrated, own_logging, own_settings
from tests.server.conftest import pytest_asyncio_loop_factories

__all__ = ["migrated", "own_logging", "own_settings", "pytest_asyncio_loop_factories"]
