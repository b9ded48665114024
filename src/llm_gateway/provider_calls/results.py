"""Results of calls to providers: whole responses, and what kept a call from one."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.providers.rate_limit_headers import reported_limits, wait_after
from llm_gateway.upstream.egress import AddressRefused
from llm_gateway.upstream.pool import RequestNotSent, UnsendableHeader
from llm_gateway.upstream.response import IncompleteResponse, Response

CAUSE_CHARACTERS = 300
"""Maximum length of a fault's message."""
FAULTS = (RequestNotSent, AddressRefused, IncompleteResponse, TimeoutError, UnsendableHeader)
"""Exceptions of `upstream` for what the network or a provider does; `result_of_fault` takes them."""


def result_of_response(response: Response) -> UpstreamResult:
    """Return a whole response as a result, with the limits and the wait that its headers report."""
    retry_after = None if response.status == 200 else wait_after(response.headers)
    limits = reported_limits(response.headers)
    body: Any = response.body  # a large one is a bytearray, which stands for bytes: a copy would take too long
    return UpstreamResult(status=response.status, body=body, retry_after_s=retry_after, limits=limits)


def result_of_fault(error: Exception) -> UpstreamResult:
    """Return one of FAULTS as a result."""
    message = str(error)[:CAUSE_CHARACTERS]
    if isinstance(error, RequestNotSent):
        return UpstreamResult(fault="not_sent", message=message, is_ours=error.is_ours)
    if isinstance(error, TimeoutError):
        return UpstreamResult(fault="timeout", message="No complete answer in time")
    return UpstreamResult(fault="broken" if isinstance(error, IncompleteResponse) else "not_sent", message=message)
