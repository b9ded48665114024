"""The SDKs' own retries: they come again when the gateway says so, and not before."""

from __future__ import annotations
