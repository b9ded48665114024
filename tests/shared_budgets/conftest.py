"""Fixtures: databases of a real Postgres."""

from __future__ import annotations

from tests.databases import postgres

__all__ = ["postgres"]
