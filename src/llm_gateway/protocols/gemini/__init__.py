"""Google's generateContent: https://ai.google.dev/api/generate-content."""

from llm_gateway.protocols.gemini.errors import write_error
from llm_gateway.protocols.gemini.reply import StreamReader, read_reply, write_reply
from llm_gateway.protocols.gemini.request import read_request
from llm_gateway.protocols.gemini.stream_writer import ArrayWriter, StreamWriter
from llm_gateway.protocols.gemini.writing import write_request

__all__ = [
    "ArrayWriter",
    "StreamReader",
    "StreamWriter",
    "read_reply",
    "read_request",
    "write_error",
    "write_reply",
    "write_request",
]
