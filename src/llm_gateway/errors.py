"""Exceptions of the gateway, with the HTTP status, error code and retry advice that clients get for each.

The first line of each docstring is shown in the OpenAPI document.

GatewayError
├─ BadRequest                400  bad_request                 two different keys, a header that cannot be read
├─ NotSupported              400  not_supported               no provider supports a field of the request
├─ ProviderRefused           4xx  provider_refused            on /v1, /v1beta: the provider's own 400, 403, 413 or 422
├─ Unauthorized              401  unauthorized                key missing or wrong
├─ Forbidden                 403  forbidden                   key lacks the scope, host not allowed
├─ CustomerNotAllowed        403  customer_not_allowed        outside of the key's allow-list
├─ ServiceNotAllowed         403  service_not_allowed         outside of the key's allow-list
├─ ModelNotAllowed           403  model_not_allowed           outside of the key's allow-list
├─ RequestNotAllowed         403  request_not_allowed         larger or dearer than the key allows
├─ NotFound                  404  not_found                   unknown id or path
├─ UnknownModel              404  model_not_found             no enabled provider lists the model
├─ MethodNotAllowed          405  method_not_allowed
├─ Conflict                  409  conflict                    name exists
├─ PayloadTooLarge           413  payload_too_large           body too large
├─ CodingNotSupported        415  coding_not_supported        the body is compressed
├─ Invalid                   422  validation_error            missing, wrong or unknown field, malformed JSON
├─ WebSocketNotSupported     426  websocket_not_supported     send the request by POST
├─ RateLimited               429  rate_limited                retry: every candidate is at its limit
├─ RequestExceedsLimit       429  request_exceeds_limit       larger than every limit, do not retry
├─ BudgetExceeded            429  budget_exceeded             a budget has no room until it resets, do not retry
├─ BudgetReserved            429  budget_reserved             retry: requests in flight hold what is left of a budget
├─ InternalError             500  internal_error              a defect of the gateway
├─ ProviderFailed            502  provider_error              retry: attempts were made and the last failed
├─ ProviderAccountRefused    502  provider_account_refused    bad key or no credit at every provider, do not retry
├─ NoProvider                503  no_provider                 none enabled, or not the one of a pinned override
├─ ProvidersUnavailable      503  providers_unavailable       retry: all circuit breakers are open
├─ BudgetUnavailable         503  budget_unavailable          retry: no more of a budget can be leased now
├─ Overloaded                503  overloaded                  retry: too many requests in flight, or stopping
├─ JournalUnavailable        503  journal_unavailable         retry: usage cannot be recorded (disk full)
├─ StoreUnavailable          503  database_unavailable        retry: the database does not answer
├─ ManagementUnavailable     503  management_unavailable      retry: the process of the management API does not answer
└─ DeadlineExceeded          504  deadline_exceeded           retry: the request's own deadline passed
ConfigurationError           the gateway cannot start: exit code 78, one line that says what to set
RecordsRefused               the database rejects usage records of a batch (internal, never sent to a client)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from llm_gateway.configuration_error import ConfigurationError as ConfigurationError  # noqa: PLC0414 - one home for all

CONTEXT_LENGTH, CONTENT_FILTER = "context_length_exceeded", "content_filter"
"""OpenAI's error codes, by which clients recognise these two whichever provider reports them."""
LEAST_RETRY_AFTER_S = 0.1
"""Shortest wait, in seconds, that an error asks for: SDKs that wait less use up their retries at once."""


class ReportedError(NamedTuple):
    """An error in the provider's own words, without secrets. `vocabulary` is the provider's kind: whose words they are.

    `code`, `type` and `param` are None if the provider did not send them. `meaning` is `CONTEXT_LENGTH`,
    `CONTENT_FILTER` or "". `tokens` and `limit` are the sizes of the request and of the context window that it exceeds.
    """

    vocabulary: str
    status: int
    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None
    meaning: str = ""
    tokens: int | None = None
    limit: int | None = None


class BudgetStatus(NamedTuple):
    """A budget's account as a refusal shows it. Amounts are in the budget's `unit`; dollars as nano-dollars.

    Records name the budget by `id` (`AccountRef`). `scope` says which of its accounts it is. `resets_at` is the end of
    its period on the budget's clock (ISO 8601), `resets_s` the same in seconds UTC; both are None for a budget without
    an end.
    """

    name: str
    scope: str
    unit: str
    limit: int
    spent: int
    held: int
    resets_at: str | None = None
    resets_s: int | None = None
    id: str | None = None


