"""Google's generateContent, the provider's side only: https://ai.google.dev/api/generate-content."""

from llm_gateway.protocols.gemini.reply import StreamReader, read_reply
from llm_gateway.protocols.gemini.writing import write_request

__all__ = ["StreamReader", "read_reply", "write_request"]
