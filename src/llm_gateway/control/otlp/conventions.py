"""Names of OpenTelemetry's semantic conventions for GenAI, and of the gateway's own attributes.

The conventions are pinned: `SCHEMA_URL` is sent with all data, so that a backend can convert it, and
`tests/control/otlp/golden` shows what is sent. Version 1.41.0 is the last one with GenAI in the main repository
(github.com/open-telemetry/semantic-conventions); all of it has the status Development.
"""

from __future__ import annotations

from llm_gateway.control.otlp.attributes import Attribute
from llm_gateway.domain.attempt_failures import failure_of
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.journal.record_assembler import CRASHED

VERSION = "1.41.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{VERSION}"
SCOPE = "llm_gateway"
"""Name of the instrumentation scope."""

CHAT, EMBEDDINGS = "chat", "embeddings"
OTHER = "_OTHER"
"""Type of an error that has no type of its own."""

OPERATION = Attribute("gen_ai.operation.name")
PROVIDER = Attribute("gen_ai.provider.name")
REQUEST_MODEL = Attribute("gen_ai.request.model")
REQUEST_STREAM = Attribute("gen_ai.request.stream")
RESPONSE_MODEL = Attribute("gen_ai.response.model")
RESPONSE_ID = Attribute("gen_ai.response.id")
FINISH_REASONS = Attribute("gen_ai.response.finish_reasons")
TIME_TO_FIRST_CHUNK = Attribute("gen_ai.response.time_to_first_chunk")
INPUT_TOKENS = Attribute("gen_ai.usage.input_tokens")
OUTPUT_TOKENS = Attribute("gen_ai.usage.output_tokens")
CACHE_READ_TOKENS = Attribute("gen_ai.usage.cache_read.input_tokens")
CACHE_WRITE_TOKENS = Attribute("gen_ai.usage.cache_creation.input_tokens")
REASONING_TOKENS = Attribute("gen_ai.usage.reasoning.output_tokens")
CONVERSATION = Attribute("gen_ai.conversation.id")
TOKEN_TYPE = Attribute("gen_ai.token.type")
ERROR_TYPE = Attribute("error.type")
SERVER_ADDRESS = Attribute("server.address")
SERVER_PORT = Attribute("server.port")
STATUS_CODE = Attribute("http.response.status_code")
OVERFLOW = Attribute("otel.metric.overflow")

OWN_PROVIDER = Attribute("llm_gateway.provider")
REQUEST_ID = Attribute("llm_gateway.request.id")
CLIENT_REQUEST_ID = Attribute("llm_gateway.client_request.id")
ATTEMPT_ID = Attribute("llm_gateway.attempt.id")
KEY = Attribute("llm_gateway.key")
KEY_ID = Attribute("llm_gateway.key.id")
TEAM = Attribute("llm_gateway.team")
CUSTOMER = Attribute("llm_gateway.customer")
SERVICE = Attribute("llm_gateway.service")
TASK_TYPE = Attribute("llm_gateway.task_type")
AGENT = Attribute("llm_gateway.agent")
SURFACE = Attribute("llm_gateway.surface")
ROUTE = Attribute("llm_gateway.route")
WHY = Attribute("llm_gateway.why")
CACHE = Attribute("llm_gateway.cache")
OUTCOME = Attribute("llm_gateway.outcome")
ATTEMPTS = Attribute("llm_gateway.attempts")
BUDGETS = Attribute("llm_gateway.budgets")
COST = Attribute("llm_gateway.cost_usd")
COST_STATUS = Attribute("llm_gateway.cost_status")
SERVICE_TIER = Attribute("llm_gateway.service_tier")
TOTAL_COST = Attribute("llm_gateway.total.cost_usd")
TOTAL_INPUT_TOKENS = Attribute("llm_gateway.total.input_tokens")
TOTAL_OUTPUT_TOKENS = Attribute("llm_gateway.total.output_tokens")
SAVED_COST = Attribute("llm_gateway.saved_cost_usd")
LATENCY = Attribute("llm_gateway.latency_ms")
OVERHEAD = Attribute("llm_gateway.overhead_ms")
QUEUED = Attribute("llm_gateway.queued_ms")
SAMPLED_BY = Attribute("llm_gateway.sampled_by")

HOSTS = {
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "amazonaws.com": "aws.bedrock",
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
}
"""Well-known values of `gen_ai.provider.name` by the ends of the providers' hosts."""
NAMES = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
"""Well-known values by the names of providers whose host is not one of HOSTS, where they differ from the name."""


def provider_name(name: str, host: str | None) -> str:
    """Return the value of `gen_ai.provider.name` for a provider: a well-known one, else the provider's own name."""
    if host is not None:
        for end, known in HOSTS.items():
            if host == end or host.endswith(f".{end}"):
                return known
    return NAMES.get(name, name)


def operation_of(record: UsageRecord) -> str:
    """Return the value of `gen_ai.operation.name` for a request."""
    return EMBEDDINGS if "embed" in record.surface else CHAT


def is_error(record: UsageRecord) -> bool:
    """Return whether a request ended as an error, or was cut off by a crash of the gateway."""
    return record.outcome not in ("ok", "cached", "cancelled") or record.error_code == CRASHED


def error_type(record: UsageRecord) -> str | None:
    """Return the value of `error.type` for a request, None if it was answered."""
    return None if record.outcome in ("ok", "cached") else record.error_code or OTHER


def error_type_of_attempt(record: UsageRecord, number: int) -> str | None:
    """Return the value of `error.type` for an attempt: an HTTP status or a word of a small set; None without error.

    The message of the error is never sent: providers quote prompts in it.
    """
    if record.attempts[number].error is None:
        is_cut_off = record.error_code == CRASHED and number == len(record.attempts) - 1
        return CRASHED if is_cut_off else None
    return failure_of(record, number) or OTHER


def first_chunk_s(record: UsageRecord) -> float | None:
    """Return the seconds from the start of the served attempt to its first content; None if it was not streamed."""
    if record.first_token_ms is None or not record.attempts:
        return None
    served: AttemptRecord = record.attempts[-1]
    return max(0, record.at_ms + record.first_token_ms - served.started_ms) / 1000
