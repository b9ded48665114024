"""OpenAI's chat completions protocol: read and write its requests, replies and streams.

https://platform.openai.com/docs/api-reference/chat

Modules and their functions follow `protocols/contract.py`; DESCRIPTOR registers the protocol's routes and field names.
"""

from llm_gateway.protocols.descriptor import PART_KINDS, Descriptor, ModelList, Route
from llm_gateway.protocols.openai_chat.errors import SCHEMA, code_of, write_error
from llm_gateway.protocols.openai_chat.model_list import write_model, write_models
from llm_gateway.protocols.openai_chat.pass_through import passthrough_request, withheld_events
from llm_gateway.protocols.openai_chat.reply import read_reply, write_reply
from llm_gateway.protocols.openai_chat.request_reader import read_request
from llm_gateway.protocols.openai_chat.request_writer import write_request
from llm_gateway.protocols.openai_chat.stream_reader import StreamReader
from llm_gateway.protocols.openai_chat.stream_writer import StreamWriter
from llm_gateway.protocols.reported_values import requested_tier

__all__ = ["DESCRIPTOR", "StreamReader", "StreamWriter", "read_reply", "read_request", "write_reply", "write_request"]

DESCRIPTOR = Descriptor(
    name="openai_chat",
    vendor="OpenAI",
    surface="chat_completions",
    routes=(
        Route(
            path="/v1/chat/completions",
            operation="createChatCompletion",
            summary="Create a chat completion (OpenAI's Chat Completions API)",
            stream=None,
        ),
    ),
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    error_code=code_of,
    error_schema=SCHEMA,
    stream_writer=StreamWriter,
    passthrough_request=passthrough_request,
    withheld_events=withheld_events,
    field_names={
        **dict.fromkeys(PART_KINDS, "messages"),
        "cache_key": "prompt_cache_key",
        "reasoning": "reasoning_effort",
        "thinking": "reasoning_content",
    },
    requested_tier=lambda document: requested_tier(document["service_tier"]) if "service_tier" in document else None,
    forwarded_headers=(b"openai-beta",),
    models=ModelList(paths=("/v1/models",), operation="Model", write=write_models, write_one=write_model),
    user_fields=(("user",), ("metadata", "user_id")),
    session_fields=(("prompt_cache_key",),),
    output_fields=("max_completion_tokens", "max_tokens"),
    choice_fields=("n",),
    input_fields=("messages", "tools", "response_format"),
    uncached_fields=frozenset({"model", "stream", "stream_options", "user", "metadata", "service_tier", "store"}),
)
