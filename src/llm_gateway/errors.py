"""Every way the gateway refuses or fails, with the HTTP status and whether trying again can help.

GatewayError
├─ BadRequest                400  bad_request                 two different keys, a header that cannot be read
├─ NotSupported              400  not_supported               no provider can be asked for this field
├─ ProviderRefused           4xx  provider_refused            on /v1: the provider's own 400, 403, 413 or 422
├─ Unauthorized              401  unauthorized                key missing or wrong
├─ Forbidden                 403  forbidden                   key lacks the scope, host not allowed
├─ NotFound                  404  not_found                   unknown id or path
├─ UnknownModel              404  model_not_found             no enabled provider lists it
├─ MethodNotAllowed          405  method_not_allowed
├─ Conflict                  409  conflict                    name exists
├─ PayloadTooLarge           413  payload_too_large           body over 4 MiB
├─ Invalid                   422  validation_error            missing, wrong or unknown field, malformed JSON
├─ RateLimited               429  rate_limited                retry: every candidate is at its limit
├─ RequestExceedsLimit       429  request_exceeds_limit       larger than every limit, do not retry
├─ InternalError             500  internal_error              a defect of ours
├─ ProviderFailed            502  provider_error              retry: attempts were made and the last failed
├─ NoProvider                503  no_provider                 none enabled, or a pinned override is dormant
├─ ProvidersUnavailable      503  providers_unavailable       retry: every breaker is open
├─ Overloaded                503  overloaded                  retry: too many requests in flight, or stopping
├─ JournalUnavailable        503  journal_unavailable         retry: usage cannot be recorded (disk full)
├─ StoreUnavailable          503  database_unavailable        retry: the database does not answer
└─ DeadlineExceeded          504  deadline_exceeded           retry: the request's own deadline passed
ConfigurationError           exit code 78 at start, one line that says what to set
RecordsRefused               the database refuses some of the usage records of a batch (never seen by a caller)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class GatewayError(Exception):
    """A failure a caller is told about.

    `detail` is a sentence the caller can act on. `retry_after_s` (seconds, None = not said) becomes `Retry-After`
    and `retry-after-ms`. `retryable` becomes `x-should-retry`.
    """

    status: int = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: bool = False
    default_retry_after_s: ClassVar[float | None] = None
    is_recorded: bool = False
    """Whether the log has it already: in the line of the request's usage record, or as a defect."""

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s


class BadRequest(GatewayError):
    """The request contradicts itself or a header of it cannot be read."""

    status, code, title = 400, "bad_request", "Bad request"


class NotSupported(GatewayError):
    """No provider that could serve this can be asked for one of its fields."""

    status, code, title = 400, "not_supported", "Not supported"

    def __init__(self, detail: str, *, field: str) -> None:
        super().__init__(detail)
        self.field = field


class Unauthorized(GatewayError):
    """No key, or one that is not ours. Says nothing about which."""

    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(GatewayError):
    """The key is known but lacks the scope, or the Host is not one of ours."""

    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(GatewayError):
    """No such thing, or no such path."""

    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not. `allow` lists the methods that do."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, detail: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allow = allow


class Conflict(GatewayError):
    """Something of that name exists already."""

    status, code, title = 409, "conflict", "Conflict"


class PayloadTooLarge(GatewayError):
    """The body is larger than the gateway takes."""

    status, code, title = 413, "payload_too_large", "Payload too large"


class Invalid(GatewayError):
    """The body or a parameter does not fit. `errors` holds `{"loc": [...], "msg": str, "type": str}` each."""

    status, code, title = 422, "validation_error", "Invalid request"

    def __init__(self, detail: str, *, loc: tuple[str | int, ...] = ("body",), kind: str = "value_error") -> None:
        super().__init__(detail)
        self.errors: list[dict[str, object]] = [{"loc": list(loc), "msg": detail, "type": kind}]

    @classmethod
    def all_of(cls, found: Sequence[Invalid]) -> Invalid:
        """Return one error for several mistakes; `detail` names each of them."""
        together = cls(" ".join(each.detail for each in found))
        together.errors = [error for each in found for error in each.errors]
        return together


class RateLimited(GatewayError):
    """Every candidate that could serve is at its limit, here or at the provider."""

    status, code, title, retryable = 429, "rate_limited", "Rate limited", True


class RequestExceedsLimit(GatewayError):
    """The request is larger than every candidate's whole limit: trying again cannot help."""

    status, code, title = 429, "request_exceeds_limit", "Request exceeds limit"


class InternalError(GatewayError):
    """A defect of the gateway's own; the log has the cause under the request id."""


class ProviderFailed(GatewayError):
    """Attempts were made and the last one failed; not retryable when the provider found fault with the request."""

    status, code, title = 502, "provider_error", "Provider error"

    def __init__(self, detail: str, *, retryable: bool = True) -> None:
        super().__init__(detail)
        self.retryable = retryable


class ProviderRefused(GatewayError):
    """The provider found fault with what a client of its protocol asked; `status` is the provider's."""

    status, code, title = 400, "provider_refused", "Provider refused"

    def __init__(self, detail: str, *, status: int) -> None:
        super().__init__(detail)
        self.status = status


class UnknownModel(GatewayError):
    """No enabled provider lists the model asked for."""

    status, code, title = 404, "model_not_found", "Model not found"


class NoProvider(GatewayError):
    """No enabled provider, or the customer's pinned override is dormant."""

    status, code, title = 503, "no_provider", "No provider"
    default_retry_after_s = 30.0


class ProvidersUnavailable(GatewayError):
    """Every candidate's breaker is open, or it rests."""

    status, code, title, retryable = 503, "providers_unavailable", "Providers unavailable", True
    default_retry_after_s = 5.0


class Overloaded(GatewayError):
    """More requests in flight than the gateway was told to take, or it is stopping."""

    status, code, title, retryable = 503, "overloaded", "Overloaded", True
    default_retry_after_s = 5.0


class JournalUnavailable(GatewayError):
    """Usage cannot be recorded durably, so nothing billable is started."""

    status, code, title, retryable = 503, "journal_unavailable", "Journal unavailable", True
    default_retry_after_s = 5.0


class StoreUnavailable(GatewayError):
    """The database does not answer; whoever writes to it tries again later."""

    status, code, title, retryable = 503, "database_unavailable", "Database unavailable", True
    default_retry_after_s = 5.0


class DeadlineExceeded(GatewayError):
    """The request's own deadline passed before an answer came."""

    status, code, title, retryable = 504, "deadline_exceeded", "Deadline exceeded", True


class ConfigurationError(Exception):
    """The gateway refuses to start; the message is one line that says what to set."""

    exit_code: ClassVar[int] = 78


class RecordsRefused(Exception):
    """The database refuses at least one usage record of a batch: bisect, do not retry as it is."""
