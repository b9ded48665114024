"""One world a test."""

from __future__ import annotations

import pytest

from tests.pipeline.fakes import World


@pytest.fixture
def world() -> World:
    return World()
