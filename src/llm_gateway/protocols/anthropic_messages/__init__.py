"""Anthropic's Messages API: https://platform.claude.com/docs/en/api/messages."""

from llm_gateway.protocols.anthropic_messages.errors import write_error
from llm_gateway.protocols.anthropic_messages.passing import pass_on
from llm_gateway.protocols.anthropic_messages.reply import read_reply, write_reply
from llm_gateway.protocols.anthropic_messages.request import read_request
from llm_gateway.protocols.anthropic_messages.stream import StreamReader
from llm_gateway.protocols.anthropic_messages.stream_writer import StreamWriter
from llm_gateway.protocols.anthropic_messages.writing import write_request
from llm_gateway.protocols.descriptor import PARTS, Descriptor

__all__ = ["DESCRIPTOR", "StreamReader", "StreamWriter", "read_reply", "read_request", "write_reply", "write_request"]

DESCRIPTOR = Descriptor(
    name="anthropic_messages",
    surface="messages",
    path="/v1/messages",
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    stream_writer=StreamWriter,
    pass_on=pass_on,
    field_names={
        **dict.fromkeys(PARTS, "messages"),
        "parallel_tool_calls": "disable_parallel_tool_use",
        "reasoning": "thinking",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
    },
    credential_headers=(b"x-api-key", b"authorization"),
    id_headers=(b"x-request-id", b"request-id"),
    forwarded_headers=(b"anthropic-beta",),
)
"""Betas: https://platform.claude.com/docs/en/api/beta-headers; ids: …/api/errors."""
