"""Google's protocol generateContent (Gemini): read and write its requests, replies and streams.

https://ai.google.dev/api/generate-content

Modules and their functions follow `protocols/contract.py`; DESCRIPTOR registers the protocol's routes and field names.
"""

from llm_gateway.protocols.descriptor import MODEL, Descriptor, ModelList, Route, TokenCount
from llm_gateway.protocols.gemini.errors import SCHEMA, write_error
from llm_gateway.protocols.gemini.field_names import FIELD_NAMES
from llm_gateway.protocols.gemini.model_list import write_model, write_models
from llm_gateway.protocols.gemini.pass_through import passthrough_request
from llm_gateway.protocols.gemini.reply import read_reply, write_reply
from llm_gateway.protocols.gemini.request_reader import read_request
from llm_gateway.protocols.gemini.request_writer import write_request
from llm_gateway.protocols.gemini.stream_reader import StreamReader
from llm_gateway.protocols.gemini.stream_writer import ArrayWriter, StreamWriter, open_writer
from llm_gateway.protocols.gemini.token_count import counted_request, write_count
from llm_gateway.protocols.reported_values import requested_tier

__all__ = [
    "DESCRIPTOR",
    "ArrayWriter",
    "StreamReader",
    "StreamWriter",
    "read_reply",
    "read_request",
    "routes",
    "write_error",
    "write_reply",
    "write_request",
]

MODEL_PATHS = {"/v1beta/models": "", "/v1/models": "V1"}
"""Path of the models, for each API version that SDKs use → suffix of the operation's name in the OpenAPI document."""


def routes(method: str, summary: str, *, operation: str = "", stream: bool = False) -> tuple[Route, ...]:
    """Return the routes of one method (`generateContent`), one for each API version.

    `operation` is the name in the OpenAPI document if it differs from `method`.
    """
    name = operation or method
    return tuple(
        Route(path=f"{path}/{MODEL}:{method}", operation=name + version, summary=summary, stream=stream)
        for path, version in MODEL_PATHS.items()
    )


DESCRIPTOR = Descriptor(
    name="gemini_content",
    vendor="Google",
    surface="generate_content",
    routes=(
        *routes("generateContent", "Generate content (Google's Gemini API)"),
        *routes("streamGenerateContent", "Stream generated content: events with `alt=sse`, else an array", stream=True),
    ),
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    error_schema=SCHEMA,
    stream_writer=open_writer,
    passthrough_request=passthrough_request,
    requested_tier=lambda document: requested_tier(document.get("serviceTier"), document.get("service_tier")),
    field_names=FIELD_NAMES,
    namespace="/v1beta",
    unknown_path="docs/GEMINI.md lists the paths. Tuned models are called below models/ too, by the names that their "
    "providers use",
    credential_headers=(b"x-goog-api-key", b"authorization"),
    key_parameter="key",
    count_tokens=TokenCount(
        routes=routes("countTokens", "Estimate the input tokens of a request", operation="countContentTokens"),
        request_of=counted_request,
        write=write_count,
    ),
    models=ModelList(
        paths=tuple(MODEL_PATHS),
        operation="GoogleModel",
        write=write_models,
        write_one=write_model,
        markers=(b"x-goog-api-key",),
    ),
    settings_fields=("generationConfig", "generation_config"),
    output_fields=("maxOutputTokens", "max_output_tokens"),
    choice_fields=("candidateCount", "candidate_count"),
    input_fields=(
        *("contents", "systemInstruction", "system_instruction", "tools"),
        *("generationConfig", "generation_config"),
    ),
    uncached_fields=frozenset({"model", "labels", "serviceTier", "service_tier", "store"}),
)
"""No `user_fields`: requests have no user id. `labels` are for an account's bill; SDKs send them to Vertex AI only."""
