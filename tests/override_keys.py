"""Make the table of overrides that a configuration has."""

from __future__ import annotations

from collections.abc import Iterable

from llm_gateway.domain.catalog import Override
from llm_gateway.domain.configuration import OverrideKey, override_key


def by_key(overrides: Iterable[Override]) -> dict[OverrideKey, Override]:
    """Return the overrides by user and service."""
    return {override_key(override): override for override in overrides}
