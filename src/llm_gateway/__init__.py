"""LLM Gateway: one API in front of every LLM vendor, with routing, limits, failover and exact accounting."""

__version__ = "0.2.0.dev0"
