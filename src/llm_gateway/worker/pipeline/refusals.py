"""Read a provider's error, which can come as a status, in the body of a 200 or in a stream, and report what it blames.

What it is about, what is reported, and what `failover.py` does:

    request      nothing; a size beyond the context window is learned   return it, or try a larger window, or once
                                                                        more without signed reasoning
    operation    nothing                                                try the next candidate
    model        the model's pause begins                               try the next candidate
    account      counted towards the account's pause                    try the next candidate
    temporary    429: counted by the gate; 5xx: by the breaker          try the next candidate, or the same one again
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.domain.upstream_refusal import UpstreamRefusal
from llm_gateway.providers.decoding import error_of
from llm_gateway.providers.dialect import Dialect
from llm_gateway.providers.reported_errors import MAX_CHARACTERS, reported_error, status_of
from llm_gateway.worker.pipeline.availability import Permit
from llm_gateway.worker.pipeline.routing_state import SIGNATURE, Failure, RoutingState

KEY_REFUSED, TIMED_OUT, LIMITED = 401, 408, 429
GATEWAY_TIMEOUTS = frozenset({504, 524})
"""Statuses of a proxy that gave up waiting for the provider, which may go on and bill. 524 is Cloudflare's:
https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-524/."""


class Refusal(NamedTuple):
    """A provider's error: its class, the failed attempt, and whether the provider may have billed the call."""

    refusal: UpstreamRefusal
    failure: Failure
    may_be_billed: bool


def read_refusal(
    dialect: Dialect, candidate: Candidate, result: UpstreamResult, redact: Callable[[str], str]
) -> Refusal:
    """Classify an error response. `redact` removes secrets from what the provider says."""
    refusal, status = dialect.classify_error(result), result.status
    # Redact before cutting: half a key would no longer be recognised as one.
    reason = redact(dialect.decode_error(result.body))[:MAX_CHARACTERS]
    return _refusal(refusal, candidate, f"answered {status}", reason, result, redact)


def read_reported_error(
    dialect: Dialect, candidate: Candidate, error: dict[str, Any], redact: Callable[[str], str]
) -> Refusal:
    """Classify an error that came without a status of its own, as if it had come with the status that it names."""
    status = status_of(error)
    result = UpstreamResult(status or 500, msgspec.json.encode({"error": error}))
    reason = redact(str(error.get("message") or dialect.decode_error(result.body)))[:MAX_CHARACTERS]
    what = f"reported error {status}" if status else "reported an error"
    return _refusal(dialect.classify_error(result), candidate, what, reason, result, redact)


def _refusal(
    refusal: UpstreamRefusal,
    candidate: Candidate,
    what: str,
    reason: str,
    result: UpstreamResult,
    redact: Callable[[str], str],
) -> Refusal:
    provider, status = candidate.provider, result.status
    reported = reported_error(error_of(result.body), provider.kind, status, refusal, redact)
    failure = Failure(
        redact(f"Provider {provider.name}: {what}: {reason}" if reason else f"Provider {provider.name}: {what}"),
        final=refusal.is_final,
        limited=refusal.about == "temporary" and status == LIMITED,
        account=refusal.about == "account",
        too_long=refusal.reason == "context_length",
        window=(reported.limit if reported is not None else None) or candidate.context_window,
        retry_on_same=refusal.about == "temporary",
        retry_after_s=refusal.retry_after_s or 0.0,
        status=status,
        provider=provider.name,
        cause=SIGNATURE if refusal.reason == SIGNATURE else "",
        reported=reported,
    )
    return Refusal(refusal, failure, _may_be_billed(result))


def _may_be_billed(result: UpstreamResult) -> bool:
    """Return whether the provider may have billed a call that ended with this error status.

    A 408 in the provider's own format is of the provider, which did not answer; any other is of a proxy before it.
    """
    return result.status in GATEWAY_TIMEOUTS or (result.status == TIMED_OUT and not error_of(result.body))


def report_refusal(
    read: Refusal, permit: Permit, state: RoutingState, candidate: Candidate, call: UpstreamCall, now: float
) -> None:
    """End the permit of a refused call with what the refusal blames. `now` is on the clock of the deadline."""
    refusal, failure = read.refusal, read.failure
    if failure.limited:
        state.note_limited(candidate, now + permit.limited(refusal.retry_after_s, failure.message))
    elif failure.account:
        # A 401 is about the key. A 402 or 403 may be about one prompt, so only different bodies count separately.
        request_id = state.request.id
        content = request_id.encode() if failure.status == KEY_REFUSED else call.body
        permit.refused(request_id, crc32(content), failure.message)
    elif refusal.about == "model":
        permit.model_refused(failure.message)
    elif refusal.about == "temporary" and (failure.status >= 500 or failure.status < 400):
        permit.fail(failure.message)  # but a 408 or 409 is retried without blame
    else:
        permit.release()
