"""Schemathesis hooks that keep generated requests on this machine: the gateway calls only the mock vendor.

Schemathesis knows neither hosts nor rows, so the hooks fill them in: providers get the mock's address, overrides name
the existing provider, and that provider is never changed. Invalid values stay invalid. The quick form (`FUZZ_SAMPLE`)
tries each kind of value once, and a part of its repetitions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.specs.openapi.coverage._schema import CoverageContext

from tests.fuzz.environment import MODEL, PROVIDER, PROVIDER_ID, SAMPLE, UPSTREAM

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
IN_HEADER = "in header - object with unexpected properties"
VALID = "Valid data should have been accepted"
OF_REPORTS_AND_ROUTES = frozenset({"from", "to", "tz", "cursor", "group_by", "path"})
"""Fields whose valid texts no schema tells: dates, time zones, cursors, dimensions, and paths of requests."""
OF_BUDGETS = (
    *("is not a time zone", "limit_usd", "are both given", "must be an amount in USD", "not in the unit"),
    *("anchor", "amount_", "carry:", "until", "takes up to 10 parts"),
)
"""Words of errors for fields of budgets that depend on each other, on the time, or on the zones of this system."""
OF_ALERT_TARGETS = ("for targets of kind", "matches no event", "go together", "url must be", "password is required")
"""Words of errors for fields of alert targets that depend on the kind and on each other."""
CHANGES = frozenset({"PATCH", "DELETE"})
FEW_DRAWS = 64
"""Distinct elements that the quick form draws for an array of more."""

_URL = re.compile(r"https?://", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,251}[A-Za-z0-9])?")
_NAME = re.compile(r"(?!\s*$)[^\x00-\x1f\x7f]{1,200}")


class Sample:
    """Choice of cases: each kind of value at each field, each kind of case at each operation, and a part of the rest.

    Repetitions are other wrong types of the same field, and the same fields at other operations.
    """

    def __init__(self, one_in: int) -> None:
        self._one_in = one_in
        self._seen: set[tuple[str, ...]] = set()
        self._repeated = 0
        self.is_part = one_in > 1

    def takes(self, scenario: str, description: str, operation: str) -> bool:
        """Return True if the case is to be sent."""
        keys = {(scenario, description), (scenario, "", operation)}
        if not keys <= self._seen:
            self._seen |= keys
            return True
        self._repeated += 1
        return self._repeated % self._one_in == 0


_sample = Sample(int(os.environ.get(SAMPLE, "1")))


def _of_few_draws(draw: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Return a function that draws the distinct elements of a long array: most texts are drawn ones with a number.

    To draw a thousand texts by a pattern takes 6 s. Schemathesis draws the array anew if one of them is not valid.
    """

    def draw_few(self: Any, batch: Any, length: int) -> list[Any]:
        found = draw(self, batch, min(length, FEW_DRAWS))
        if len(found) < min(length, FEW_DRAWS) or not all(isinstance(each, str) for each in found):
            return draw(self, batch, length)
        more = (f"{found[number % len(found)]}{number}" for number in range(length))
        return list(dict.fromkeys((*found, *more)))

    return draw_few


if _sample.is_part:
    CoverageContext._draw_distinct = _of_few_draws(CoverageContext._draw_distinct)  # type: ignore[method-assign]


@schemathesis.hook
def filter_case(context: Any, case: schemathesis.Case[Any]) -> bool:
    """Return False for cases of the coverage phase that are not in the sample."""
    del context
    about = None if case.meta is None else case.meta.phase.data
    scenario, description = getattr(about, "scenario", None), getattr(about, "description", None)
    if scenario is None:  # another phase
        return True
    return _sample.takes(str(scenario), str(description), case.operation.label)


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Adjust a request before it is sent. A body that can be valid is a `dict`."""
    del context, kwargs
    if case.method in CHANGES and str((case.path_parameters or {}).get("provider_id")) == os.environ[PROVIDER_ID]:
        case.path_parameters["provider_id"] = NOBODY
    body = case.body
    if not isinstance(body, dict):
        return
    if "/configuration" in case.path:
        if isinstance(body.get("dry_run", True), bool):
            body["dry_run"] = True  # its providers could be called, and `prune` would remove the others
    elif "/providers" in case.path:
        _keep_local(body, creates=case.method == "POST")
    elif "/alert-targets" in case.path:
        _keep_here(body)
    elif "/overrides" in case.path:
        for field, variable in (("provider_name", PROVIDER), ("model_name", MODEL)):
            if isinstance(name := body.get(field), str) and _NAME.fullmatch(name):
                body[field] = os.environ[variable]


@schemathesis.hook
def filter_failure(
    context: Any, failure: Exception, case: schemathesis.Case[Any], response: schemathesis.Response
) -> bool:
    """Return False for failures that are none.

    Clients can add headers that an API does not know (RFC 9110, section 5.1). The document describes neither the
    elements of `messages`, which are those of OpenAI's chat completions, nor the protocols of each
    provider's kind, nor that aliases and limits name models of the provider, nor which keys and teams there are, nor
    what people are bound to, nor the rules between the entries of a configuration document.
    """
    del context
    if UNKNOWN_HEADER in (case.headers or {}) and str(failure).rstrip().endswith(IN_HEADER):
        return False
    if VALID not in str(failure) or response.status_code != 422:
        return True
    # The body of a request to explain is described by the operation that it is for.
    return not (case.path.endswith("/routing/explain") or _is_not_in_the_document(response.json()))


def _is_not_in_the_document(problem: dict[str, Any]) -> bool:
    return all(
        str(error["loc"][-1]).startswith("messages[")
        or "does not support the protocol" in error["msg"]
        or "is not in models" in error["msg"]
        or "with this id" in error["msg"]
        or "expires_at" in error["msg"]
        or "role own is bound" in error["msg"]
        or any(words in error["msg"] for words in (*OF_BUDGETS, *OF_ALERT_TARGETS))
        or error["loc"][-1] in OF_REPORTS_AND_ROUTES
        or error["loc"][1:2] == ["document"]
        for error in problem["errors"]
    )


def _keep_here(body: dict[str, Any]) -> None:
    """Keep tests of alert targets on this machine."""
    url, host = body.get("url"), body.get("host")
    if isinstance(url, str) and _URL.match(url):
        body["url"] = f"{os.environ[UPSTREAM]}/hook"
    if isinstance(host, str) and _HOST.fullmatch(host):
        body["host"] = "127.0.0.1"


def _keep_local(body: dict[str, Any], *, creates: bool) -> None:
    url = body.get("base_url")
    names_a_vendor = "base_url" not in body and (creates or "name" in body)
    if names_a_vendor or ("base_url" in body and url is None) or (isinstance(url, str) and _URL.match(url)):
        body["base_url"] = os.environ[UPSTREAM]
