"""Anthropic's Messages protocol: read and write its requests, replies and streams.

https://platform.claude.com/docs/en/api/messages

Modules and their functions follow `protocols/contract.py`; DESCRIPTOR registers the protocol's routes and field names.
"""

import msgspec

from llm_gateway.protocols.anthropic_messages.errors import SCHEMA, message_of, write_error
from llm_gateway.protocols.anthropic_messages.model_list import write_model, write_models
from llm_gateway.protocols.anthropic_messages.pass_through import passthrough_request
from llm_gateway.protocols.anthropic_messages.reply import read_reply, write_reply
from llm_gateway.protocols.anthropic_messages.request_reader import read_request
from llm_gateway.protocols.anthropic_messages.request_writer import write_request
from llm_gateway.protocols.anthropic_messages.stream_reader import StreamReader
from llm_gateway.protocols.anthropic_messages.stream_writer import StreamWriter
from llm_gateway.protocols.anthropic_messages.usage import read_requested_tier
from llm_gateway.protocols.descriptor import PART_KINDS, Descriptor, ModelList, Route, TokenCount

__all__ = ["DESCRIPTOR", "StreamReader", "StreamWriter", "read_reply", "read_request", "write_reply", "write_request"]

DESCRIPTOR = Descriptor(
    name="anthropic_messages",
    vendor="Anthropic",
    surface="messages",
    routes=(
        Route(
            path="/v1/messages",
            operation="createMessage",
            summary="Create a message (Anthropic's Messages API)",
            stream=None,
        ),
    ),
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    error_message=message_of,
    error_schema=SCHEMA,
    stream_writer=StreamWriter,
    passthrough_request=passthrough_request,
    field_names={
        **dict.fromkeys(PART_KINDS, "messages"),
        "parallel_tool_calls": "disable_parallel_tool_use",
        "reasoning": "thinking",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
    },
    requested_tier=read_requested_tier,
    credential_headers=(b"x-api-key", b"authorization"),
    id_headers=(b"x-request-id", b"request-id"),
    forwarded_headers=(b"anthropic-beta",),
    count_tokens=TokenCount(
        routes=(
            Route(
                path="/v1/messages/count_tokens",
                operation="countTokens",
                summary="Estimate the input tokens of a message (Anthropic's Messages API)",
            ),
        ),
        write=lambda tokens: msgspec.json.encode({"input_tokens": tokens}),
    ),
    management_path="/v1/organizations/spend_limits",
    models=ModelList(
        paths=("/v1/models",),
        operation="Model",
        write=write_models,
        write_one=write_model,
        markers=(b"anthropic-version", b"x-api-key"),
    ),
    user_fields=(("metadata", "user_id"),),
    output_fields=("max_tokens",),
    input_fields=("system", "messages", "tools"),
    uncached_fields=frozenset({"model", "stream", "metadata", "service_tier"}),
)
"""Sources: beta headers, https://platform.claude.com/docs/en/api/beta-headers; request ids, …/api/errors."""
