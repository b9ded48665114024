"""Number of examples of a property test, as a multiple of the profile's (`tests/conftest.py`)."""

from __future__ import annotations

from hypothesis import settings


def examples(factor: float) -> settings:
    """Decorate a property test to try `factor` times the profile's number of examples, at least 1."""
    return settings(
        max_examples=max(1, round(settings.get_profile(settings.get_current_profile_name()).max_examples * factor))
    )
