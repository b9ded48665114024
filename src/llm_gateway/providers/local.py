"""Dialect of the embedded local model: OpenAI's, for calls to the llama.cpp server on loopback.

The model has no `developer` role and no tools. llama.cpp enforces JSON mode with a grammar.
"""

from __future__ import annotations

from llm_gateway.providers.openai import classify_error, codecs, decode_error, static_key, target

__all__ = ["classify_error", "codecs", "decode_error", "static_key", "target"]