class GatewayError(Exception):
    """An error that is sent to the client.

    `detail` is a sentence the client can act on. `retry_after_s` (seconds; None: no header) becomes `Retry-After` and
    `retry-after-ms`, at least `LEAST_RETRY_AFTER_S`. `retryable` becomes `x-should-retry`.
    """

    status: int = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: bool = False
    default_retry_after_s: ClassVar[float | None] = None
    queued_ms: int = 0
    """Milliseconds that the request waited for a rate limit."""
    limited_by: str | None = None
    """Name of the provider at its rate limit that is free first; None if no provider was at its limit."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """More headers of the response, such as the provider's rate limits."""
    is_recorded: bool = False
    """True if the error is in the log already, in the line of the request's usage record or as a defect."""
    provider: str | None = None
    """Name of the provider whose response the error reports; becomes `x-gateway-provider`."""
    reported: ReportedError | None = None
    """The provider's own error, which vendor-compatible APIs pass on."""
    budget: BudgetStatus | None = None
    """The budget's account that has no room for the request."""

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if retry_after_s is None:
            self.retry_after_s = self.default_retry_after_s
        else:
            self.retry_after_s = max(retry_after_s, LEAST_RETRY_AFTER_S)

    @property
    def shown_code(self) -> str:
        """`code`, or OpenAI's code for an exceeded context window and a content filter."""
        return (self.reported.meaning if self.reported is not None else "") or self.code


class BadRequest(GatewayError):
    """The request carries two different keys, or one of its headers cannot be read."""

    status, code, title = 400, "bad_request", "Bad request"


class NotSupported(GatewayError):
    """No provider that could serve the request supports one of its fields."""

    status, code, title = 400, "not_supported", "Not supported"

    def __init__(self, detail: str, *, field: str) -> None:
        super().__init__(detail)
        self.field = field


class Unauthorized(GatewayError):
    """The request carries no service key, or one that the gateway does not know."""

    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(GatewayError):
    """The service key lacks the required scope, or the Host header names a host that is not allowed."""

    status, code, title = 403, "forbidden", "Forbidden"


class CustomerNotAllowed(GatewayError):
    """The service key may not make requests for this customer."""

    status, code, title = 403, "customer_not_allowed", "Customer not allowed"


class ServiceNotAllowed(GatewayError):
    """The service key may not make requests for this service."""

    status, code, title = 403, "service_not_allowed", "Service not allowed"


class ModelNotAllowed(GatewayError):
    """The service key may not use this model, or none of those that the request could go to."""

    status, code, title = 403, "model_not_allowed", "Model not allowed"


class RequestNotAllowed(GatewayError):
    """The request could cost more, or think harder, than the service key allows."""

    status, code, title = 403, "request_not_allowed", "Request not allowed"


