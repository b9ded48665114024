"""The embedded local model: OpenAI's dialect, spoken to the llama.cpp server on loopback.

The model knows no `developer` texts and no tools; JSON mode is enforced by llama.cpp's grammar.
"""

from __future__ import annotations

from llm_gateway.providers.openai import codecs, decode_error, interpret, static_key, target

__all__ = ["codecs", "decode_error", "interpret", "static_key", "target"]
