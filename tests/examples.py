"""Number of examples of a property test, as a multiple of the profile's (`tests/conftest.py`)."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(factor: float, **others: Any) -> settings:
    """Decorate a property test to try `factor` times the profile's number of examples, at least 1.

    `others` are further settings.
    """
    profile = settings.get_profile(settings.get_current_profile_name())
    return settings(max_examples=max(1, round(profile.max_examples * factor)), **others)