class NotFound(GatewayError):
    """No resource has this id, or no route has this path."""

    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(GatewayError):
    """The path does not support this method. `allow` lists the methods that it supports."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, detail: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allow = allow


class Conflict(GatewayError):
    """A resource of this name exists already."""

    status, code, title = 409, "conflict", "Conflict"


class PayloadTooLarge(GatewayError):
    """The request body is larger than the gateway accepts."""

    status, code, title = 413, "payload_too_large", "Payload too large"


class CodingNotSupported(GatewayError):
    """The request body is compressed, which the gateway does not support."""

    status, code, title = 415, "coding_not_supported", "Content coding not supported"


class Invalid(GatewayError):
    """The request body or a parameter is not valid. `errors` lists `{"loc": [...], "msg": str, "type": str}`.

    `path` leads to the field, from the body or the parameters.
    """

    status, code, title = 422, "validation_error", "Invalid request"

    def __init__(self, detail: str, *, loc: tuple[str | int, ...] = ("body",), kind: str = "value_error") -> None:
        super().__init__(detail)
        self.path = tuple(str(part) for part in loc[1:])
        self.errors: list[dict[str, object]] = [{"loc": list(loc), "msg": detail, "type": kind}]

    @classmethod
    def all_of(cls, found: Sequence[Invalid]) -> Invalid:
        """Combine several errors of a request; `detail` has the sentence of each."""
        together = cls(" ".join(each.detail for each in found))
        together.errors = [error for each in found for error in each.errors]
        return together


class WebSocketNotSupported(GatewayError):
    """The request opens a WebSocket; the same path takes requests by POST, and streams its answers as events."""

    status, code, title = 426, "websocket_not_supported", "WebSocket not supported"


class RateLimited(GatewayError):
    """All providers that could serve the request are at their rate limit, in the gateway or at the vendor."""

    status, code, title, retryable = 429, "rate_limited", "Rate limited", True


class RequestExceedsLimit(GatewayError):
    """The request is larger than the whole rate limit of all candidates, so that a retry cannot help."""

    status, code, title = 429, "request_exceeds_limit", "Request exceeds limit"


class BudgetExceeded(GatewayError):
    """A budget that the request counts in is used up, or has less left than the request can cost."""

    status, code, title = 429, "budget_exceeded", "Budget exceeded"


class BudgetReserved(GatewayError):
    """Requests in flight hold what is left of a budget that the request counts in."""

    status, code, title, retryable = 429, "budget_reserved", "Budget reserved", True


class BudgetUnavailable(GatewayError):
    """A budget is used up on this host as far as it is leased to it, and no more of it can be had at this moment."""

    status, code, title, retryable = 503, "budget_unavailable", "Budget unavailable", True
    default_retry_after_s = 1.0


class InternalError(GatewayError):
    """The gateway failed by a defect of its own; the log has the cause under the request id."""


class ProviderFailed(GatewayError):
    """The last attempt at a provider failed; not retryable when the provider rejected the request itself."""

    status, code, title = 502, "provider_error", "Provider error"

    def __init__(self, detail: str, *, retryable: bool = True) -> None:
        super().__init__(detail)
        self.retryable = retryable


class ProviderAccountRefused(GatewayError):
    """Refusal of the gateway's own account by every provider that was tried: a bad key, or no credit."""

    status, code, title = 502, "provider_account_refused", "Provider account refused"


class ProviderRefused(GatewayError):
    """The provider rejected the request of a client of a vendor-compatible API; `status` is the provider's."""

    status, code, title = 400, "provider_refused", "Provider refused"

    def __init__(self, detail: str, *, status: int) -> None:
        super().__init__(detail)
        self.status = status


class UnknownModel(GatewayError):
    """No enabled provider lists the requested model."""

    status, code, title = 404, "model_not_found", "Model not found"


class NoProvider(GatewayError):
    """No provider is enabled, or an override without fallback names a provider or model that is not."""

    status, code, title = 503, "no_provider", "No provider"
    default_retry_after_s = 30.0


class ProvidersUnavailable(GatewayError):
    """All candidates are unavailable: their circuit breaker is open, or they are paused after an error."""

    status, code, title, retryable = 503, "providers_unavailable", "Providers unavailable", True
    default_retry_after_s = 5.0


class Overloaded(GatewayError):
    """The gateway is at its limit of requests in flight, or it is stopping."""

    status, code, title, retryable = 503, "overloaded", "Overloaded", True
    default_retry_after_s = 5.0


class JournalUnavailable(GatewayError):
    """Usage cannot be recorded durably, so that no billable request is started."""

    status, code, title, retryable = 503, "journal_unavailable", "Journal unavailable", True
    default_retry_after_s = 5.0


class StoreUnavailable(GatewayError):
    """The database does not answer."""

    status, code, title, retryable = 503, "database_unavailable", "Database unavailable", True
    default_retry_after_s = 5.0


class ManagementUnavailable(GatewayError):
    """The process of the management API does not answer; not retryable if it may have carried out the request."""

    status, code, title = 503, "management_unavailable", "Management unavailable"
    default_retry_after_s = 1.0

    def __init__(self, detail: str, *, retryable: bool = True) -> None:
        super().__init__(detail)
        self.retryable = retryable


class DeadlineExceeded(GatewayError):
    """The request's deadline passed before a provider answered."""

    status, code, title, retryable = 504, "deadline_exceeded", "Deadline exceeded", True


class RecordsRefused(Exception):
    """The database rejects at least one usage record of a batch; the writer bisects the batch to find it."""


def reason_without_key(error: Exception) -> str:
    """Return the message of one of the gateway's own errors; of any other its type, since a message can quote a key."""
    return str(error) if isinstance(error, ConfigurationError | GatewayError) else type(error).__name__
