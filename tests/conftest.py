"""What every test run shares: the options, and how many examples the property tests try."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

FUZZ_FACTOR = int(os.environ.get("FUZZ_FACTOR") or 20)
"""So many times the usual examples take some 6 minutes."""
OWN_SETTINGS = "_hypothesis_internal_use_settings"
"""Where hypothesis keeps what a test's own @settings said; they win over the profile."""

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("fuzz", deadline=None, max_examples=100 * FUZZ_FACTOR)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="run the fault tests or the API's fuzzing at full length (make faults, make fuzz)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if settings.get_current_profile_name() != "fuzz":
        return
    for test in {item.function for item in items if isinstance(item, pytest.Function)}:
        if own := getattr(test, OWN_SETTINGS, None):
            setattr(test, OWN_SETTINGS, settings(own, max_examples=own.max_examples * FUZZ_FACTOR))
