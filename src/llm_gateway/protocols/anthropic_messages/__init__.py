"""Anthropic's Messages API: https://platform.claude.com/docs/en/api/messages."""

from llm_gateway.protocols.anthropic_messages.reply import read_reply, write_reply
from llm_gateway.protocols.anthropic_messages.request import read_request
from llm_gateway.protocols.anthropic_messages.stream import StreamReader
from llm_gateway.protocols.anthropic_messages.stream_writer import StreamWriter
from llm_gateway.protocols.anthropic_messages.writing import write_request

__all__ = ["StreamReader", "StreamWriter", "read_reply", "read_request", "write_reply", "write_request"]
