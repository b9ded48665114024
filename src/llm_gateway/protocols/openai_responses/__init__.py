"""OpenAI's Responses protocol, without stored state: read and write its requests, replies and streams.

https://platform.openai.com/docs/api-reference/responses

Modules and their functions follow `protocols/contract.py`; DESCRIPTOR registers the protocol's routes and field names.
"""

from llm_gateway.protocols.descriptor import PART_KINDS, Descriptor, Route
from llm_gateway.protocols.openai_chat.errors import SCHEMA, code_of
from llm_gateway.protocols.openai_responses.errors import write_error
from llm_gateway.protocols.openai_responses.pass_through import passthrough_request
from llm_gateway.protocols.openai_responses.reply import read_reply, write_reply
from llm_gateway.protocols.openai_responses.request_reader import read_request, refuse_state
from llm_gateway.protocols.openai_responses.request_writer import write_request
from llm_gateway.protocols.openai_responses.stream_reader import StreamReader
from llm_gateway.protocols.openai_responses.stream_writer import FAILURES, StreamWriter
from llm_gateway.protocols.reported_values import requested_tier

__all__ = [
    "DESCRIPTOR",
    "StreamReader",
    "StreamWriter",
    "read_reply",
    "read_request",
    "refuse_state",
    "write_reply",
    "write_request",
]

DESCRIPTOR = Descriptor(
    name="openai_responses",
    vendor="OpenAI",
    surface="responses",
    routes=(
        Route(
            path="/v1/responses",
            operation="createResponse",
            summary="Create a response (OpenAI's Responses API); nothing is stored",
            stream=None,
        ),
    ),
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    error_code=code_of,
    error_schema=SCHEMA,
    streamed_errors=FAILURES,
    stream_writer=StreamWriter,
    check_request=refuse_state,
    passthrough_request=passthrough_request,
    field_names={
        **dict.fromkeys((*PART_KINDS, "messages"), "input"),
        "cache_key": "prompt_cache_key",
        "logprobs": "top_logprobs",
        "max_tokens": "max_output_tokens",
        "thinking": "reasoning",
        "verbosity": "text.verbosity",
    },
    requested_tier=lambda document: requested_tier(document["service_tier"]) if "service_tier" in document else None,
    forwarded_headers=(b"openai-beta",),
    user_fields=(("user",), ("metadata", "user_id")),
    session_fields=(("prompt_cache_key",), ("client_metadata", "session_id")),
    output_fields=("max_output_tokens",),
    input_fields=("input", "instructions", "tools", "prompt", "text"),
    uncached_fields=frozenset({"model", "stream", "stream_options", "user", "metadata", "service_tier", "store"}),
)
